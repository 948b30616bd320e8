"""Every item judged by the others: the stored figures are those that scikit-learn finds in the Parquet."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, silhouette_samples
from sklearn.neighbors import NearestNeighbors

from index.figures import describe_classes, worst_confusions
from index.quality import CURVE, judge
from index.search import neighbors_of_queries, vote_shares, vote_winners
from index.store import Index, load_index


@pytest.fixture(scope="module")
def index(laid_out: Path) -> Index:
    return load_index(laid_out)


@pytest.fixture(scope="module")
def columns(laid_out: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(laid_out / "data/train-00000-of-00001.parquet")
    found = {name: table[name].to_numpy() for name in ("label", "predicted", "predicted_share", "x", "y")}
    return found | {"embedding": np.stack(table["embedding"].to_numpy())}


def vote(columns: dict[str, np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Leave-one-out predictions and their shares, by scikit-learn's neighbors."""
    finder = NearestNeighbors(n_neighbors=k, metric="cosine").fit(columns["embedding"].astype(float))
    distances, ids = finder.kneighbors()
    weights = np.exp((1 - distances) / 0.07)
    votes = np.stack([(weights * (columns["label"][ids] == c)).sum(1) for c in range(10)], axis=1)
    return votes.argmax(1), votes.max(1) / votes.sum(1)


def test_curve_is_scikit_learns(index: Index, columns: dict[str, np.ndarray]) -> None:
    curve = dict(index.manifest.quality.votes.curve)
    assert tuple(curve) == CURVE
    for k, accuracy in curve.items():
        assert accuracy == pytest.approx((vote(columns, k)[0] == columns["label"]).mean(), abs=1e-6)


def test_predicted_columns_are_the_votes_of_twenty(columns: dict[str, np.ndarray], index: Index) -> None:
    predicted, shares = vote(columns, 20)
    assert np.array_equal(columns["predicted"], predicted)
    assert np.allclose(columns["predicted_share"], shares, atol=1e-5)
    assert np.array_equal(index.predicted, predicted)
    assert index.predicted_share.dtype == np.float32


def test_confusion_precision_and_recall_are_scikit_learns(
    index: Index, columns: dict[str, np.ndarray]
) -> None:
    votes = index.manifest.quality.votes
    matrix = np.zeros((10, 10), int)
    for true, predicted, count in votes.confusion:
        matrix[true, predicted] = count
    assert np.array_equal(matrix, confusion_matrix(columns["label"], columns["predicted"]))
    assert votes.items == 400
    precision, recall, _, support = precision_recall_fscore_support(columns["label"], columns["predicted"])
    for row in votes.classes:
        assert (row.precision, row.recall) == pytest.approx(
            (precision[row.label], recall[row.label]), abs=1e-6
        )
        assert row.support == support[row.label]


def test_silhouettes_of_classes_are_scikit_learns(index: Index, columns: dict[str, np.ndarray]) -> None:
    labels = columns["label"]
    in_embedding = silhouette_samples(columns["embedding"], labels, metric="cosine")
    on_map = silhouette_samples(np.stack([columns["x"], columns["y"]], axis=1), labels)
    for row in index.manifest.quality.silhouettes:
        own = labels == row.label
        assert row.items == own.sum()
        assert row.embedding == pytest.approx(in_embedding[own].mean(), abs=1e-6)
        assert row.map == pytest.approx(on_map[own].mean(), abs=1e-6)


def test_class_of_the_columns_has_its_name_in_datasets(laid_out: Path, index: Index) -> None:
    import datasets

    loaded = datasets.load_dataset(str(laid_out), split="train")
    assert loaded.features["predicted"].names == list(index.manifest.classes)


def test_winners_are_those_of_vote_shares(sample: Index) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 40, (50, 12)).astype(np.int32)
    similarities = -np.sort(-rng.random((50, 12)), axis=1)
    winners = vote_winners(labels, similarities, (1, 5, 12, 30))
    assert winners.ks == (1, 5, 12)
    for k in winners.ks:
        shares = vote_shares(labels[:, :k], similarities[:, :k], 40)
        assert np.array_equal(winners.at(k)[0], shares.argmax(1))
        assert np.allclose(winners.at(k)[1], shares.max(1))


def test_tie_goes_to_the_lower_class_number() -> None:
    labels, similarities = np.array([[7, 3]], np.int32), np.array([[0.5, 0.5]])
    assert vote_winners(labels, similarities, (2,)).classes.item() == 3


def test_class_that_no_vote_names_has_no_precision() -> None:
    labels = np.array([[0, 0], [0, 0], [0, 0]], np.int32)
    votes = judge(vote_winners(labels, np.ones((3, 2)), (1, 2)), np.array([0, 0, 5], np.int32))
    assert [(row.label, row.support, row.precision, row.recall) for row in votes.classes] == [
        (0, 2, 2 / 3, 1.0),
        (5, 1, None, 0.0),
    ]
    assert votes.k == 2
    names = tuple(f"class {number}" for number in range(6))
    assert worst_confusions(votes, names) == ["1 of 1 class 5 were taken for class 0"]


def test_new_queries_find_what_brute_force_finds(sample: Index) -> None:
    queries = sample.embeddings[:300] + sample.embeddings[300:600]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = np.concatenate([ids for ids, _ in neighbors_of_queries(sample.embeddings, queries, 9)])
    due = np.argsort(-(queries.astype(float) @ sample.embeddings.T.astype(float)), kind="stable")[:, :9]
    assert np.array_equal(found, due)


def test_table_of_classes_names_every_class(index: Index) -> None:
    rows = describe_classes(index.manifest)
    assert [row[0] for row in rows] == list(index.manifest.classes)
    assert sum(row[1] for row in rows) == 400
