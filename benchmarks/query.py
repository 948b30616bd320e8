"""What one query takes, step by step, and its search against scikit-learn's.

python -m benchmarks.query FASHION_MNIST [--rounds 30]

FASHION_MNIST is a folder with the Parquet files of zalando-datasets/fashion_mnist. Indexes of 5,000 and
60,000 items hold random unit rows of 768 dimensions around 100 centers. The first table is a whole query as
the app answers it: a photo (enlarged, dark on white, off-center) is prepared, embedded by a randomly
initialised model of facebook/dinov2-base's size, searched for and placed. The second is our search beside
kneighbors of scikit-learn's NearestNeighbors(metric="cosine") for the same 10 neighbors, in turns. Exact
means: for 100 queries the same neighbors in the same order as brute force in float64.
"""

import argparse
import tempfile
from io import BytesIO
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from benchmarks.base_model import make_base_model
from benchmarks.fashion import read_files
from benchmarks.foreign_images import photo
from benchmarks.timing import interleaved, print_table
from embedding.encoder import Dinov2Encoder, ModelRef
from embedding.image import infer_preparation
from index.manifest import DEFAULT_PROJECTION, Manifest, Metrics, Projection, Source
from index.query import answer, query_image
from index.search import search
from index.store import Index

SIZES = (5_000, 60_000)
DIMENSION = 768
CENTERS = 100
K = 10
CHECKED = 100
PHOTOS = 8


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    files = read_files(options.fashion_mnist, 256)
    indexes = [make_index(count, files) for count in SIZES]
    with tempfile.TemporaryDirectory() as folder:
        encoder = Dinov2Encoder(make_base_model(Path(folder)))
    steps = [query_row(index, encoder, files[0]) for index in indexes]
    print_table(["items", "prepare ms", "embed ms", "search and place ms"], steps)
    searches = [search_row(index, options.rounds) for index in indexes]
    header = ["items", "our search ms", "scikit-learn ms", "our share of its time", f"exact for {CHECKED}"]
    print_table(header, searches)


def make_index(count: int, files: list[bytes]) -> Index:
    """An index of `count` random embeddings around centers; its images repeat `files`."""
    rng = np.random.default_rng(count)
    labels = rng.integers(0, CENTERS, count).astype(np.int32)
    centers = rng.standard_normal((CENTERS, DIMENSION), np.float32)
    manifest = Manifest(
        title="random",
        classes=tuple(f"center {number}" for number in range(CENTERS)),
        model=ModelRef("random", "0"),
        preparation=infer_preparation([Image.open(BytesIO(file)) for file in files]),
        source=Source("random", "train", count),
        projections={DEFAULT_PROJECTION: Projection("pca")},
        metrics=Metrics(count, K),
        seed=0,
        count=count,
        dimension=DIMENSION,
        versions={},
    )
    return Index(
        manifest=manifest,
        images=[files[item % len(files)] for item in range(count)],
        labels=labels,
        source_rows=np.arange(count, dtype=np.int32),
        embeddings=unit_rows(centers[labels] + rng.standard_normal((count, DIMENSION), np.float32)),
        coordinates={DEFAULT_PROJECTION: rng.standard_normal((count, 2), np.float32)},
    )


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def queries(index: Index) -> NDArray[np.float32]:
    """New embeddings near items of the index, (100, d): what uploads would give."""
    rng = np.random.default_rng(1)
    near = index.embeddings[rng.choice(index.manifest.count, CHECKED)]
    return unit_rows(near + rng.normal(0, 0.02, near.shape).astype(np.float32))


def query_row(index: Index, encoder: Dinov2Encoder, file: bytes) -> list[str]:
    """Medians of what the app itself reports for a photo."""
    upload = photo(Image.open(BytesIO(file)), np.random.default_rng(0))
    answers = [answer(index, query_image(index, upload, encoder), K) for _ in range(PHOTOS + 1)][1:]
    steps = [median(found.milliseconds[step] for found in answers) for step in ("prepare", "embed", "search")]
    return [f"{index.manifest.count:,}", *(f"{step:.2f}" for step in steps)]


def search_row(index: Index, rounds: int) -> list[str]:
    """Medians of both searches over the same new embeddings, and whether ours is exact."""
    asked = queries(index)
    theirs = NearestNeighbors(n_neighbors=K, metric="cosine").fit(index.embeddings)
    ours_next, theirs_next = cycle(asked), cycle(asked)
    runs = {
        "ours": lambda: search(index, next(ours_next), K),
        "scikit-learn": lambda: theirs.kneighbors(next(theirs_next)[None]),
    }
    seconds = interleaved(runs, rounds)
    share = median(own / other for own, other in zip(seconds["ours"], seconds["scikit-learn"], strict=True))
    times = [f"{1e3 * median(seconds[name]):.2f}" for name in runs]
    return [f"{index.manifest.count:,}", *times, f"{share:.3f}", "yes" if is_exact(index, asked) else "NO"]


def is_exact(index: Index, asked: NDArray[np.float32]) -> bool:
    """Whether search finds for every query what brute force in float64 finds, in that order."""
    exact = index.embeddings.astype(np.float64)
    for embedding in asked:
        scores = exact @ embedding.astype(np.float64)
        due = np.lexsort((np.arange(len(scores)), -scores))[:K].tolist()
        if [neighbor.item for neighbor in search(index, embedding, K)] != due:
            return False
    return True


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("fashion_mnist", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
