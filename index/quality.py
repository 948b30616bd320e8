"""How good an embedding and its map are, in figures that scikit-learn reproduces from the published data."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from index.manifest import Manifest, Metrics
from index.search import neighbors_of_items, vote_shares

SAMPLE = 5000  # what grows with the square of the items is computed on at most this many
VOTERS = 20  # k of the k-NN accuracy, as in DINOv2's own evaluation
PRECISION_K = 5
MAP_K = 15  # neighbors for trustworthiness and recall of the map

BANDS = (
    (0.5, "clear, well-separated clusters"),
    (0.25, "some structure, with overlap"),
    (0.0, "weak clusters or heavy overlap"),
    (-1.0, "many items are nearer to another class than to their own"),
)


@dataclass(frozen=True)
class NearestItems:
    """The nearest other items of some `items` (m,), best first: ids (m, k) and similarities (m, k)."""

    items: NDArray[np.int64]
    ids: NDArray[np.int32]
    similarities: NDArray[np.float64]


def sample_items(count: int, seed: int) -> NDArray[np.int64]:
    """The items, ascending, that figures are about: all up to 5,000, else as many drawn with the seed."""
    if count <= SAMPLE:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, SAMPLE, replace=False))


def nearest_items(
    embeddings: NDArray[np.float32], items: NDArray[np.int64], k: int, wrap: type[Iterable] | None = None
) -> NearestItems:
    """The k nearest other rows of each of `items`; `wrap` goes around the chunks to show progress."""
    chunks = neighbors_of_items(embeddings, items, k)
    parts = list(wrap(chunks) if wrap else chunks)
    ids, similarities = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return NearestItems(items, ids, similarities)


def measure(
    embeddings: NDArray[np.float32],
    coordinates: NDArray[np.float32],
    pixels: NDArray[np.float32],
    labels: NDArray[np.int32] | None,
    nearest: NearestItems,
) -> Metrics:
    """All metrics of nearest.items against all items, on unit `pixels` (n, p) too; without labels, fewer."""
    items = nearest.items
    figures = {
        "trustworthiness": map_trustworthiness(embeddings[items], coordinates[items]),
        "recall_at_15": map_recall(nearest, coordinates),
    }
    if labels is not None:
        by_pixels = nearest_items(pixels, items, VOTERS)
        figures |= {
            "silhouette_embedding": silhouette(embeddings[items], labels[items], "cosine"),
            "silhouette_map": silhouette(coordinates[items], labels[items], "euclidean"),
            "knn_accuracy": knn_accuracy(nearest, labels),
            "precision_at_5": precision(nearest, labels),
            "pixel_knn_accuracy": knn_accuracy(by_pixels, labels),
            "pixel_silhouette": silhouette(pixels[items], labels[items], "cosine"),
        }
    return Metrics(sample=len(items), k=min(VOTERS, len(embeddings) - 1), **figures)


def silhouette(points: NDArray[np.float32], labels: NDArray[np.int32], metric: str) -> float | None:
    """scikit-learn's silhouette score of the classes, -1 to 1; None if there is one class, or one an item."""
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(points, labels, metric=metric))


def silhouette_band(value: float) -> str:
    """What a silhouette says, in words: half-open bands [0.5, 1], [0.25, 0.5), [0, 0.25), below 0."""
    return next(words for least, words in BANDS if value >= least)


def knn_accuracy(nearest: NearestItems, labels: NDArray[np.int32]) -> float | None:
    """Share of items whose 20 nearest others, weighted by exp(similarity / 0.07), vote for their class."""
    if nearest.ids.shape[1] == 0:
        return None
    voters, weights = labels[nearest.ids[:, :VOTERS]], nearest.similarities[:, :VOTERS]
    shares = vote_shares(voters, weights, int(labels.max()) + 1)
    return float((shares.argmax(1) == labels[nearest.items]).mean())


def precision(nearest: NearestItems, labels: NDArray[np.int32]) -> float | None:
    """Precision@5: share of the five nearest others that are of the item's class."""
    if nearest.ids.shape[1] == 0:
        return None
    return float((labels[nearest.ids[:, :PRECISION_K]] == labels[nearest.items][:, None]).mean())


def map_trustworthiness(embeddings: NDArray[np.float32], coordinates: NDArray[np.float32]) -> float | None:
    """scikit-learn's trustworthiness of the map, 0 to 1, over 15 neighbors; None below 4 items."""
    if len(embeddings) < 4:
        return None
    k = min(MAP_K, (len(embeddings) - 1) // 2)  # scikit-learn wants k below half of the items
    return float(trustworthiness(embeddings, coordinates, n_neighbors=k, metric="cosine"))


def map_recall(nearest: NearestItems, coordinates: NDArray[np.float32]) -> float | None:
    """Recall@15 of the map: share of an item's 15 nearest others that are among its 15 nearest on the map."""
    k = min(MAP_K, nearest.ids.shape[1])
    if k == 0:
        return None
    finder = NearestNeighbors(n_neighbors=k + 1).fit(coordinates)
    found = finder.kneighbors(coordinates[nearest.items], return_distance=False)
    hits = 0
    for item, true, near in zip(nearest.items, nearest.ids[:, :k], found, strict=True):
        hits += len(np.intersect1d(true, near[near != item][:k], assume_unique=True))
    return hits / (k * len(nearest.items))


def describe_metrics(manifest: Manifest) -> list[tuple[str, str, str]]:
    """Rows (name, value, meaning) of a table of the manifest's metrics, those that do not apply left out."""
    found = manifest.metrics
    sample = "" if found.sample == manifest.count else f", on {found.sample:,} of {manifest.count:,} items"
    band = lambda value: "" if value is None else f": {silhouette_band(value)}"  # noqa: E731
    votes = f"leave-one-out, k={found.k}, votes weighted by exp(similarity / 0.07)"
    figures = [
        ("silhouette, embedding", found.silhouette_embedding, f"cosine{band(found.silhouette_embedding)}"),
        ("silhouette, map", found.silhouette_map, f"euclidean{band(found.silhouette_map)}"),
        ("k-NN accuracy", found.knn_accuracy, votes),
        ("precision@5", found.precision_at_5, "share of the five nearest that are of the same class"),
        ("trustworthiness", found.trustworthiness, "of the map, 15 neighbors: are neighbors on it true ones"),
        (
            "recall@15",
            found.recall_at_15,
            "of the map: share of the 15 true neighbors among the 15 nearest on it",
        ),
        ("raw pixels: k-NN accuracy", found.pixel_knn_accuracy, f"the baseline; {votes}"),
        ("raw pixels: silhouette", found.pixel_silhouette, "the baseline; cosine"),
    ]
    return [(name, f"{value:.4f}", meaning + sample) for name, value, meaning in figures if value is not None]
