"""The data files are read by whatever reads Parquet, with images, classes, vectors and neighbors."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import duckdb
import httpx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from index.manifest import EmbeddingDtype
from index.search import neighbors_of_items
from index.store import Index, NeighborLists, as_stored, load_index, save_index
from tests.conftest import ROOT, plain
from tests.server import free_port, wait_for

COUNT = 400
DTYPES = ("float32", "float16")
CLASSES = list("0123456789")


@dataclass(frozen=True)
class Saved:
    """An index on disk, and its files as a pattern."""

    folder: Path
    index: Index
    neighbors: NeighborLists
    dtype: EmbeddingDtype

    @property
    def file(self) -> Path:
        (file,) = (self.folder / "data").iterdir()
        return file


def save(sample: Index, folder: Path, dtype: EmbeddingDtype) -> Saved:
    """Every twelfth digit or so, saved as a build does: its neighbors are those of the stored vectors."""
    items = np.linspace(0, 4999, COUNT).astype(int)
    index = Index(
        replace(plain(sample).manifest, count=COUNT, embedding_dtype=dtype),
        [sample.images[item] for item in items],
        sample.labels[items],
        sample.source_rows[items],
        as_stored(sample.embeddings[items], dtype),
        {"umap": sample.map[items]},
    )
    parts = list(neighbors_of_items(index.embeddings, np.arange(COUNT), 15))
    ids, similarities = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    neighbors = NeighborLists(ids, (1 - similarities).astype(np.float32))
    save_index(index, neighbors, folder)
    return Saved(folder, index, neighbors, dtype)


@pytest.fixture(scope="module", params=DTYPES)
def saved(request: pytest.FixtureRequest, sample: Index, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save(sample, tmp_path_factory.mktemp(request.param) / "index", request.param)


def assert_same(saved: Saved, vectors: NDArray, labels: NDArray, picture: dict, ids: NDArray) -> None:
    """Vectors (n, d), labels (n,), the image of item 7 and neighbors (n, 15) against the index."""
    read = vectors.astype(np.float32)
    if saved.dtype == "float16":  # stored as rounded; what is loaded has length 1 again
        lengths = np.linalg.norm(read, axis=1, keepdims=True)
        assert np.abs(lengths - 1).max() <= 2**-11  # half a step of float16
        read /= lengths
    assert np.abs(read - saved.index.embeddings).max() <= (0 if saved.dtype == "float32" else 2e-7)
    assert np.array_equal(labels, saved.index.labels)
    assert picture["bytes"] == saved.index.images[7]
    assert Image.open(BytesIO(picture["bytes"])).size == (28, 28)
    assert np.array_equal(ids, saved.neighbors.ids)


def test_pandas_reads_it(saved: Saved) -> None:
    frame = pd.read_parquet(saved.folder / "data")
    vectors = np.stack(frame["embedding"])
    assert vectors.dtype == saved.dtype
    ids = np.stack([near["ids"] for near in frame["neighbors"]])
    assert_same(saved, vectors, frame["label"].to_numpy(), frame["image"][7], ids)


def test_polars_reads_it(saved: Saved) -> None:
    frame = pl.read_parquet(saved.folder / "data/*.parquet")
    assert frame.schema["embedding"] == pl.Array(getattr(pl, saved.dtype.title()), 192)
    ids = np.array(frame["neighbors"].struct.field("ids").to_list())
    vectors = frame["embedding"].cast(pl.Array(pl.Float32, 192)).to_numpy()
    assert_same(saved, vectors, frame["label"].to_numpy(), frame["image"][7], ids)
    assert frame.filter(pl.col("label") == 7).height == (saved.index.labels == 7).sum()


def test_duckdb_reads_it(saved: Saved) -> None:
    rows = duckdb.sql(f"select * from '{saved.folder}/data/*.parquet'")
    types = dict(zip(rows.columns, map(str, rows.types), strict=True))
    assert types["embedding"] == "FLOAT[]"
    assert types["image"] == "STRUCT(bytes BLOB, path VARCHAR)"
    assert types["neighbors"] == "STRUCT(ids INTEGER[], distances FLOAT[])"
    found = rows.fetchall()
    column = {name: [row[place] for row in found] for place, name in enumerate(rows.columns)}
    ids = np.array([near["ids"] for near in column["neighbors"]])
    assert_same(saved, np.array(column["embedding"]), np.array(column["label"]), column["image"][7], ids)


def test_datasets_reads_it_with_its_types(saved: Saved, tmp_path: Path) -> None:
    from datasets import ClassLabel, List, Value, load_dataset
    from datasets import Image as ImageFeature

    rows = load_dataset(str(saved.folder), split="train", cache_dir=str(tmp_path))
    assert rows.features["embedding"] == List(Value(saved.dtype), length=192)
    assert isinstance(rows.features["image"], ImageFeature)
    assert rows.features["label"] == ClassLabel(names=CLASSES)
    assert rows[7]["image"].size == (28, 28)
    vectors = np.array(rows.with_format("numpy")["embedding"][:])
    picture = rows.cast_column("image", ImageFeature(decode=False))[7]["image"]
    ids = np.array([row["ids"] for row in rows["neighbors"][:]])
    assert_same(saved, vectors, np.array(rows["label"][:]), picture, ids)


CLASS_NAMES: dict[str, Callable[[Path], str]] = {
    "pandas": lambda file: pq.read_schema(file).metadata[b"huggingface"].decode(),
    "polars": lambda file: pl.read_parquet_metadata(file)["huggingface"],
    "duckdb": lambda file: duckdb.sql(
        f"select decode(value) from parquet_kv_metadata('{file}') where decode(key) = 'huggingface'"
    ).fetchall()[0][0],
}


@pytest.mark.parametrize("tool", CLASS_NAMES)
def test_class_names_are_in_the_file(saved: Saved, tool: str) -> None:
    info = json.loads(CLASS_NAMES[tool](saved.file))["info"]
    assert info["features"]["label"]["names"] == CLASSES


NEAREST = """
with vectors as (select file_row_number as item, embedding from read_parquet('{file}', file_row_number=true))
select query.item, other.item, 1 - list_cosine_similarity(query.embedding, other.embedding) as distance
from vectors query join vectors other on query.item != other.item
qualify row_number() over (partition by query.item order by distance, other.item) <= 15
order by query.item, distance, other.item
"""


def test_nearest_neighbors_in_sql_are_ours(saved: Saved) -> None:
    found = duckdb.sql(NEAREST.format(file=saved.file)).fetchnumpy()
    ids, distances = found["item_1"].reshape(COUNT, 15), found["distance"].reshape(COUNT, 15)
    assert np.allclose(distances, saved.neighbors.distances, atol=2e-6)
    swapped = ids != saved.neighbors.ids  # two neighbors as near as float32 can tell may stand either way
    assert np.allclose(distances[swapped], saved.neighbors.distances[swapped], atol=5e-7)
    assert swapped.mean() < 0.001


def test_pandas_shows_the_class_of_a_row(saved: Saved) -> None:
    frame = pd.read_parquet(saved.folder / "data")
    names = json.loads(CLASS_NAMES["pandas"](saved.file))["info"]["features"]["label"]["names"]
    assert frame["label"].map(dict(enumerate(names)))[7] == saved.index.class_of(7)


OPEN_ATLAS = "embedding-atlas data.parquet --x x --y y --image image --neighbors neighbors"


@contextmanager
def running_atlas(file: Path, log: Path) -> Iterator[str]:
    """Starts Embedding Atlas on a data file and yields its address once the page is served."""
    port = free_port()
    command = OPEN_ATLAS.replace("data.parquet", str(file)) + f" --host 127.0.0.1 --port {port}"
    with log.open("w") as output:
        process = subprocess.Popen(command.split(), stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for(f"http://127.0.0.1:{port}/", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("embedding-atlas") is None, reason="embedding-atlas is not on the PATH")
def test_embedding_atlas_opens_it_with_images_and_neighbors(saved: Saved, tmp_path: Path) -> None:
    sql = "select neighbors.ids as ids, hex(image.bytes) as image from dataset where __row_index__ = 7"
    with running_atlas(saved.file, tmp_path / "log") as url:
        shown = httpx.get(f"{url}/data/metadata.json").json()["props"]["data"]
        (row,) = httpx.post(f"{url}/data/query", json={"type": "json", "sql": sql}, timeout=30).json()
    assert (shown["image"], shown["neighbors"]) == ("image", "neighbors")
    assert row["ids"] == saved.neighbors.ids[7].tolist()
    assert bytes.fromhex(row["image"]) == saved.index.images[7]


def test_readme_opens_embedding_atlas_with_the_tested_command() -> None:
    assert OPEN_ATLAS.replace("data.parquet", "DIR/data/train-*.parquet") in (ROOT / "README.md").read_text(
        "utf-8"
    )


# ---- Half the size


def test_half_precision_loads_as_what_was_measured(sample: Index, tmp_path: Path) -> None:
    half = save(sample, tmp_path / "half", "float16")
    loaded = load_index(half.folder)
    assert loaded.embeddings.dtype == np.float32
    assert np.array_equal(loaded.embeddings, half.index.embeddings)
    assert np.allclose(np.linalg.norm(loaded.embeddings, axis=1), 1, atol=1e-6)


def test_half_precision_is_saved_again_without_loss(sample: Index, tmp_path: Path) -> None:
    once = save(sample, tmp_path / "once", "float16")
    save_index(load_index(once.folder), once.neighbors, tmp_path / "twice")
    assert (tmp_path / "twice/data" / once.file.name).read_bytes() == once.file.read_bytes()


def test_half_precision_halves_the_embeddings(sample: Index, tmp_path: Path) -> None:
    size = {}
    for dtype in DTYPES:
        group = pq.ParquetFile(save(sample, tmp_path / dtype, dtype).file).metadata.row_group(0)
        columns = [group.column(place) for place in range(group.num_columns)]
        (column,) = [each for each in columns if each.path_in_schema.startswith("embedding")]
        size[dtype] = column.total_compressed_size
    assert size["float16"] / size["float32"] == pytest.approx(0.5, abs=0.01)


def test_half_precision_keeps_the_neighbors(sample: Index, tmp_path: Path) -> None:
    found = {dtype: save(sample, tmp_path / dtype, dtype).neighbors.ids[:, :10] for dtype in DTYPES}
    pairs = zip(found["float32"], found["float16"], strict=True)
    assert np.mean([len(set(one) & set(other)) / 10 for one, other in pairs]) > 0.995
