"""The dataset card of an index, made from its manifest, and the picture of its map."""

import re
import shlex
from io import BytesIO
from pathlib import Path
from string import Template

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from index.figures import describe_evaluation, describe_metrics
from index.manifest import DEFAULT_PROJECTION, Manifest
from index.store import LISTED_NEIGHBORS, load_manifest, read_table

TEMPLATE = Path(__file__).with_name("card.md")
CARD = "README.md"
PICTURE = "map.png"
HERE = "path/to/this/folder"  # what the snippet loads before the index has an id on the Hub

EMBEDDING = {  # how each type of embeddings is described
    "float32": "of length 1: the dot product of two is their cosine similarity",
    "float16": "of length 1, the dot product of two their cosine similarity, both within 0.0003",
}
PICTURE_SIZE = (800, 600)
PICTURE_POINTS = 20_000  # more would only cover each other
PICTURE_NAMES = 20  # up to this many classes are named on the picture
SMOOTH = 2  # drawn this much larger, then reduced
# The colors of ui/palette.py (Petroff 2021), which an index must not import
PICTURE_COLORS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)

# What the Hub accepts as `license`; any other license is named beside `license: other`
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
    bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
    cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2
    llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
    open-mdw openrail openrail++ osl-3.0 pddl postgresql unknown unlicense wtfpl zlib
    """.split()  # noqa: SIM905
)


def write_card(manifest: Manifest, folder: Path) -> None:
    """Writes README.md, which the Hub shows and `datasets` reads, and map.png into the index's folder."""
    (folder / CARD).write_text(make_card(manifest), encoding="utf-8")
    (folder / PICTURE).write_bytes(draw_map(folder))


def make_card(manifest: Manifest, location: str = HERE, tag: str | None = None) -> str:
    """The card's text: front matter, then what the index is, holds and scored, and how to load `location`."""
    source = manifest.source
    figures = describe_metrics(manifest) + describe_evaluation(manifest)
    rows = "\n".join(f"| {name} | {value} | {meaning} |" for name, value, meaning in figures)
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=manifest.title,
        count=f"{manifest.count:,}",
        classes=f"{len(manifest.classes):,}",
        dimension=manifest.dimension,
        embedding_dtype=manifest.embedding_dtype,
        embedding=EMBEDDING[manifest.embedding_dtype],
        model=manifest.model.name,
        model_revision=manifest.model.revision,
        source=_source_link(manifest),
        split=source.split,
        rows=f"{source.rows:,}",
        note=f"\n{source.note}\n" if source.note else "",
        license=source.license or "not stated by the source",
        seed=manifest.seed,
        projection=_projection(manifest, DEFAULT_PROJECTION),
        projections=_other_projections(manifest),
        judged=_JUDGED if manifest.quality else "",
        pooled=_POOLED[manifest.model.pooling],
        listed=min(LISTED_NEIGHBORS, manifest.count - 1),
        metrics=rows,
        load=f'{_quoted(location)}, split="train"' + (f", revision={_quoted(tag)}" if tag else ""),
        command=_command(manifest),
    )
    front = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{text}"


def draw_map(folder: Path) -> bytes:
    """A picture of an index's map, as PNG: its items in the colors of their classes, and their names."""
    manifest = load_manifest(folder)
    table = read_table(folder, manifest, ["x", "y", "label"])
    points = _on_canvas(np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1))
    labels = table["label"].to_numpy()
    width, height = PICTURE_SIZE
    image = Image.new("RGB", (width * SMOOTH, height * SMOOTH), "white")
    _draw_points(ImageDraw.Draw(image), points, labels, manifest.seed)
    image = image.resize(PICTURE_SIZE, Image.Resampling.BOX)
    if 1 < len(manifest.classes) <= PICTURE_NAMES:
        _draw_names(ImageDraw.Draw(image), points / SMOOTH, labels, manifest.classes)
    stream = BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


# ---- Front matter


def _front_matter(manifest: Manifest) -> dict:
    source = manifest.source
    front = _license(source.license) | {
        "pretty_name": f"{manifest.title}, embedded with DINOv2",
        "size_categories": [size_category(manifest.count)],
        "task_categories": ["image-feature-extraction"],
        "tags": ["image-similarity", "image-search", "embeddings", "dinov2", "umap", "embedding-atlas"],
    }
    if source.revision:  # only what came from the Hub has one
        front["source_datasets"] = [source.id]
    files = [{"split": "train", "path": "data/train-*.parquet"}]
    return front | {"configs": [{"config_name": "default", "data_files": files}]}


def size_category(count: int) -> str:
    """The Hub's name for a number of rows, such as 1K<n<10K."""
    if count < 1000:
        return "n<1K"
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B")
    place = len(str(count)) - 4
    return f"{bounds[place]}<n<{bounds[place + 1]}"


def _license(name: str | None) -> dict[str, str]:
    if name is None:
        return {"license": "unknown"}
    if name.lower() in LICENSES:
        return {"license": name.lower()}
    return {"license": "other", "license_name": re.sub(r"[^\w.]+", "-", name.lower()).strip("-") or "other"}


# ---- Text


def _source_link(manifest: Manifest) -> str:
    source = manifest.source
    if not source.revision:
        return f"`{source.id}`"
    link = f"https://huggingface.co/datasets/{source.id}/tree/{source.revision}"
    return f"[{source.id}]({link}) at revision `{source.revision}`"


def _projection(manifest: Manifest, name: str) -> str:
    projection = manifest.projections[name]
    settings = ", ".join(f"{key} {value}" for key, value in projection.parameters.items())
    return projection.method.upper() + (f" ({settings})" if settings else "")


def _other_projections(manifest: Manifest) -> str:
    return "".join(
        f"\n| `{name}_x`, `{name}_y` | float32, its place on another map: {_projection(manifest, name)} |"
        for name in manifest.projections
        if name != DEFAULT_PROJECTION
    )


_POOLED = {
    "cls": "the L2-normalised CLS vector of a\nDINOv2 model",
    "mean": "the L2-normalised mean of the\npatch vectors of a DINOv2 model",
    "both": "the CLS vector of a DINOv2 model\nand the mean of its patch vectors, both L2-normalised",
}
_JUDGED = """
| `predicted` | the class that its 20 nearest other rows vote for |
| `predicted_share` | float32, the share of the vote that this class got |"""


def _quoted(text: str) -> str:
    """A Python string in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _command(manifest: Manifest) -> str:
    """The command line that makes this index once more."""
    source, projection = manifest.source, manifest.projections[DEFAULT_PROJECTION]
    place = source.id if source.revision else f"path/to/{source.id}"
    options = {
        "source-revision": source.revision,
        "split": source.split,
        "image-column": source.image_column,
        "label-column": source.label_column,
        "limit": source.limit,
        "seed": manifest.seed,
        "model": _model_place(manifest),
        "revision": manifest.model.revision,
        "pooling": manifest.model.pooling if manifest.model.pooling != "cls" else None,
        "n-neighbors": projection.parameters.get("n_neighbors"),
        "min-dist": projection.parameters.get("min_dist"),
        "embedding-dtype": None if manifest.embedding_dtype == "float32" else manifest.embedding_dtype,
        "title": manifest.title,
        "out": "path/to/index",
    }
    given = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
    lines = [shlex.join(["python", "-m", "index", "build", place]), *(shlex.join(pair) for pair in given)]
    return " \\\n  ".join(lines)


def _model_place(manifest: Manifest) -> str:
    """What --model is given: a Hub id or a folder of the project as they are, of other folders the name."""
    name = manifest.model.name
    return name if "/" in name else f"path/to/{name}"


# ---- Picture


def _on_canvas(coordinates: NDArray[np.float32]) -> NDArray[np.float64]:
    """Coordinates (n, 2) as places on the enlarged canvas, in proportion, y upwards, within a margin."""
    size = np.array(PICTURE_SIZE) * SMOOTH
    low, high = coordinates.min(0).astype(float), coordinates.max(0).astype(float)
    scale = (0.92 * size / np.maximum(high - low, 1e-9)).min()
    return size / 2 + (coordinates - (low + high) / 2) * scale * [1, -1]


def _draw_points(
    draw: ImageDraw.ImageDraw, points: NDArray[np.float64], labels: NDArray[np.int64], seed: int
) -> None:
    """The points in a random order, so that no class lies on top of the others."""
    radius = SMOOTH * (3 if len(points) <= 1000 else 2 if len(points) <= 6000 else 1.3)
    for item in np.random.default_rng(seed).permutation(len(points))[:PICTURE_POINTS]:
        color = PICTURE_COLORS[labels[item] % len(PICTURE_COLORS)]
        draw.circle(tuple(points[item]), radius, fill=color)


def _draw_names(
    draw: ImageDraw.ImageDraw,
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
) -> None:
    """Every class's name at the median of its points."""
    font = ImageFont.load_default(18)
    for label in np.unique(labels):
        middle = tuple(np.median(points[labels == label], axis=0))
        name = classes[label][:24]
        draw.text(middle, name, fill="#111111", font=font, anchor="mm", stroke_width=3, stroke_fill="white")
