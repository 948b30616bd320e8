"""The maps: embeddings laid out in the plane, which layouts there are, and the place of a query on each."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.manifest import Manifest, Projection
from index.store import NeighborLists

PLACED_BY = 15  # neighbors that decide where a new image goes
N_NEIGHBORS = (5, 15, 50)
MIN_DISTS = (0.0, 0.1, 0.5)
PERPLEXITY = 30.0  # scikit-learn's default
FEWEST = 5  # items that UMAP's spectral start and t-SNE need


@dataclass(frozen=True)
class LayoutRow:
    """One stored layout in a table to compare them: figures are None where they were not measured."""

    name: str
    method: str
    n_neighbors: int | None
    min_dist: float | None
    trustworthiness: float | None
    recall_at_15: float | None
    silhouette: float | None
    knn_accuracy: float | None
    seconds: float | None


def umap_projection(count: int, n_neighbors: int, min_dist: float, seed: int) -> Projection:
    """UMAP's parameters for `count` items: n_neighbors at most count - 1; PCA instead below 5 items."""
    if count < FEWEST:
        return Projection("pca")
    neighbors = min(n_neighbors, count - 1)
    parameters = {"n_neighbors": neighbors, "min_dist": min_dist, "metric": "cosine", "random_state": seed}
    return Projection("umap", parameters)


def tsne_projection(count: int, perplexity: float, seed: int) -> Projection:
    """t-SNE's parameters for `count` items: perplexity below a third of them; PCA instead below 5 items."""
    if count < FEWEST:
        return Projection("pca")
    fitting = min(perplexity, (count - 1) / 3)
    return Projection("tsne", {"perplexity": fitting, "metric": "cosine", "random_state": seed})


def projection_grid(count: int, default: Projection, seed: int) -> dict[str, Projection]:
    """The layouts of `build --projections` by name: UMAP's grid, PCA and t-SNE, beside the default one."""
    wanted = [umap_projection(count, near, apart, seed) for near in N_NEIGHBORS for apart in MIN_DISTS]
    wanted += [Projection("pca"), tsne_projection(count, PERPLEXITY, seed)]
    return {projection_name(projection): projection for projection in wanted if projection != default}


def projection_name(projection: Projection) -> str:
    """A column's name for a layout that is not the default one: umap_15_010, tsne, tsne_50, pca.

    UMAP's has n_neighbors and min_dist in hundredths; t-SNE's its perplexity, unless that is 30.
    """
    parameters = projection.parameters
    if projection.method == "umap":
        return f"umap_{parameters['n_neighbors']}_{_hundredths(float(parameters['min_dist']))}"
    if projection.method == "tsne" and parameters["perplexity"] != PERPLEXITY:
        return f"tsne_{parameters['perplexity']:g}".replace(".", "p")
    return projection.method


def project(
    embeddings: NDArray[np.float32], projection: Projection, neighbors: NeighborLists, progress: bool = False
) -> NDArray[np.float32]:
    """Coordinates (n, 2) float32 of unit rows (n, d); `neighbors` saves UMAP its own, approximate, search."""
    if projection.method == "umap":
        return _umap(embeddings, projection, neighbors, progress)
    if projection.method == "tsne":
        return _tsne(embeddings, projection)
    return _pca(embeddings)


def place(coordinates: NDArray[np.float32], items: NDArray[np.int64]) -> tuple[float, float]:
    """Where a new image goes on a map (n, 2): the median, axis by axis, of its nearest `items`."""
    x, y = np.median(coordinates[items[:PLACED_BY]], axis=0)
    return float(x), float(y)


def layout_rows(manifest: Manifest) -> tuple[LayoutRow, ...]:
    """The stored layouts, the default one first, then as they were built."""
    return tuple(_layout_row(name, projection) for name, projection in manifest.projections.items())


def describe_layouts(manifest: Manifest) -> tuple[tuple[LayoutRow, ...], tuple[str, ...]]:
    """The stored layouts as rows of a table, and what their figures say, in sentences."""
    rows = layout_rows(manifest)
    said = (_min_dist_sentence(rows), _ranking_sentence(rows))
    return rows, tuple(sentence for sentence in said if sentence)


def _layout_row(name: str, projection: Projection) -> LayoutRow:
    parameters, metrics = projection.parameters, projection.metrics
    neighbors, apart = parameters.get("n_neighbors"), parameters.get("min_dist")
    return LayoutRow(
        name=name,
        method=projection.method,
        n_neighbors=None if neighbors is None else int(neighbors),
        min_dist=None if apart is None else float(apart),
        trustworthiness=metrics and metrics.trustworthiness,
        recall_at_15=metrics and metrics.recall_at_15,
        silhouette=metrics and metrics.silhouette,
        knn_accuracy=metrics and metrics.knn_accuracy,
        seconds=projection.seconds,
    )


def _min_dist_sentence(rows: tuple[LayoutRow, ...]) -> str | None:
    """How far the silhouette moves with min_dist alone, where it moves most."""
    groups: dict[int, list[LayoutRow]] = {}
    for row in rows:
        if row.n_neighbors is not None and row.silhouette is not None:
            groups.setdefault(row.n_neighbors, []).append(row)
    ranges = [_silhouette_range(group) for group in groups.values()]
    low, high = max(ranges, key=lambda pair: pair[1].silhouette - pair[0].silhouette, default=(None, None))
    if low is None or low.min_dist == high.min_dist:
        return None
    return (
        f"With n_neighbors = {low.n_neighbors}, the silhouette on the map is {low.silhouette:.3f} at "
        f"min_dist = {low.min_dist:g} and {high.silhouette:.3f} at {high.min_dist:g}, though the "
        "embedding is the same: it also tells how tightly a layout packs its points."
    )


def _silhouette_range(group: list[LayoutRow]) -> tuple[LayoutRow, LayoutRow]:
    ordered = sorted(group, key=lambda row: row.silhouette)
    return ordered[0], ordered[-1]


def _ranking_sentence(rows: tuple[LayoutRow, ...]) -> str | None:
    """Which layout keeps neighbors best and, where there are classes, whether the silhouette agrees."""
    kept = [row for row in rows if row.recall_at_15 is not None]
    if len(kept) < 2:
        return None
    best = max(kept, key=lambda row: row.recall_at_15)
    start = (
        f"{layout_title(best)} keeps the most neighbors ({100 * best.recall_at_15:.1f} % of the 15 nearest)"
    )
    scored = [row for row in kept if row.silhouette is not None]
    if not scored:
        return f"{start}."
    top = max(scored, key=lambda row: row.silhouette)
    if top == best:
        return f"{start} and has the highest silhouette ({best.silhouette:.3f})."
    return (
        f"{start}, yet its silhouette is {best.silhouette:.3f}; {layout_title(top)} has the highest one "
        f"({top.silhouette:.3f}) and keeps {100 * top.recall_at_15:.1f} %."
    )


def layout_title(row: LayoutRow) -> str:
    """A layout's name for people, such as UMAP (15, 0.1)."""
    if row.n_neighbors is not None:
        return f"UMAP ({row.n_neighbors}, {row.min_dist:g})"
    return {"pca": "PCA", "tsne": "t-SNE"}.get(row.method, row.method)


def _hundredths(value: float) -> str:
    """0.05 as 005, and 0.125 as 012p5: column names hold letters, digits and underscores only."""
    return f"{100 * value:06.2f}".rstrip("0").rstrip(".").replace(".", "p")


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


def _tsne(embeddings: NDArray[np.float32], projection: Projection) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE  # slow import: 2 to 7 s, needed at build time only

    return TSNE(2, init="pca", **projection.parameters).fit_transform(embeddings).astype(np.float32)


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
