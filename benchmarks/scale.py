"""Search engines and everything else that grows with the number of items, from thousands to a million.

python -m benchmarks.scale INDEX [--items 5000 60000 1000000] [--queries 200] [--engines exact faiss ...]

INDEX is a folder that `python -m index build` made, the larger the better. Its own vectors are taken as
far as they go; more are made between them: a random point between an item and one of its neighbors, with
a tenth of their distance as noise. Queries are made likewise, and are not indexed. Every engine runs in a
process of its own, which holds the index as the app does: opened, asked, and its memory read (Linux
only). The yardsticks are scikit-learn's brute force, in the first row, and the exact search. Without
--qdrant the client's local mode stands in, a plain loop over all vectors: it shows that the adapter
works, nothing of a server's speed.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import print_table
from index.approximate import Cells, FaissSearch, fill
from index.cells import choose_probes, find_cells
from index.manifest import Projection
from index.search import CHUNK, ExactSearch, Searcher, neighbors_of_items, search
from index.store import Index, NeighborLists, load_index, read_neighbors, save_index

K = 10


@dataclass(frozen=True)
class Result:
    """One engine at one size: seconds to open, milliseconds a query, recall@10, megabytes it adds."""

    opened: float
    milliseconds: float
    slowest: float
    recall: float
    megabytes: float


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    for count in options.items:
        with tempfile.TemporaryDirectory() as folder:
            queries = write_vectors(options.index, count, options.queries, Path(folder))
            print(f"\n## {count:,} items x {queries.shape[1]}\n")
            print_grown(measure_growth(options.index, Path(folder), count))
            found = {
                name: in_a_process(run, options.index, Path(folder), options.qdrant)
                for name, run in ENGINES.items()
                if name in options.engines
            }
            print_engines(found)


def in_a_process(run: Callable, *arguments: object) -> Result:
    """The result of `run`, called in a fresh process: what it leaves in memory is only its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


# ---- Vectors


def write_vectors(source: Path, count: int, queries: int, folder: Path) -> NDArray[np.float32]:
    """Writes `count` unit rows and as many queries as asked for into `folder`; returns the queries."""
    own, neighbors = load_index(source).embeddings, read_neighbors(source).ids
    rng = np.random.default_rng(0)
    asked = between(own, neighbors, queries, rng)
    rows = own[rng.permutation(len(own))[:count]]
    if count > len(rows):
        rows = np.concatenate([rows, between(own, neighbors, count - len(rows), rng)])
    np.save(folder / "rows.npy", rows)
    np.save(folder / "queries.npy", asked)
    return asked


def between(
    rows: NDArray[np.float32], neighbors: NDArray[np.int32], count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """`count` unit rows, each somewhere between a row and one of its neighbors, and a little beside."""
    made = np.empty((count, rows.shape[1]), np.float32)
    for start in range(0, count, 50_000):
        m = min(50_000, count - start)
        items = rng.integers(len(rows), size=m)
        others = neighbors[items, rng.integers(neighbors.shape[1], size=m)]
        step = rows[others] - rows[items]
        noise = rng.normal(size=step.shape).astype(np.float32) / step.shape[1] ** 0.5
        noise *= 0.1 * np.linalg.norm(step, axis=1, keepdims=True)
        found = rows[items] + rng.random((m, 1), np.float32) * step + noise
        made[start : start + m] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return made


def index_of(source: Path, folder: Path) -> Index:
    """An index of the written vectors: the source's images and labels again and again, on a random map."""
    index, rows = load_index(source), np.load(folder / "rows.npy")
    items = np.arange(len(rows)) % index.manifest.count
    manifest = replace(
        index.manifest,
        count=len(rows),
        projections={"umap": Projection("umap")},
        quality=None,
        approximate=None,
        embedding_dtype="float32",
    )
    points = np.random.default_rng(0).normal(size=(len(rows), 2)).astype(np.float32)
    images = [index.images[item] for item in items]
    numbers = np.arange(len(rows), dtype=np.int32)
    return Index(manifest, images, index.labels[items], numbers, rows, {"umap": points})


# ---- What grows


def measure_growth(source: Path, folder: Path, count: int) -> dict[str, float]:
    """Seconds and megabytes of saving, loading and searching for every item's neighbors."""
    index = index_of(source, folder)
    near = NeighborLists(np.zeros((count, 15), np.int32), np.zeros((count, 15), np.float32))
    with timed() as saving:
        save_index(index, near, folder / "index")
    size = sum(file.stat().st_size for file in (folder / "index").rglob("*.parquet")) / 1e6
    opened = in_a_process(_load, folder / "index")
    chunks = min(4, -(-count // CHUNK))
    next(neighbors_of_items(index.embeddings, np.arange(1), K))  # imports torch
    with timed() as searching:
        for _ in neighbors_of_items(index.embeddings, np.arange(chunks * CHUNK) % count, K):
            pass
    return {
        "saved s": saving[0],
        "on disk MB": size,
        "loaded s": opened.opened,
        "in memory MB": opened.megabytes,
        "all neighbors s": searching[0] / (chunks * CHUNK) * count,
    }


def _load(folder: Path) -> Result:
    before = megabytes()
    with timed() as loading:
        index = load_index(folder)
    return Result(loading[0], 0, 0, 0, megabytes() - before if index.manifest.count else 0)


# ---- Engines


def sklearn_engine(source: Path, folder: Path, _: str | None) -> Result:
    from sklearn.neighbors import NearestNeighbors

    index, before = index_of(source, folder), megabytes()
    with timed() as opening:
        found = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(index.embeddings)
    ask = lambda query: found.kneighbors(query[None])[1][0].tolist()  # noqa: E731
    return measured(index, folder, ask, opening[0], before)


def exact_engine(source: Path, folder: Path, _: str | None) -> Result:
    index, before = index_of(source, folder), megabytes()
    return measured(index, folder, items_by(ExactSearch(index)), 0.0, before)


def faiss_engine(source: Path, folder: Path, _: str | None) -> Result:
    """Opened from cells that are there, as the app does; another process has found them."""
    probes = in_a_process(_find_cells, source, folder)
    index = index_of(source, folder)
    cells = Cells(np.load(folder / "centers.npy"), np.load(folder / "cell_of.npy"))
    before = megabytes()
    with timed() as opening:
        searcher = FaissSearch(index, fill(index, cells), probes)
    return measured(index, folder, items_by(searcher), opening[0], before)


def _find_cells(source: Path, folder: Path) -> int:
    """Writes cells into the folder; returns how many of them a query has to look through."""
    index = index_of(source, folder)
    with timed() as finding:
        cells = find_cells(index.embeddings, 0)
    with timed() as choosing:
        chosen = choose_probes(index, cells, lambda _: None)
    np.save(folder / "centers.npy", cells.centers)
    np.save(folder / "cell_of.npy", cells.cell_of)
    print(
        f"faiss: {chosen.cells:,} cells found in {finding[0]:.0f} s; {chosen.probes} to look through, chosen "
        f"in {choosing[0]:.0f} s, for a recall@10 of {chosen.recall_at_10:.3f} on items left out.\n"
    )
    return chosen.probes


def qdrant_engine(source: Path, folder: Path, url: str | None) -> Result:
    from qdrant_client import QdrantClient

    from index.qdrant import QdrantSearch, open_qdrant

    index, before = index_of(source, folder), megabytes()
    with timed() as opening:
        searcher = open_qdrant(index, url) if url else QdrantSearch(QdrantClient(":memory:"), index)
    return measured(index, folder, items_by(searcher), opening[0], before)


ENGINES = {
    "scikit-learn": sklearn_engine,
    "exact": exact_engine,
    "faiss": faiss_engine,
    "qdrant": qdrant_engine,
}


def items_by(searcher: Searcher) -> Callable[[NDArray[np.float32]], list[int]]:
    return lambda query: [neighbor.item for neighbor in searcher.search(query, K)]


def measured(
    index: Index,
    folder: Path,
    ask: Callable[[NDArray[np.float32]], list[int]],
    opened: float,
    before: float,
) -> Result:
    """One query at a time, as visitors ask; what they find is held against the exact search."""
    queries, seconds, shares = np.load(folder / "queries.npy"), [], []
    ask(queries[0])
    for query in queries:
        with timed() as asking:
            found = ask(query)
        seconds.append(asking[0])
        due = {neighbor.item for neighbor in search(index, query, K)}
        shares.append(len(due & set(found)) / len(due))
    slowest = float(np.percentile(seconds, 95))
    return Result(opened, 1e3 * median(seconds), 1e3 * slowest, float(np.mean(shares)), megabytes() - before)


# ---- Printing and measuring


def print_engines(found: dict[str, Result]) -> None:
    first = next(iter(found.values())).milliseconds
    header = ["engine", "opened s", "query ms", "19 of 20 below", "against first", "recall@10", "memory MB"]
    rows = [
        [
            name,
            f"{result.opened:.1f}",
            f"{result.milliseconds:.2f}",
            f"{result.slowest:.2f}",
            f"{result.milliseconds / first:.3f}x",
            f"{result.recall:.4f}",
            f"{result.megabytes:,.0f}",
        ]
        for name, result in found.items()
    ]
    print_table(header, rows)


def print_grown(grown: dict[str, float]) -> None:
    print_table(list(grown), [[f"{value:,.1f}" for value in grown.values()]])


@contextmanager
def timed() -> Iterator[list[float]]:
    """A list that holds the seconds once the block is over."""
    seconds: list[float] = []
    start = perf_counter()
    yield seconds
    seconds.append(perf_counter() - start)


def megabytes() -> float:
    """What the process holds in memory now."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--items", type=int, nargs="+", default=[5000, 60_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--qdrant", metavar="URL")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
