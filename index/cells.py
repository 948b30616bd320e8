"""Cells for approximate search are found, tried out and added to an index."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from index.approximate import CELLS, Cells, FaissSearch, center_and_items, fill, import_faiss
from index.manifest import Approximate, Manifest
from index.search import recall_of, trial_of
from index.store import Index, load_index
from index.work import keep_or_clear, save_with, swap, work_folder

AIM = 0.99  # recall@10 that the number of probes is chosen for
JUDGED = 500  # items that it is measured on
ROUNDS = 10  # of k-means
LEARNT_FROM = 64  # items a cell, at most; k-means wants 39 at least
LEAST = 39
AT_ONCE = 1 << 14  # items


def add_cells(folder: Path, say: Callable[[str], None] = print) -> Manifest:
    """Adds the cells to the index in `folder`, with their measured recall; until then the old one stays.

    Raises SearchError without FAISS, SourceError, and FormatError where the index is not sound.
    """
    import_faiss()
    folder = folder.resolve()
    with work_folder(folder) as work:
        index = load_index(folder)
        keep_or_clear(work, json.dumps({"cells": index.manifest.files}, sort_keys=True), say)
        say("Finding cells")
        cells = find_cells(index.embeddings, index.manifest.seed)
        approximate = choose_probes(index, cells, say)
        learnt = replace(index.manifest, approximate=approximate)
        manifest = save_with(work, folder, learnt, CELLS, lambda new: write_cells(new, cells))
        swap(work, folder)
    return manifest


def find_cells(embeddings: NDArray[np.float32], seed: int) -> Cells:
    """Cells by spherical k-means: four times the square root of the items, if that leaves 39 in each."""
    faiss = import_faiss()
    n, d = embeddings.shape
    count = max(1, min(round(4 * n**0.5), n // LEAST))
    means = faiss.Kmeans(
        *(d, count), niter=ROUNDS, spherical=True, seed=seed, max_points_per_centroid=LEARNT_FROM
    )
    means.train(embeddings)
    steps = tqdm(range(0, n, AT_ONCE), "Assigning", unit=f" x {AT_ONCE} items")
    nearest = [means.index.search(embeddings[start : start + AT_ONCE], 1)[1][:, 0] for start in steps]
    return Cells(means.centroids, np.concatenate(nearest).astype(np.int32))


def choose_probes(index: Index, cells: Cells, say: Callable[[str], None] = print) -> Approximate:
    """As few cells a query, in powers of two, as find 99 of 100 of the 10 nearest; else all of them."""
    count = len(cells.centers)
    filled, trial = fill(index, cells), trial_of(index, JUDGED, 10)
    probes = 1
    while True:
        recall = recall_of(FaissSearch(index, filled, probes), index, trial)
        say(f"{probes} of {count} cells: recall@10 {recall:.4f}")
        if recall >= AIM or probes == count:
            return Approximate(count, probes, recall, len(trial.items))
        probes = min(2 * probes, count)


def write_cells(folder: Path, cells: Cells) -> None:
    """Writes the cells beside the shards of the index in `folder`: a row a cell, its center and its items."""
    order = np.argsort(cells.cell_of, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(cells.cell_of, minlength=len(cells.centers)))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    center = pa.FixedSizeListArray.from_arrays(pa.array(cells.centers.ravel()), cells.centers.shape[1])
    columns = [center, pa.ListArray.from_arrays(offsets, pa.array(order))]
    table = pa.table(columns, schema=center_and_items(cells.centers.shape[1]))
    pq.write_table(table, folder / CELLS, compression="zstd")
