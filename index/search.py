"""What a search is, the exact one, and the vote of what it finds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.store import Index

VOTE_TEMPERATURE = 0.07  # as in DINOv2's own k-NN evaluation
ROUNDING = 4e-6  # a float32 dot product of unit vectors is off by less; what is nearer is ranked in float64
CHUNK = 256
SAMPLE = 5000  # what grows with the square of the items is computed on at most this many


@dataclass(frozen=True)
class Neighbor:
    """An item near a query; similarity is the cosine, -1 to 1."""

    item: int
    label: int
    similarity: float


class Searcher(Protocol):
    """Searches one index, exactly or nearly so; whoever asks does not know by which engine."""

    def search(
        self, embedding: NDArray[np.float32], k: int, exclude: int | None = None
    ) -> tuple[Neighbor, ...]:
        """As `search` below, of which an engine may miss some: others, less similar, then take their place.

        Raises SearchError where an engine cannot answer now.
        """
        ...


class SearchError(Exception):
    """An engine cannot be had, or does not answer; a `temporary` trouble may pass. One sentence."""

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


@dataclass(frozen=True)
class ExactSearch:
    """Every item is looked at: the right answer, at a cost that grows with the index."""

    index: Index

    def search(
        self, embedding: NDArray[np.float32], k: int, exclude: int | None = None
    ) -> tuple[Neighbor, ...]:
        return search(self.index, embedding, k, exclude)


def search(
    index: Index, embedding: NDArray[np.float32], k: int, exclude: int | None = None
) -> tuple[Neighbor, ...]:
    """The k items most similar to a unit `embedding` (d,), best first; fewer if the index is smaller.

    `exclude` is left out: an indexed query is not its own neighbor. The order is that of float64 arithmetic,
    ties by item number. Raises ValueError if `embedding` does not have the index's dimension.
    """
    check_dimension(index, embedding)
    scores = np.vecdot(
        index.embeddings, embedding
    )  # (n,); a BLAS product by two threads stalls on a busy core
    if exclude is not None:
        scores[exclude] = -np.inf
    k = min(k, scores.size - (exclude is not None))
    if k < 1:
        return ()
    last = np.partition(scores, scores.size - k)[scores.size - k]
    near = np.flatnonzero(scores >= max(last - ROUNDING, -2))  # -2: the excluded item stays out
    return best_of(index, near, embedding, k)


def best_of(
    index: Index, items: NDArray[np.integer], embedding: NDArray[np.float32], k: int
) -> tuple[Neighbor, ...]:
    """The k most similar of some `items` (m,), each named once, in the order that `search` gives them."""
    exact = np.einsum("id,d->i", index.embeddings[items], embedding, dtype=np.float64)
    best = np.lexsort((items, -exact))[:k]
    return tuple(Neighbor(int(items[i]), int(index.labels[items[i]]), float(exact[i])) for i in best)


def check_dimension(index: Index, embedding: NDArray[np.float32]) -> None:
    """Raises ValueError if a query's `embedding` does not have the index's dimension."""
    if embedding.shape != (index.manifest.dimension,):
        raise ValueError(f"embedding has shape {embedding.shape}, expected ({index.manifest.dimension},)")


@dataclass(frozen=True)
class Trial:
    """What a search should find: for each of some `items` (m,) its nearest others, as many of each."""

    items: NDArray[np.integer]
    due: tuple[tuple[Neighbor, ...], ...]


def trial_of(index: Index, count: int, k: int) -> Trial:
    """The k nearest others of `count` items drawn with the index's seed, found exactly."""
    items = np.sort(np.random.default_rng(index.manifest.seed).permutation(index.manifest.count)[:count])
    return Trial(items, tuple(search(index, index.embeddings[item], k, int(item)) for item in items))


def recall_of(searcher: Searcher, index: Index, trial: Trial) -> float:
    """How many of the nearest a search finds, on average, 0 to 1.

    An item as similar as the last of them is as good as it: copies do not count against an engine.
    """
    shares = [1.0]
    for item, due in zip(trial.items.tolist(), trial.due, strict=True):
        if due:
            found = searcher.search(index.embeddings[item], len(due), item)
            shares.append(sum(near.similarity >= due[-1].similarity - ROUNDING for near in found) / len(due))
    return float(np.mean(shares[1:] or shares))


def sample_items(count: int, seed: int) -> NDArray[np.int64]:
    """The items, ascending, that figures are about: all up to 5,000, else as many drawn with the seed."""
    if count <= SAMPLE:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, SAMPLE, replace=False))


def neighbors_of_items(
    embeddings: NDArray[np.float32], items: NDArray[np.int64], k: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """The k nearest other rows of each of `items`, chunk by chunk: ids and similarities, both (m, k).

    Best first; of more than eight ties for the last place any may be left out. Takes 3 kB of memory a row.
    """
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        scores = embeddings[chunk] @ embeddings.T  # (m, n)
        scores[np.arange(len(chunk)), chunk] = -np.inf
        yield _nearest(embeddings, embeddings[chunk], scores, min(k, len(embeddings) - 1), 1)


def neighbors_of_queries(
    embeddings: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """As neighbors_of_items, of new unit rows `queries` (m, d)."""
    for start in range(0, len(queries), CHUNK):
        chunk = queries[start : start + CHUNK]
        yield _nearest(embeddings, chunk, chunk @ embeddings.T, min(k, len(embeddings)), 0)


def vote_shares(
    labels: NDArray[np.int32], similarities: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Class shares (m, classes) of labels (m, k), weighted by exp(similarity / 0.07); rows sum to 1."""
    weights = np.exp((similarities - similarities.max(1, keepdims=True)) / VOTE_TEMPERATURE)
    shares = np.zeros((len(labels), classes))
    np.add.at(shares, (np.arange(len(labels))[:, None], labels), weights)
    return shares / weights.sum(1, keepdims=True)


@dataclass(frozen=True)
class Winners:
    """Who wins the votes of m queries with each of `ks` neighbors: class numbers and shares, both (ks, m)."""

    ks: tuple[int, ...]
    classes: NDArray[np.int32]
    shares: NDArray[np.float64]

    def at(self, k: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The winners with k neighbors and their shares, both (m,)."""
        return self.classes[self.ks.index(k)], self.shares[self.ks.index(k)]


def vote_winners(labels: NDArray[np.int32], similarities: NDArray[np.float64], ks: Sequence[int]) -> Winners:
    """The winners of votes as vote_shares weighs them, for several k at once.

    labels and similarities: (m, K) of the neighbors, best first; ks above K are left out. Ties go to the
    lower class number.
    """
    ks = tuple(sorted({k for k in ks if 1 <= k <= labels.shape[1]}))
    rows = np.arange(len(labels))
    weights = np.exp((similarities - similarities[:, :1]) / VOTE_TEMPERATURE)
    places, names = _ballots(labels)
    votes = np.zeros(names.shape)
    classes, shares = [], []
    for place in range(ks[-1] if ks else 0):
        votes[rows, places[:, place]] += weights[:, place]
        if place + 1 in ks:
            best = votes.argmax(1)
            classes.append(names[rows, best])
            shares.append(votes[rows, best] / votes.sum(1))
    shape = (len(ks), len(labels))
    return Winners(ks, np.array(classes, np.int32).reshape(shape), np.array(shares, float).reshape(shape))


def _ballots(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Each row's own short list of classes, so that a thousand classes take no more room than k neighbors.

    Returns each label's place (m, K) in the list, and the lists (m, at most K), ascending.
    """
    if labels.size == 0:
        return np.zeros(labels.shape, np.int64), np.zeros((len(labels), 1), np.int32)
    order = labels.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, 1)
    ranks = np.zeros(labels.shape, np.int64)
    ranks[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    places = np.empty_like(ranks)
    np.put_along_axis(places, order, ranks, 1)
    names = np.zeros((len(labels), int(ranks.max()) + 1), np.int32)
    np.put_along_axis(names, ranks, ordered, 1)
    return places, names


def _nearest(
    embeddings: NDArray[np.float32],
    queries: NDArray[np.float32],
    scores: NDArray[np.float32],
    k: int,
    left_out: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The k best of `scores` (m, n), ranked again in float64; `left_out` of each row never count."""
    import torch  # slow import: 3 s; its topk takes an eighth of the time of argpartition

    wider = min(k + 8, len(embeddings) - left_out)  # room for what rounding put just outside
    near = torch.topk(torch.from_numpy(scores), wider, sorted=False).indices.numpy()
    near.sort(axis=1)
    exact = np.einsum("mkd,md->mk", embeddings[near], queries, dtype=np.float64)
    best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(near, best, 1).astype(np.int32), np.take_along_axis(exact, best, 1)
