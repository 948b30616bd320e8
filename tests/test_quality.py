"""Figures that scikit-learn, or a count by hand, gives as well."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from index.figures import describe_metrics, silhouette_band
from index.quality import (
    knn_accuracy,
    map_recall,
    nearest_items,
    precision,
    silhouette,
)
from index.search import sample_items
from index.store import Index

ITEMS = np.arange(0, 5000, 5)


def test_manifest_figures_are_scikit_learns(sample: Index) -> None:
    found = sample.manifest.metrics
    silhouettes = (
        silhouette_score(sample.embeddings, sample.labels, metric="cosine"),
        silhouette_score(sample.map, sample.labels),
    )
    assert (found.silhouette_embedding, found.silhouette_map) == pytest.approx(silhouettes, abs=1e-6)
    trust = trustworthiness(sample.embeddings, sample.map, n_neighbors=15, metric="cosine")
    assert found.trustworthiness == pytest.approx(trust, abs=1e-6)


def test_knn_accuracy_is_scikit_learns(sample: Index) -> None:
    found = sample.manifest.metrics
    finder = NearestNeighbors(n_neighbors=21, metric="cosine").fit(sample.embeddings)
    distances, ids = finder.kneighbors(sample.embeddings)
    assert (ids[:, 0] == np.arange(5000)).all()
    weights = np.exp((1 - distances[:, 1:]) / 0.07)
    shares = np.stack([(weights * (sample.labels[ids[:, 1:]] == c)).sum(1) for c in range(10)], axis=1)
    assert found.knn_accuracy == pytest.approx((shares.argmax(1) == sample.labels).mean(), abs=1e-6)
    five = (sample.labels[ids[:, 1:6]] == sample.labels[:, None]).mean()
    assert found.precision_at_5 == pytest.approx(five, abs=1e-4)


def test_recall_of_the_map_is_a_share_of_true_neighbors(sample: Index) -> None:
    nearest = nearest_items(sample.embeddings, ITEMS, 15)
    on_map = (
        NearestNeighbors(n_neighbors=16).fit(sample.map).kneighbors(sample.map[ITEMS], return_distance=False)
    )
    shares = [
        len(set(true.tolist()) & set(near[near != item][:15].tolist())) / 15
        for item, true, near in zip(ITEMS, nearest.ids, on_map, strict=True)
    ]
    assert map_recall(nearest, sample.map) == pytest.approx(np.mean(shares))
    same_space = nearest_items(np.ascontiguousarray(sample.embeddings), ITEMS, 15)
    assert map_recall(same_space, sample.embeddings) == 1  # a map that is the embedding itself loses nothing


def test_accuracy_far_from_chance_is_not_an_artifact(sample: Index) -> None:
    shuffled = np.random.default_rng(0).permutation(sample.labels)
    nearest = nearest_items(sample.embeddings, ITEMS, 20)
    assert knn_accuracy(nearest, sample.labels) > 0.95
    assert knn_accuracy(nearest, shuffled) < 0.2
    assert precision(nearest, shuffled) < 0.2


def test_weighted_vote_may_overrule_the_majority() -> None:
    near = np.array([[1, 0, 0], [0.99, 0.14, 0], [0.5, 0.86, 0], [0.5, 0.5, 0.7]], np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    labels = np.array([0, 0, 1, 1], np.int32)
    nearest = nearest_items(near, np.array([0]), 3)
    assert knn_accuracy(nearest, labels) == 1  # one neighbor at .99 outweighs two at .5
    plain = KNeighborsClassifier(3, metric="cosine").fit(near[1:], labels[1:])
    assert plain.predict(near[:1]) == [1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, "clear"), (0.5, "clear"), (0.4999, "some"), (0.25, "some"), (0.2499, "weak"), (0.0, "weak"),
        (-0.0001, "nearer to another"), (-1.0, "nearer to another"),
    ],
)  # fmt: skip
def test_bands_are_half_open(value: float, words: str) -> None:
    assert words in silhouette_band(value)


def test_silhouette_needs_two_classes_with_company() -> None:
    points = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    assert silhouette(points, np.zeros(6, np.int32), "euclidean") is None
    assert silhouette(points, np.arange(6, dtype=np.int32), "euclidean") is None
    assert silhouette(points, np.array([0, 0, 0, 1, 1, 1]), "euclidean") is not None


def test_large_sets_are_measured_on_a_stated_sample() -> None:
    assert np.array_equal(sample_items(5000, 1), np.arange(5000))
    drawn = sample_items(60_000, 42)
    assert len(np.unique(drawn)) == 5000
    assert np.array_equal(drawn, sample_items(60_000, 42))


def test_table_names_the_space_of_every_silhouette(sample: Index) -> None:
    rows = {name: meaning for name, _, meaning in describe_metrics(sample.manifest)}
    assert "cosine" in rows["silhouette, embedding"]
    assert "euclidean" in rows["silhouette, map"]
