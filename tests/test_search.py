"""Search is exact: the oracle is brute force in float64, and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from index.manifest import Metrics, Projection
from index.search import neighbors_of_items, search, vote_shares
from index.store import Index


def index_of(
    embeddings: NDArray[np.float32], sample: Index, labels: NDArray[np.int32] | None = None
) -> Index:
    """An index of made-up unit rows, for questions that the sample cannot ask."""
    n, d = embeddings.shape
    manifest = replace(
        sample.manifest,
        count=n,
        dimension=d,
        metrics=Metrics(sample=n, k=20),
        projections={"umap": Projection("umap")},
    )
    labels = np.zeros(n, np.int32) if labels is None else labels
    blank = [sample.images[0]] * n
    return Index(
        manifest,
        blank,
        labels,
        np.arange(n, dtype=np.int32),
        embeddings,
        {"umap": np.zeros((n, 2), np.float32)},
    )


def unit_rows(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(embeddings: NDArray[np.float32], query: NDArray[np.float32], k: int) -> list[int]:
    similarities = embeddings.astype(np.float64) @ query.astype(np.float64)
    return np.lexsort((np.arange(len(embeddings)), -similarities))[:k].tolist()


@pytest.mark.parametrize(("n", "d"), [(1, 4), (7, 3), (500, 16), (20_000, 384)])
def test_search_finds_what_brute_force_finds(n: int, d: int, sample: Index) -> None:
    embeddings = unit_rows(n, d)
    index = index_of(embeddings, sample)
    for query in unit_rows(5, d, seed=1):
        for k in (1, 10, n):
            found = search(index, query, k)
            assert [neighbor.item for neighbor in found] == brute_force(embeddings, query, k)


def test_search_agrees_with_scikit_learn(sample: Index) -> None:
    finder = NearestNeighbors(metric="cosine", algorithm="brute").fit(sample.embeddings)
    for item in (0, 1234, 4999):
        distances, items = finder.kneighbors(sample.embeddings[[item]], 11)
        found = search(sample, sample.embeddings[item], 10, exclude=item)
        assert [neighbor.item for neighbor in found] == items[0, 1:].tolist()
        similarities = [neighbor.similarity for neighbor in found]
        assert np.allclose(similarities, 1 - distances[0, 1:], atol=1e-6)


def test_ties_are_ranked_by_item_number(sample: Index) -> None:
    embeddings = np.repeat(unit_rows(3, 64), 5, axis=0)[np.random.default_rng(2).permutation(15)]
    index = index_of(np.ascontiguousarray(embeddings), sample)
    found = [neighbor.item for neighbor in search(index, embeddings[0], 5)]
    same = np.flatnonzero((embeddings == embeddings[0]).all(1)).tolist()
    assert found == same


def test_excluded_item_is_never_found(sample: Index) -> None:
    index = index_of(unit_rows(6, 8), sample)
    found = search(index, index.embeddings[2], 50, exclude=2)
    assert sorted(neighbor.item for neighbor in found) == [0, 1, 3, 4, 5]
    assert search(index_of(unit_rows(1, 8), sample), unit_rows(1, 8)[0], 5, exclude=0) == ()


def test_embedding_of_another_length_is_refused(sample: Index) -> None:
    with pytest.raises(ValueError, match=r"shape \(7,\), expected \(192,\)"):
        search(sample, np.ones(7, np.float32), 3)


def test_neighbors_of_items_are_those_of_search(sample: Index) -> None:
    items = np.array([3, 700, 4999])
    ((ids, similarities),) = neighbors_of_items(sample.embeddings, items, 15)
    for row, item in enumerate(items.tolist()):
        found = search(sample, sample.embeddings[item], 15, exclude=item)
        assert ids[row].tolist() == [neighbor.item for neighbor in found]
        assert np.allclose(similarities[row], [neighbor.similarity for neighbor in found])


@pytest.mark.parametrize("n", [1, 2, 3, 30])
def test_neighbors_of_few_items(n: int) -> None:
    ((ids, similarities),) = neighbors_of_items(unit_rows(n, 8), np.arange(n), 20)
    assert ids.shape == similarities.shape == (n, min(20, n - 1))
    assert all(item not in row for item, row in enumerate(ids))


def test_vote_is_weighted_by_similarity() -> None:
    labels, similarities = np.array([[0, 1, 1]]), np.array([[0.9, 0.83, 0.76]])
    shares = vote_shares(labels, similarities, 3)[0]
    one, two, three = np.exp(0.0), np.exp(-1.0), np.exp(-2.0)  # steps of 0.07, worked by hand
    assert np.allclose(shares, np.array([one, two + three, 0]) / (one + two + three))
