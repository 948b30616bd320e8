"""Approximate search: items lie in cells, of which the few that are nearest to a query are looked through.

The cells are part of the index, as plain numbers in a Parquet file: a reader needs no trust in a binary
format, and fills them again in seconds. FAISS, which is optional, does the work in memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from index.manifest import FormatError, Manifest
from index.search import Neighbor, SearchError, best_of, check_dimension, search
from index.store import Index

if TYPE_CHECKING:
    import faiss

CELLS = "data/cells-00000-of-00001.parquet"
WORTHWHILE = 200_000  # items from which on it pays to look at some only
REFINED, LEAST_REFINED = 8, 100  # so many times k, and so many at least, are compared by their real vectors
LEARNT_RANGE = 100_000  # items that tell the range of each number, about


@dataclass(frozen=True)
class Cells:
    """Where the items lie: `centers` (cells, d) float32 unit rows, `cell_of` (n,) int32, each item's cell."""

    centers: NDArray[np.float32]
    cell_of: NDArray[np.int32]


class FaissSearch:
    """Looks through the cells nearest to a query, in vectors of a byte a number, and refines what it finds.

    Beside the index it holds d + 8 bytes an item. Found neighbors carry their real similarities.
    """

    def __init__(self, index: Index, filled: "faiss.IndexIVF", probes: int) -> None:
        """`filled` is what `fill` made of the index's cells, `probes` of which each query looks through."""
        self._index, self._cells = index, filled
        self._options = import_faiss().SearchParametersIVF(nprobe=probes)

    def search(
        self, embedding: NDArray[np.float32], k: int, exclude: int | None = None
    ) -> tuple[Neighbor, ...]:
        """The k nearest items of those in the nearest cells; of all items where these hold too few."""
        check_dimension(self._index, embedding)
        wanted = min(max(REFINED * k, LEAST_REFINED), self._index.manifest.count)
        query = np.ascontiguousarray(embedding[None], np.float32)
        items = self._cells.search(query, wanted, params=self._options)[1][0]
        items = items[(items >= 0) & (items != (-1 if exclude is None else exclude))]
        if len(items) < min(k, self._index.manifest.count - (exclude is not None)):
            return search(self._index, embedding, k, exclude)
        return best_of(self._index, items, embedding, k)


def open_faiss(index: Index, folder: Path) -> FaissSearch:
    """The approximate search of the index in `folder`.

    Raises SearchError where FAISS or the index's cells are missing, FormatError where they are unsound.
    """
    import_faiss()
    stored = index.manifest.approximate
    if stored is None:
        raise SearchError("This index has no cells to search in: `python -m index approximate` adds them.")
    return FaissSearch(index, fill(index, read_cells(folder, index.manifest)), stored.probes)


def fill(index: Index, cells: Cells) -> "faiss.IndexIVF":
    """The items in their cells, each number in a byte: seconds for a million items. Raises SearchError."""
    faiss = import_faiss()
    from faiss.contrib.ivf_tools import add_preassigned  # optional, as FAISS itself

    count, d = cells.centers.shape
    quantizer = faiss.IndexFlatIP(d)
    quantizer.add(cells.centers)
    byte = faiss.ScalarQuantizer.QT_8bit
    filled = faiss.IndexIVFScalarQuantizer(quantizer, d, count, byte, faiss.METRIC_INNER_PRODUCT)
    filled.train(index.embeddings[:: -(-index.manifest.count // LEARNT_RANGE)])
    add_preassigned(filled, index.embeddings, cells.cell_of.astype(np.int64))
    return filled


def center_and_items(dimension: int) -> pa.Schema:
    """The columns of the cells' file: a row a cell, its center and the numbers of its items."""
    return pa.schema({"center": pa.list_(pa.float32(), dimension), "items": pa.list_(pa.int32())})


def read_cells(folder: Path, manifest: Manifest) -> Cells:
    """The cells of the index in `folder`. Raises FormatError where they do not hold each item once."""
    try:
        table = pq.read_table(folder / CELLS, schema=center_and_items(manifest.dimension))
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{CELLS} cannot be read: {str(error).splitlines()[0]}") from None
    center, column = (table[name].combine_chunks() for name in ("center", "items"))
    if any(part.null_count for part in (center, center.flatten(), column, column.flatten())):
        raise FormatError(f"{CELLS} has gaps")
    centers = center.flatten().to_numpy().reshape(-1, manifest.dimension)
    items, sizes = column.flatten().to_numpy(), column.value_lengths().to_numpy()
    if not np.array_equal(np.sort(items), np.arange(manifest.count)):
        raise FormatError(f"{CELLS} does not hold each of the {manifest.count:,} items once")
    if not np.isfinite(centers).all():
        raise FormatError(f"{CELLS} has centers that are not finite")
    cell_of = np.empty(manifest.count, np.int32)
    cell_of[items] = np.repeat(np.arange(len(centers), dtype=np.int32), sizes)
    return Cells(np.ascontiguousarray(centers, np.float32), cell_of)


def import_faiss() -> "type[faiss]":
    """FAISS, if it is there. Raises SearchError."""
    try:
        import faiss  # optional
    except ImportError:
        raise SearchError(
            "Approximate search needs FAISS, which is not installed: pip install faiss-cpu."
        ) from None
    return faiss
