"""How good an embedding and its maps are, in figures that scikit-learn reproduces from the published data."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances, silhouette_samples
from sklearn.neighbors import NearestNeighbors

from index.manifest import ClassSilhouette, ClassVotes, Metrics, ProjectionMetrics, Votes
from index.search import Winners, neighbors_of_items, vote_shares, vote_winners

VOTERS = 20  # k of the k-NN accuracy, as in DINOv2's own evaluation
PRECISION_K = 5
MAP_K = 15  # neighbors for trustworthiness and recall of the map
CURVE = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # k of the k-NN accuracy's curve


@dataclass(frozen=True)
class NearestItems:
    """The nearest other items of some `items` (m,), best first: ids (m, k) and similarities (m, k)."""

    items: NDArray[np.int64]
    ids: NDArray[np.int32]
    similarities: NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """What every map of m `items` is held against: the embedding's order of them, and their classes.

    ranks: (m, m), ranks[i, j] = how many of the items are nearer to items[i] than items[j] is; nearest:
    (m, k) of all items; labels: (n,) of all items, None without classes.
    """

    items: NDArray[np.int64]
    ranks: NDArray[np.int32]
    nearest: NDArray[np.int32]
    labels: NDArray[np.int32] | None


def nearest_items(
    embeddings: NDArray[np.float32], items: NDArray[np.int64], k: int, wrap: type[Iterable] | None = None
) -> NearestItems:
    """The k nearest other rows of each of `items`; `wrap` goes around the chunks to show progress."""
    chunks = neighbors_of_items(embeddings, items, k)
    parts = list(wrap(chunks) if wrap else chunks)
    ids, similarities = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return NearestItems(items, ids, similarities)


def reference_of(
    embeddings: NDArray[np.float32],
    items: NDArray[np.int64],
    nearest: NDArray[np.int32],
    labels: NDArray[np.int32] | None,
) -> Reference:
    """What maps are held against; `nearest` (n, k) are every item's neighbors, `labels` are for all items."""
    distances = pairwise_distances(embeddings[items], metric="cosine")
    np.fill_diagonal(distances, np.inf)
    order = distances.argsort(axis=1)
    ranks = np.empty(order.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(len(items), dtype=np.int32)[None], 1)
    return Reference(items, ranks, nearest[items], labels)


def measure(
    embeddings: NDArray[np.float32],
    pixels: NDArray[np.float32],
    labels: NDArray[np.int32] | None,
    nearest: NearestItems,
    on_map: ProjectionMetrics,
) -> Metrics:
    """All metrics of nearest.items against all items, on unit `pixels` (n, p) too; without labels, fewer."""
    items = nearest.items
    figures = {"trustworthiness": on_map.trustworthiness, "recall_at_15": on_map.recall_at_15}
    if labels is not None:
        by_pixels = nearest_items(pixels, items, VOTERS)
        figures |= {
            "silhouette_embedding": silhouette(embeddings[items], labels[items], "cosine"),
            "silhouette_map": on_map.silhouette,
            "knn_accuracy": knn_accuracy(nearest, labels),
            "precision_at_5": precision(nearest, labels),
            "pixel_knn_accuracy": knn_accuracy(by_pixels, labels),
            "pixel_silhouette": silhouette(pixels[items], labels[items], "cosine"),
        }
    return Metrics(sample=len(items), k=min(VOTERS, len(embeddings) - 1), **figures)


def measure_map(coordinates: NDArray[np.float32], reference: Reference) -> ProjectionMetrics:
    """The figures of one map (n, 2)."""
    items, labels = reference.items, reference.labels
    return ProjectionMetrics(
        trustworthiness=map_trustworthiness(reference.ranks, coordinates[items]),
        recall_at_15=map_recall(NearestItems(items, reference.nearest, np.empty(0)), coordinates),
        silhouette=None if labels is None else silhouette(coordinates[items], labels[items], "euclidean"),
        knn_accuracy=None if labels is None else map_knn_accuracy(coordinates, items, labels),
    )


def silhouette(points: NDArray[np.float32], labels: NDArray[np.int32], metric: str) -> float | None:
    """scikit-learn's silhouette score of the classes, -1 to 1; None if there is one class, or one an item."""
    found = silhouettes(points, labels, metric)
    return None if found is None else float(found.mean())


def silhouettes(
    points: NDArray[np.float32], labels: NDArray[np.int32], metric: str
) -> NDArray[np.float64] | None:
    """Every point's silhouette (m,), as scikit-learn has it; None if there is one class, or one an item."""
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return silhouette_samples(points, labels, metric=metric)


def class_silhouettes(
    embeddings: NDArray[np.float32], coordinates: NDArray[np.float32], labels: NDArray[np.int32]
) -> tuple[ClassSilhouette, ...]:
    """The mean silhouette of each class's items, in the embedding and on the map; none where undefined."""
    in_embedding = silhouettes(embeddings, labels, "cosine")
    on_map = silhouettes(coordinates, labels, "euclidean")
    if in_embedding is None or on_map is None:
        return ()
    members = [(int(label), labels == label) for label in np.unique(labels)]
    return tuple(
        ClassSilhouette(label, int(own.sum()), float(in_embedding[own].mean()), float(on_map[own].mean()))
        for label, own in members
    )


def leave_one_out(nearest: NearestItems, labels: NDArray[np.int32], ks: Iterable[int]) -> Winners:
    """Who wins the vote of each item's nearest others."""
    return vote_winners(labels[nearest.ids], nearest.similarities, tuple(ks))


def judge(winners: Winners, labels: NDArray[np.int32], k: int = VOTERS) -> Votes:
    """How the votes judged items whose own classes are `labels` (m,); k is lowered to what there is."""
    k = min(k, max(winners.ks))
    curve = [(at, float((winners.at(at)[0] == labels).mean())) for at in CURVE if at in winners.ks]
    predicted, _ = winners.at(k)
    pairs, counts = np.unique(np.stack([labels, predicted], axis=1), axis=0, return_counts=True)
    confusion = tuple((int(t), int(p), int(count)) for (t, p), count in zip(pairs, counts, strict=True))
    return Votes(
        items=len(labels),
        k=k,
        accuracy=float((predicted == labels).mean()),
        curve=tuple(curve),
        confusion=confusion,
        classes=_class_votes(confusion),
    )


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


def map_trustworthiness(ranks: NDArray[np.int32], coordinates: NDArray[np.float32]) -> float | None:
    """scikit-learn's trustworthiness of a map (m, 2), 0 to 1, over 15 neighbors; None below 4 items.

    `ranks` are a Reference's: scikit-learn would compute them once more for every map.
    """
    count = len(ranks)
    if count < 4:
        return None
    k = min(MAP_K, (count - 1) // 2)  # scikit-learn wants k below half of the items
    near = NearestNeighbors(n_neighbors=k).fit(coordinates).kneighbors(return_distance=False)
    excess = np.take_along_axis(ranks, near, 1).astype(np.int64) + 1 - k
    return float(1 - excess[excess > 0].sum() * 2 / (count * k * (2 * count - 3 * k - 1)))


def map_recall(nearest: NearestItems, coordinates: NDArray[np.float32]) -> float | None:
    """Recall@15 of the map: share of an item's 15 nearest others that are among its 15 nearest on the map."""
    k = min(MAP_K, nearest.ids.shape[1])
    if k == 0:
        return None
    found = _nearest_on_map(coordinates, nearest.items, k)
    hits = (nearest.ids[:, :k, None] == found[:, None, :]).any(2).sum()
    return float(hits / (k * len(nearest.items)))


def map_knn_accuracy(
    coordinates: NDArray[np.float32], items: NDArray[np.int64], labels: NDArray[np.int32]
) -> float | None:
    """Share of items whose class has the most of the 20 nearest others on the map, ties to the first."""
    k = min(VOTERS, len(coordinates) - 1)
    if k == 0:
        return None
    found = _nearest_on_map(coordinates, items, k)
    winners = vote_winners(labels[found], np.zeros(found.shape), (k,))
    return float((winners.at(k)[0] == labels[items]).mean())


def _nearest_on_map(coordinates: NDArray[np.float32], items: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k others (m, k) nearest to each of `items` on a map, best first."""
    finder = NearestNeighbors(n_neighbors=k + 1).fit(coordinates)
    found = finder.kneighbors(coordinates[items], return_distance=False)
    others_first = np.argsort(found == items[:, None], axis=1, kind="stable")
    return np.take_along_axis(found, others_first, 1)[:, :k]


def _class_votes(confusion: tuple[tuple[int, int, int], ...]) -> tuple[ClassVotes, ...]:
    """Support, precision and recall of every class that an item is in, or was voted into."""
    support: dict[int, int] = {}
    voted: dict[int, int] = {}
    right: dict[int, int] = {}
    for true, predicted, count in confusion:
        support[true] = support.get(true, 0) + count
        voted[predicted] = voted.get(predicted, 0) + count
        if true == predicted:
            right[true] = count
    return tuple(
        ClassVotes(
            label=label,
            support=support.get(label, 0),
            precision=right.get(label, 0) / voted[label] if label in voted else None,
            recall=right.get(label, 0) / support[label] if label in support else None,
        )
        for label in sorted(support | voted)
    )
