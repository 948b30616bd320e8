"""Exact cosine search and the vote of what it finds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.store import Index

VOTE_TEMPERATURE = 0.07  # as in DINOv2's own k-NN evaluation
ROUNDING = 4e-6  # a float32 dot product of unit vectors is off by less; what is nearer is ranked in float64
CHUNK = 256


@dataclass(frozen=True)
class Neighbor:
    """An item near a query; similarity is the cosine, -1 to 1."""

    item: int
    label: int
    similarity: float


def search(
    index: Index, embedding: NDArray[np.float32], k: int, exclude: int | None = None
) -> tuple[Neighbor, ...]:
    """The k items most similar to a unit `embedding` (d,), best first; fewer if the index is smaller.

    `exclude` is left out: an indexed query is not its own neighbor. The order is that of float64 arithmetic,
    ties by item number. Raises ValueError if `embedding` does not have the index's dimension.
    """
    if embedding.shape != (index.manifest.dimension,):
        raise ValueError(f"embedding has shape {embedding.shape}, expected ({index.manifest.dimension},)")
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
    exact = np.einsum("id,d->i", index.embeddings[near], embedding, dtype=np.float64)
    best = np.lexsort((near, -exact))[:k]
    return tuple(Neighbor(int(near[i]), int(index.labels[near[i]]), float(exact[i])) for i in best)


def neighbors_of_items(
    embeddings: NDArray[np.float32], items: NDArray[np.int64], k: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """The k nearest other rows of each of `items`, chunk by chunk: ids and similarities, both (m, k).

    Best first; of more than eight ties for the last place any may be left out. Takes 3 kB of memory a row.
    """
    k = min(k, len(embeddings) - 1)
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        scores = embeddings[chunk] @ embeddings.T  # (m, n)
        scores[np.arange(len(chunk)), chunk] = -np.inf
        wider = min(k + 8, len(embeddings) - 1)  # room for what rounding put just outside
        near = (
            np.argpartition(scores, -wider, axis=1)[:, -wider:]
            if wider
            else np.empty((len(chunk), 0), np.int64)
        )
        near.sort(axis=1)
        exact = np.einsum("mkd,md->mk", embeddings[near], embeddings[chunk], dtype=np.float64)
        best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        yield np.take_along_axis(near, best, 1).astype(np.int32), np.take_along_axis(exact, best, 1)


def vote_shares(
    labels: NDArray[np.int32], similarities: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """Class shares (m, classes) of labels (m, k), weighted by exp(similarity / 0.07); rows sum to 1."""
    weights = np.exp((similarities - similarities.max(1, keepdims=True)) / VOTE_TEMPERATURE)
    shares = np.zeros((len(labels), classes))
    np.add.at(shares, (np.arange(len(labels))[:, None], labels), weights)
    return shares / weights.sum(1, keepdims=True)
