"""The map: embeddings laid out in the plane, and the place of a query on it."""

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from index.manifest import Projection
from index.store import NeighborLists

PLACED_BY = 15  # neighbors that decide where a new image goes


def umap_projection(count: int, n_neighbors: int, min_dist: float, seed: int) -> Projection:
    """UMAP's parameters for `count` items: n_neighbors at most count - 1; PCA instead below 5 items."""
    if count < 5:  # UMAP's spectral start needs more points than that
        return Projection("pca")
    neighbors = min(n_neighbors, count - 1)
    parameters = {"n_neighbors": neighbors, "min_dist": min_dist, "metric": "cosine", "random_state": seed}
    return Projection("umap", parameters)


def project(
    embeddings: NDArray[np.float32], projection: Projection, neighbors: NeighborLists, progress: bool = False
) -> NDArray[np.float32]:
    """Coordinates (n, 2) float32 of unit rows (n, d); `neighbors` saves UMAP its own, approximate, search."""
    if projection.method == "umap":
        return _umap(embeddings, projection, neighbors, progress)
    return _pca(embeddings)


def place(coordinates: NDArray[np.float32], items: NDArray[np.int64]) -> tuple[float, float]:
    """Where a new image goes on a map (n, 2): the median, axis by axis, of its nearest `items`."""
    x, y = np.median(coordinates[items[:PLACED_BY]], axis=0)
    return float(x), float(y)


def _umap(
    embeddings: NDArray[np.float32], projection: Projection, neighbors: NeighborLists, progress: bool
) -> NDArray[np.float32]:
    from umap import UMAP  # slow import: 2 to 50 s of compilation, needed at build time only

    wanted = projection.parameters["n_neighbors"]
    own = np.arange(len(embeddings), dtype=np.int32)[:, None]
    ids = np.hstack([own, neighbors.ids])[:, :wanted]  # umap counts an item as its own first neighbor
    distances = np.hstack([np.zeros_like(own, np.float32), neighbors.distances])[:, :wanted]
    known = ids.shape[1] == wanted
    reducer = UMAP(
        **projection.parameters,
        n_components=2,
        n_jobs=1,  # what random_state forces anyway; said here to spare a warning
        precomputed_knn=(ids, distances.clip(0), None) if known else (None, None, None),
        init="spectral" if len(embeddings) > 50 else "random",
        tqdm_kwds={"desc": "Projecting", "disable": not progress, "bar_format": None, "unit": "epoch"},
    )
    with (
        warnings.catch_warnings()
    ):  # no search index comes along, and none is needed: place() does not use UMAP
        warnings.filterwarnings("ignore", message="precomputed_knn")
        return reducer.fit_transform(embeddings).astype(np.float32)


def _pca(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first two principal components; zeros where there are fewer."""
    centered = embeddings - embeddings.mean(0)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    points = np.zeros((len(embeddings), 2), np.float32)
    width = min(2, singular.size)
    points[:, :width] = left[:, :width] * singular[:width]
    return (
        np.where(np.isfinite(points), points, 0)
        if math.isfinite(float(points.sum()))
        else np.zeros_like(points)
    )
