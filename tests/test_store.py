"""What is saved is what is loaded, and what is broken is said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index import store
from index.manifest import FormatError, manifest_from_json, manifest_to_json
from index.store import Index, NeighborLists, load_index, save_index
from tests.conftest import SAMPLE, plain

DATA = "data/train-00000-of-00001.parquet"


def small(sample: Index, n: int = 60) -> Index:
    """The sample's first items, with a second projection."""
    projections = {"umap": sample.manifest.projections["umap"], "pca": sample.manifest.projections["umap"]}
    return Index(
        replace(sample.manifest, count=n, projections=projections, quality=None),
        sample.images[:n],
        sample.labels[:n],
        sample.source_rows[:n],
        sample.embeddings[:n],
        {"umap": sample.map[:n], "pca": -sample.map[:n]},
    )


def lists(n: int) -> NeighborLists:
    ids = (np.arange(n)[:, None] + np.arange(1, 16)) % n
    return NeighborLists(ids.astype(np.int32), np.full((n, 15), 0.5, np.float32))


@pytest.fixture
def saved(sample: Index, tmp_path: Path) -> Path:
    save_index(small(sample), lists(60), tmp_path / "index")
    return tmp_path / "index"


def same(one: Index, other: Index) -> bool:
    arrays = ("labels", "source_rows", "embeddings")
    return (
        replace(one.manifest, files={}) == replace(other.manifest, files={})
        and one.images == other.images
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
        and all(np.array_equal(one.coordinates[name], other.coordinates[name]) for name in one.coordinates)
    )


def test_saved_index_loads_unchanged(sample: Index, saved: Path) -> None:
    assert same(small(sample), load_index(saved))


def test_large_index_is_cut_into_shards(
    sample: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 20_000)
    save_index(small(sample), lists(60), tmp_path / "index")
    names = sorted(file.name for file in (tmp_path / "index/data").iterdir())
    assert len(names) > 2
    assert names[0] == f"train-00000-of-{len(names):05d}.parquet"
    assert same(small(sample), load_index(tmp_path / "index"))


def wide(sample: Index, sizes: list[int], dimension: int = 1536) -> Index:
    """An index of vectors as the largest DINOv2 gives, with images of these many bytes."""
    n = len(sizes)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, dimension), np.float32)
    return Index(
        replace(plain(sample).manifest, count=n, dimension=dimension),
        [rng.bytes(size) for size in sizes],
        sample.labels[:n],
        sample.source_rows[:n],
        rows / np.linalg.norm(rows, axis=1, keepdims=True),
        {"umap": sample.map[:n]},
    )


def groups_of(file: Path) -> list[pq.RowGroupMetaData]:
    metadata = pq.ParquetFile(file).metadata
    return [metadata.row_group(number) for number in range(metadata.num_row_groups)]


@pytest.mark.slow
def test_row_groups_and_shards_stay_small_whatever_the_images(sample: Index, tmp_path: Path) -> None:
    sizes = [500] * 4000 + [200_000] * 998 + [40_000_000, 90_000_000]  # no average fits both ends
    index = wide(sample, sizes)
    save_index(index, lists(len(index.images)), tmp_path / "index")
    files = sorted((tmp_path / "index/data").iterdir())
    assert [file.name for file in files] == [
        f"train-{n:05d}-of-{len(files):05d}.parquet" for n in range(len(files))
    ]
    assert len(files) == 2
    groups = [group for file in files for group in groups_of(file)]
    assert len(groups) > len(files)
    assert sum(group.num_rows for group in groups) == len(index.images)
    assert max(group.total_byte_size for group in groups) < 100e6
    assert max(file.stat().st_size for file in files) <= store.SHARD_BYTES
    assert same(index, load_index(tmp_path / "index"))


@pytest.mark.parametrize(
    ("sizes", "limit", "runs"),
    [
        ([1, 1, 1, 1], 2, [(0, 2), (2, 4)]),
        ([1, 1, 9, 1, 1], 3, [(0, 2), (2, 3), (3, 5)]),
        ([9], 3, [(0, 1)]),
        ([2, 2, 2], 100, [(0, 3)]),
        ([3, 1, 3], 3, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_runs_of_rows_are_cut_by_their_own_sizes(sizes: list[int], limit: int, runs: list[tuple]) -> None:
    found = [(run.start, run.stop) for run in store._cut(np.array(sizes), limit)]
    assert found == runs
    assert [(run.start, run.stop) for run in store._cut(np.array(sizes), limit, 10)] == [
        (start + 10, stop + 10) for start, stop in runs
    ]


def test_datasets_sees_images_classes_and_vectors(saved: Path, tmp_path: Path) -> None:
    from datasets import ClassLabel, Image, List, load_dataset

    rows = load_dataset(str(saved), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(rows.features["image"], Image)
    assert isinstance(rows.features["label"], ClassLabel)
    assert rows.features["label"].names == list("0123456789")
    assert isinstance(rows.features["embedding"], List)
    assert rows.features["embedding"].length == 192
    assert rows[3]["image"].size == (28, 28)
    assert rows[3]["neighbors"]["ids"] == list(range(4, 19))
    assert set(rows.column_names) >= {"x", "y", "pca_x", "pca_y", "source_row"}


def test_pandas_reads_the_file_alone(saved: Path) -> None:
    frame = pa.parquet.read_table(saved / DATA).to_pandas()
    assert len(frame) == 60
    assert np.linalg.norm(frame["embedding"][0]) == pytest.approx(1, abs=1e-5)


def test_index_of_wrong_shape_is_refused(sample: Index) -> None:
    good = small(sample)
    with pytest.raises(FormatError, match=r"embeddings has shape \(60, 3\), expected \(60, 192\)"):
        replace(good, embeddings=good.embeddings[:, :3])
    with pytest.raises(FormatError, match=r"coordinates of pca has shape None, expected \(60, 2\)"):
        replace(good, coordinates={"umap": good.map})


def rewrite(folder: Path, change) -> None:
    """Writes the shard again with one column changed, as a faulty program would."""
    table = pq.read_table(folder / DATA)
    pq.write_table(change(table), folder / DATA)


def with_column(name: str, make):
    return lambda table: table.set_column(table.column_names.index(name), name, make(table[name]))


def bad_embeddings(change):
    def make(column: pa.ChunkedArray) -> pa.Array:
        matrix = column.combine_chunks().flatten().to_numpy().reshape(60, -1).copy()
        changed = change(matrix)
        return pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(changed).ravel()), changed.shape[1]
        )

    return with_column("embedding", make)


def poison(matrix: np.ndarray) -> np.ndarray:
    matrix[7, 3] = np.nan
    return matrix


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (bad_embeddings(lambda matrix: 2 * matrix), "length 2, expected 1"),
        (bad_embeddings(poison), "item 7 has length nan"),
        (bad_embeddings(lambda matrix: matrix[:, :100]), "expected a list of 192"),
        (
            with_column("label", lambda column: pa.array([99] * 60)),
            "labels run from 99 to 99, expected 0 to 9",
        ),
        (with_column("x", lambda column: pa.array([np.inf] * 60, pa.float32())), "not all finite"),
        (lambda table: table.slice(0, 50), r"shape \(50,\), expected \(60,\)"),
        (lambda table: table.drop_columns("source_row"), "no column source_row"),
        (with_column("label", lambda column: pa.array(["seven"] * 60)), "column label has type string"),
        (with_column("y", lambda column: pa.nulls(60, pa.float32())), "column y has 60 gaps"),
    ],
    ids=["not unit", "nan", "dimension", "label", "infinite", "rows", "column", "text", "gaps"],
)
def test_broken_data_is_named(saved: Path, change, words: str) -> None:
    rewrite(saved, change)
    with pytest.raises(FormatError, match=words):
        load_index(saved)


def test_truncated_parquet_is_named(saved: Path) -> None:
    data = (saved / DATA).read_bytes()
    (saved / DATA).write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"train-00000-of-00001\.parquet cannot be read"):
        load_index(saved)


def test_missing_shard_is_named(saved: Path) -> None:
    (saved / DATA).unlink()
    with pytest.raises(FormatError, match="is missing"):
        load_index(saved)


def test_folder_without_manifest_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not an index"):
        load_index(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "format_version 99, this program reads 1"),
        ({"count": "many"}, "wrong at count"),
        ({"classes": 3}, "wrong at classes"),
        ({"model": {"id": "other/model", "revision": "x"}}, "another model"),
    ],
)
def test_unreadable_manifest_is_named(change: dict, words: str) -> None:
    text = (SAMPLE / "manifest.json").read_text()
    with pytest.raises(FormatError, match=words):
        manifest_from_json(json.dumps(json.loads(text) | change))


def test_manifest_of_the_first_program_still_loads() -> None:
    old = json.loads((SAMPLE / "manifest.json").read_text())
    for name in ("quality", "evaluation", "calibration", "familiarity"):
        old.pop(name, None)
    old["model"].pop("pooling", None)
    for projection in old["projections"].values():
        projection.pop("metrics", None)
        projection.pop("seconds", None)
    manifest = manifest_from_json(json.dumps(old))
    assert manifest.model.pooling == "cls"
    assert manifest.quality is None
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "not json"])
def test_file_that_is_no_manifest_is_named(text: str) -> None:
    with pytest.raises(FormatError, match="not a manifest"):
        manifest_from_json(text)
