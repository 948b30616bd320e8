"""The dataset card of an index, made from its manifest."""

from pathlib import Path
from string import Template

import yaml

from index.manifest import Manifest
from index.quality import describe_metrics

TEMPLATE = Path(__file__).with_name("card.md")


def write_card(manifest: Manifest, folder: Path) -> None:
    """Writes README.md, which the Hub shows and the `datasets` library reads, into the index's folder."""
    (folder / "README.md").write_text(make_card(manifest), encoding="utf-8")


def make_card(manifest: Manifest) -> str:
    """The card's text: front matter, then what the index is, holds, and scored."""
    source = manifest.source
    front = {
        "license": source.license or "unknown",
        "pretty_name": f"{manifest.title}, embedded with DINOv2",
        "task_categories": ["image-feature-extraction"],
        "tags": ["image-similarity", "embeddings", "dinov2", "umap"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
        ],
    }
    rows = "\n".join(
        f"| {name} | {value} | {meaning} |" for name, value, meaning in describe_metrics(manifest)
    )
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=manifest.title,
        count=f"{manifest.count:,}",
        dimension=manifest.dimension,
        model=manifest.model.id,
        model_revision=manifest.model.revision,
        source=source.id,
        split=source.split,
        rows=f"{source.rows:,}",
        note=f"\n{source.note}\n" if source.note else "",
        license=source.license or "not stated by the source",
        seed=manifest.seed,
        metrics=rows,
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{text}"
