"""The index in memory and on disk."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from index.manifest import (
    DEFAULT_PROJECTION,
    EmbeddingDtype,
    FormatError,
    Manifest,
    manifest_from_json,
    manifest_to_json,
)

MANIFEST = "manifest.json"
SHARD_BYTES = 256 * 2**20
ROW_GROUP_BYTES = 64 * 2**20  # the Hub's viewer wants less than 100 MB
LISTED_NEIGHBORS = 15  # how many neighbors the neighbors column lists
SHARD = "data/train-"  # how the names of the items' files begin; data/ may hold others
HELD_OUT = (
    "data/held_out-00000-of-00001.parquet"  # the card's `configs` leave it out of what loads by default
)


@dataclass(frozen=True)
class Index:
    """A set of embedded images, all in the order of their item numbers.

    images: n encoded image files; labels: (n,) int32 class numbers; source_rows: (n,) int32;
    embeddings: (n, d) float32 unit rows; coordinates: {projection: (n, 2) float32}. With several classes,
    predicted: (n,) int32, what the others vote an item to be, and predicted_share: (n,) float32, the share
    of the vote that it got. Raises FormatError where the shapes disagree.
    """

    manifest: Manifest
    images: list[bytes]
    labels: NDArray[np.int32]
    source_rows: NDArray[np.int32]
    embeddings: NDArray[np.float32]
    coordinates: dict[str, NDArray[np.float32]]
    predicted: NDArray[np.int32] | None = None
    predicted_share: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n, d = self.manifest.count, self.manifest.dimension
        shapes = {
            "images": ((len(self.images),), (n,)),
            "labels": (self.labels.shape, (n,)),
            "source_rows": (self.source_rows.shape, (n,)),
            "embeddings": (self.embeddings.shape, (n, d)),
        }
        for name, column in (("predicted", self.predicted), ("predicted_share", self.predicted_share)):
            if column is not None:
                shapes[name] = (column.shape, (n,))
        for name in self.manifest.projections:
            found = self.coordinates[name].shape if name in self.coordinates else None
            shapes[f"coordinates of {name}"] = (found, (n, 2))
        for name, (found, due) in shapes.items():
            if found != due:
                raise FormatError(f"{name} has shape {found}, expected {due}")

    @property
    def map(self) -> NDArray[np.float32]:
        """The default projection's coordinates, (n, 2)."""
        return self.coordinates[DEFAULT_PROJECTION]

    def class_of(self, item: int) -> str:
        return self.manifest.classes[self.labels[item]]


@dataclass(frozen=True)
class NeighborLists:
    """Every item's nearest others, best first: ids (n, k) int32, distances = 1 - cosine (n, k) float32."""

    ids: NDArray[np.int32]
    distances: NDArray[np.float32]


@dataclass(frozen=True)
class HeldOutItem:
    """An item that was not in the index, as it was judged by it.

    `nearest` is its nearest item, at that similarity. `leak` is the item that it is a duplicate of; only then
    is there an `image`, an encoded file.
    """

    source_row: int
    label: int
    predicted: int
    predicted_share: float
    nearest: int
    similarity: float
    leak: int | None = None
    image: bytes | None = None


def save_index(index: Index, neighbors: NeighborLists, folder: Path) -> None:
    """Writes the Parquet shards and the manifest into `folder`, which must not hold an index yet.

    Files beside the shards that the manifest names stay named: they are the caller's to bring along.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    row_bytes = _row_bytes(index)
    shards = list(_cut(row_bytes, SHARD_BYTES))
    files = {name: due for name, due in index.manifest.files.items() if not name.startswith(SHARD)}
    for number, rows in enumerate(shards):
        name = f"{SHARD}{number:05d}-of-{len(shards):05d}.parquet"
        groups = _cut(row_bytes[rows], ROW_GROUP_BYTES, rows.start)
        _write_shard(folder / name, (_table(index, neighbors, group) for group in groups))
        files[name] = file_sha256(folder / name)
    (folder / MANIFEST).write_text(manifest_to_json(replace(index.manifest, files=files)), encoding="utf-8")


def as_stored(embeddings: NDArray[np.float32], dtype: EmbeddingDtype) -> NDArray[np.float32]:
    """The unit rows (n, d) that `load_index` gives back for `embeddings` saved as `dtype`.

    What is listed and measured at build time is of these, so that a reader finds the same.
    """
    if dtype == "float32":
        return embeddings
    rounded = embeddings.astype(dtype).astype(np.float32)
    return rounded / _lengths(rounded)[:, None]


def load_index(folder: Path) -> Index:
    """The index in `folder`. Raises FormatError where a file is missing, truncated or not as promised."""
    manifest = load_manifest(folder)
    names = ["image", "label", "source_row", "embedding", "x", "y"]
    names += [
        f"{name}_{axis}" for name in manifest.projections if name != DEFAULT_PROJECTION for axis in "xy"
    ]
    judged = [name for name in ("predicted", "predicted_share") if manifest.quality is not None]
    table = read_table(folder, manifest, names + judged)
    embeddings = _unit_rows(table["embedding"], manifest)
    return Index(
        manifest=manifest,
        images=pa.compute.struct_field(table["image"], "bytes").to_pylist(),
        labels=_class_numbers(table, "label", manifest),
        source_rows=_numbers(table, "source_row", pa.int32()),
        embeddings=embeddings,
        coordinates={name: _coordinates(table, name) for name in manifest.projections},
        predicted=_class_numbers(table, "predicted", manifest) if judged else None,
        predicted_share=_numbers(table, "predicted_share", pa.float32()) if judged else None,
    )


def read_neighbors(folder: Path) -> NeighborLists:
    """The listed neighbors of every item of the index in `folder`. Raises FormatError."""
    manifest = load_manifest(folder)
    column = read_table(folder, manifest, ["neighbors"])["neighbors"].combine_chunks()
    k = min(LISTED_NEIGHBORS, manifest.count - 1)
    fields = []
    for name in ("ids", "distances"):
        flat = column.field(name).flatten().to_numpy(zero_copy_only=False)
        if flat.size != manifest.count * k:
            raise FormatError(f"neighbors list {flat.size} {name}, expected {k} of each item")
        fields.append(flat.reshape(manifest.count, k))
    ids, distances = fields
    if ids.size and not (ids.min() >= 0 and ids.max() < manifest.count):
        raise FormatError(f"neighbors run from {ids.min()} to {ids.max()}, expected items")
    return NeighborLists(ids.astype(np.int32), distances.astype(np.float32))


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the index in `folder`. Raises FormatError."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise FormatError(f"{folder} is not an index: it has no readable manifest.json") from None
    return manifest_from_json(text)


def write_held_out(folder: Path, items: Sequence[HeldOutItem], classes: tuple[str, ...]) -> None:
    """Writes the held-out items beside the shards of the index in `folder`."""
    columns = {field.name: [getattr(item, field.name) for item in items] for field in fields(HeldOutItem)}
    columns["image"] = [data and {"bytes": data, "path": None} for data in columns["image"]]
    table = pa.table(columns, _HELD_OUT)
    names = {"names": list(classes), "_type": "ClassLabel"}
    features = {name: {"dtype": str(kind), "_type": "Value"} for name, kind in _HELD_OUT_NUMBERS.items()}
    features |= {"label": names, "predicted": names, "image": {"_type": "Image"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), folder / HELD_OUT, compression="zstd")


def read_held_out(folder: Path, manifest: Manifest) -> tuple[HeldOutItem, ...]:
    """The held-out items of the index in `folder`, none if it was not evaluated. Raises FormatError."""
    if HELD_OUT not in manifest.files:
        return ()
    try:
        rows = pq.read_table(folder / HELD_OUT, schema=_HELD_OUT).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{HELD_OUT} cannot be read: {str(error).splitlines()[0]}") from None
    return tuple(HeldOutItem(**row | {"image": row["image"] and row["image"]["bytes"]}) for row in rows)


def read_table(folder: Path, manifest: Manifest, columns: list[str]) -> pa.Table:
    """Columns of all shards that the manifest names, in item order. Raises FormatError."""
    tables = []
    for name in sorted(name for name in manifest.files if name.startswith(SHARD)):
        if not (folder / name).is_file():
            raise FormatError(f"{name} is missing")
        try:
            file = pq.ParquetFile(folder / name)
            if missing := [column for column in columns if column not in file.schema_arrow.names]:
                raise FormatError(f"{name} has no column {missing[0]}")
            tables.append(file.read(columns))
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{name} cannot be read: {str(error).splitlines()[0]}") from None
    if not tables:
        raise FormatError("manifest.json names no data files")
    return pa.concat_tables(tables)


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _row_bytes(index: Index) -> NDArray[np.int64]:
    """About how many bytes every item takes in the data files, before compression: (n,), rather more."""
    fixed = np.dtype(index.manifest.embedding_dtype).itemsize * index.manifest.dimension + 256
    return np.fromiter(map(len, index.images), np.int64, len(index.images)) + fixed


def _cut(sizes: NDArray[np.int64], limit: int, start: int = 0) -> Iterator[slice]:
    """Consecutive runs of rows, counted from `start`, of one row or of at most `limit` altogether."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    first = 0
    while first < len(sizes):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + limit, side="right")) - 1)
        yield slice(start + first, start + last)
        first = last


def _write_shard(file: Path, groups: Iterator[pa.Table]) -> None:
    """Writes the tables as the row groups of one Parquet file."""
    first = next(groups)
    # unit vectors do not compress, and would load three times slower
    compression = {name: "zstd" for name in first.column_names if name != "embedding"}
    compression["embedding.list.element"] = "none"
    with pq.ParquetWriter(
        file, first.schema, compression=compression, use_dictionary=False, write_statistics=False
    ) as writer:
        for group in chain([first], groups):
            writer.write_table(group, row_group_size=group.num_rows)


def _table(index: Index, neighbors: NeighborLists, rows: slice) -> pa.Table:
    vectors = index.embeddings[rows].astype(index.manifest.embedding_dtype)
    columns = {
        "image": pa.array([{"bytes": data, "path": None} for data in index.images[rows]], _IMAGE),
        "label": pa.array(index.labels[rows].astype(np.int64)),
        "source_row": pa.array(index.source_rows[rows]),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "x": pa.array(index.map[rows, 0]),
        "y": pa.array(index.map[rows, 1]),
    }
    for name, points in index.coordinates.items():
        if name != DEFAULT_PROJECTION:
            columns |= {f"{name}_x": pa.array(points[rows, 0]), f"{name}_y": pa.array(points[rows, 1])}
    if index.predicted is not None and index.predicted_share is not None:
        columns["predicted"] = pa.array(index.predicted[rows].astype(np.int64))
        columns["predicted_share"] = pa.array(index.predicted_share[rows])
    columns["neighbors"] = _neighbors_column(neighbors.ids[rows], neighbors.distances[rows])
    table = pa.table(columns)
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": _features(index, table)}})}
    )


_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_HELD_OUT_NUMBERS = {
    "source_row": pa.int32(),
    "label": pa.int64(),
    "predicted": pa.int64(),
    "predicted_share": pa.float32(),
    "nearest": pa.int32(),
    "similarity": pa.float32(),
    "leak": pa.int32(),
}
_HELD_OUT = pa.schema({**_HELD_OUT_NUMBERS, "image": _IMAGE})


def _neighbors_column(ids: NDArray[np.int32], distances: NDArray[np.float32]) -> pa.StructArray:
    n, k = ids.shape
    offsets = pa.array(np.arange(0, n * k + 1, k, dtype=np.int32) if k else np.zeros(n + 1, np.int32))
    near = pa.ListArray.from_arrays(offsets, pa.array(ids.ravel().astype(np.int32)))
    far = pa.ListArray.from_arrays(offsets, pa.array(distances.ravel().astype(np.float32)))
    return pa.StructArray.from_arrays([near, far], ["ids", "distances"])


def _features(index: Index, table: pa.Table) -> dict:
    """The column types as the `datasets` library writes them: images and classes appear as such there."""
    value = lambda dtype: {"dtype": dtype, "_type": "Value"}  # noqa: E731
    features = {name: value("float32") for name in table.column_names}
    classes = {"names": list(index.manifest.classes), "_type": "ClassLabel"}
    if "predicted" in features:
        features["predicted"] = classes
    return features | {
        "image": {"_type": "Image"},
        "label": classes,
        "source_row": value("int32"),
        "embedding": {
            "feature": value(index.manifest.embedding_dtype),
            "length": index.manifest.dimension,
            "_type": "List",
        },
        "neighbors": {
            "ids": {"feature": value("int32"), "_type": "List"},
            "distances": {"feature": value("float32"), "_type": "List"},
        },
    }


def _numbers(table: pa.Table, name: str, kind: pa.DataType) -> NDArray:
    """A column without gaps as an array of `kind`. Raises FormatError where it holds anything else."""
    try:
        column = table[name].cast(kind)
    except pa.ArrowException:
        raise FormatError(f"column {name} has type {table[name].type}, expected {kind}") from None
    if column.null_count:
        raise FormatError(f"column {name} has {column.null_count} gaps")
    return column.to_numpy()


def _class_numbers(table: pa.Table, name: str, manifest: Manifest) -> NDArray[np.int32]:
    numbers = _numbers(table, name, pa.int32())
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(manifest.classes)):
        raise FormatError(
            f"{name}s run from {numbers.min()} to {numbers.max()}, expected 0 to {len(manifest.classes) - 1}"
        )
    return numbers


def _unit_rows(column: pa.ChunkedArray, manifest: Manifest) -> NDArray[np.float32]:
    """The embeddings (n, d); float16 is upcast here, once, and made of length 1 again. Raises FormatError."""
    dtype = manifest.embedding_dtype
    due = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), manifest.dimension)
    if not column.type.equals(due):
        raise FormatError(
            f"embedding has type {column.type}, expected a list of {manifest.dimension} {dtype}"
        )
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows = np.ascontiguousarray(flat.reshape(-1, manifest.dimension), dtype=np.float32)
    lengths = _lengths(rows)
    if not np.allclose(lengths, 1, atol=1e-3):  # NaN fails too
        item = int(np.flatnonzero(~np.isclose(lengths, 1, atol=1e-3))[0])
        raise FormatError(f"embedding of item {item} has length {lengths[item]:.4g}, expected 1")
    return rows if dtype == "float32" else rows / lengths[:, None]


def _lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sqrt(np.vecdot(rows, rows))  # an eighth of the time of linalg.norm


def _coordinates(table: pa.Table, name: str) -> NDArray[np.float32]:
    prefix = "" if name == DEFAULT_PROJECTION else f"{name}_"
    points = np.stack([_numbers(table, f"{prefix}{axis}", pa.float32()) for axis in "xy"], axis=1)
    if not np.isfinite(points).all():
        raise FormatError(f"coordinates of {name} are not all finite")
    return points
