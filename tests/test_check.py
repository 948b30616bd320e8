"""`check` finds every broken promise, says which in one line, and fails."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.check import check_index
from index.manifest import FormatError, Metrics, manifest_from_json, manifest_to_json
from index.quality import knn_accuracy, nearest_items, silhouette
from index.search import neighbors_of_items
from index.store import Index, NeighborLists, file_sha256, save_index
from tests.conftest import MODEL, ROOT, SAMPLE

DATA = "data/train-00000-of-00001.parquet"
COUNT = 200


def measured(index: Index) -> Index:
    """The index with the figures that `check` measures again."""
    nearest = nearest_items(index.embeddings, np.arange(COUNT), 20)
    on_map = silhouette(index.map, index.labels, "euclidean")
    metrics = Metrics(COUNT, 20, knn_accuracy=knn_accuracy(nearest, index.labels), silhouette_map=on_map)
    return replace(index, manifest=replace(index.manifest, metrics=metrics))


@pytest.fixture
def saved(sample: Index, tmp_path: Path) -> Path:
    items = np.arange(0, 5000, 25)
    umap = {"umap": sample.manifest.projections["umap"]}
    index = Index(
        replace(sample.manifest, count=COUNT, projections=umap, quality=None),
        [sample.images[item] for item in items],
        sample.labels[items],
        sample.source_rows[items],
        sample.embeddings[items],
        {"umap": sample.map[items]},
    )
    ((ids, similarities),) = neighbors_of_items(index.embeddings, np.arange(COUNT), 15)
    save_index(measured(index), NeighborLists(ids, 1 - similarities.astype(np.float32)), tmp_path / "index")
    return tmp_path / "index"


def change_manifest(folder: Path, **changes) -> None:
    manifest = manifest_from_json((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(manifest_to_json(replace(manifest, **changes)))


def change_data(folder: Path, change) -> None:
    """Changes the table and makes the checksum right again: only a look at the content can tell."""
    pq.write_table(change(pq.read_table(folder / DATA)), folder / DATA)
    change_manifest(folder, files={DATA: file_sha256(folder / DATA)})


def failure(folder: Path, model: Path | None = None) -> str:
    with pytest.raises(FormatError) as caught:
        list(check_index(folder, str(model) if model else None))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sound_index_is_verified_point_by_point(saved: Path) -> None:
    lines = list(check_index(saved))
    for word in (
        "manifest",
        "checksums",
        "unit",
        "labels",
        "source rows",
        "images",
        "neighbors",
        "metrics",
        "model",
    ):
        assert sum(word in line for line in lines) >= 1, word
    assert not any("NOT" in line for line in lines)


def test_flipped_byte_is_found(saved: Path) -> None:
    data = bytearray((saved / DATA).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / DATA).write_bytes(data)
    assert "checksum" in failure(saved)


def test_truncated_file_is_found(saved: Path) -> None:
    (saved / DATA).write_bytes((saved / DATA).read_bytes()[:1000])
    assert DATA in failure(saved)


def test_exchanged_images_are_found(saved: Path) -> None:
    def swap(table):
        return table.set_column(0, "image", table["image"].combine_chunks().take(np.arange(COUNT)[::-1]))

    change_data(saved, swap)
    assert "embedded again differ" in failure(saved)


def test_broken_image_is_found(saved: Path) -> None:
    def spoil(table):
        images = table["image"].to_pylist()
        images[5]["bytes"] = images[5]["bytes"][:60]
        return table.set_column(0, "image", pa.array(images, table.schema.field("image").type))

    change_data(saved, spoil)
    assert "image of item 5 cannot be decoded" in failure(saved)


def test_wrong_neighbors_are_found(saved: Path) -> None:
    def shuffle(table):
        place = table.column_names.index("neighbors")
        column = table["neighbors"].combine_chunks().take(np.roll(np.arange(COUNT), 1))
        return table.set_column(place, "neighbors", column)

    change_data(saved, shuffle)
    assert "neighbors of item" in failure(saved)


def test_repeated_rows_are_found(saved: Path) -> None:
    def repeat(table):
        place = table.column_names.index("source_row")
        return table.set_column(place, "source_row", table["source_row"].combine_chunks().take([0] * COUNT))

    change_data(saved, repeat)
    assert "source rows repeat" in failure(saved)


def test_embellished_metric_is_found(saved: Path) -> None:
    manifest = manifest_from_json((saved / "manifest.json").read_text())
    change_manifest(saved, metrics=replace(manifest.metrics, knn_accuracy=0.9999))
    assert "the manifest says 0.9999" in failure(saved)


def test_other_model_is_found(saved: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    torch.manual_seed(1)
    model = AutoModel.from_pretrained(MODEL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(tmp_path / "other")
    shutil.copy(MODEL / "preprocessor_config.json", tmp_path / "other")
    assert "the embeddings are of assets/model" in failure(saved, tmp_path / "other")


def test_renamed_model_is_found(saved: Path) -> None:
    text = json.loads((saved / "manifest.json").read_text())
    text["model"]["revision"] = "0" * 40
    (saved / "manifest.json").write_text(json.dumps(text))
    assert "another model or preparation" in failure(saved)


def test_absent_model_is_said_and_is_no_broken_promise(saved: Path) -> None:
    assert "NOT verified" in list(check_index(saved, "no/such-model"))[-1]


def test_command_prints_what_it_verified() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "index", "check", SAMPLE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 10
    assert done.stdout.endswith("keeps its promises.\n")


@pytest.mark.parametrize("spoil", ["manifest", "data", "folder"])
def test_command_fails_with_one_line(saved: Path, spoil: str) -> None:
    if spoil == "manifest":
        change_manifest(saved, format_version=7)
    elif spoil == "data":
        (saved / DATA).write_bytes(b"")
    else:
        saved = saved / "nowhere"
    done = subprocess.run(
        [sys.executable, "-m", "index", "check", saved], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
