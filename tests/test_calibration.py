"""What is said about votes comes true, on items that had no part in learning it."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from index.calibration import (
    calibrate,
    calibrated,
    familiarity,
    fit_bins,
    is_unlike,
    reliability_of,
)
from index.quality import leave_one_out, nearest_items
from index.store import Index


def made_up(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Votes whose share s is right with the probability s * s."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.2, 1, count).round(3)
    return shares, rng.random(count) < shares**2


@pytest.mark.parametrize("seed", range(5))
def test_stated_shares_come_true_within_three_points(seed: int) -> None:
    bins = fit_bins(*made_up(10_000, seed))
    shares, right = made_up(10_000, 100 + seed)
    for row in reliability_of(bins, shares, right):
        chance = 2 * np.sqrt(0.25 / row.count)  # what the judged items alone may be off by
        assert abs(row.stated - row.right / row.count) < 0.03 + chance


@pytest.mark.parametrize("count", [1, 49, 100, 500, 5000])
def test_bins_rise_and_hold_enough_items(count: int) -> None:
    bins = fit_bins(*made_up(count, 0))
    rates = [right / of for _, right, of in bins]
    assert 1 <= len(bins) <= 10
    assert rates == sorted(rates)
    assert sum(of for _, _, of in bins) == count
    assert all(of >= min(50, count) for _, _, of in bins)


def test_bins_are_merged_steps_of_the_isotonic_regression() -> None:
    shares, right = made_up(3000, 3)
    steps = IsotonicRegression().fit(shares, right)
    for least, hits, count in fit_bins(shares, right):
        own = (shares >= least)[np.argsort(shares, kind="stable")].argmax()
        inside = np.sort(shares)[own : own + count]
        assert steps.predict(inside).sum() == pytest.approx(hits, abs=1e-6)


def test_calibration_of_the_sample_is_honest(sample: Index) -> None:
    even, odd = np.arange(0, 5000, 2), np.arange(1, 5000, 2)
    votes = [
        leave_one_out(nearest_items(sample.embeddings, half, 50), sample.labels, range(1, 51))
        for half in (even, odd)
    ]
    calibration = calibrate(votes[0], sample.labels[even], held_out=False, seed=1)
    assert calibration.items == 2500
    assert len(calibration.bins) == 50
    for k in (1, 5, 10, 20, 50):
        predicted, shares = votes[1].at(k)
        stated = np.array([calibrated(calibration, k, share).right for share in shares])
        assert abs(stated.mean() - (predicted == sample.labels[odd]).mean()) < 0.02
    assert calibrated(calibration, 10, 1.0).right > calibrated(calibration, 10, 0.3).right


def test_calibration_says_how_many_votes_it_is_about(sample: Index) -> None:
    items = np.arange(5000)
    votes = leave_one_out(nearest_items(sample.embeddings, items, 50), sample.labels, range(1, 51))
    calibration = calibrate(votes, sample.labels, held_out=False, seed=1)
    found = calibrated(calibration, 1, 1.0)  # a single neighbor always has the whole vote
    assert (found.of, found.right) == (5000, found.count / 5000)
    assert calibrated(calibration, 10, 0.0) == calibrated(calibration, 10, calibration.bins[9][0][0])
    assert calibrated(calibration, 99, 1.0) == calibrated(calibration, 50, 1.0)
    assert sum(row.count for row in calibration.reliability) == 5000


def test_share_that_was_summed_in_another_order_falls_into_the_same_bin(sample: Index) -> None:
    items = np.arange(5000)
    votes = leave_one_out(nearest_items(sample.embeddings, items, 20), sample.labels, range(1, 21))
    calibration = calibrate(votes, sample.labels, held_out=False, seed=1)
    assert calibrated(calibration, 20, 1 - 1e-9) == calibrated(calibration, 20, 1.0)


def test_too_few_items_teach_nothing(sample: Index) -> None:
    few = nearest_items(sample.embeddings, np.arange(99), 10)
    votes = leave_one_out(few, sample.labels, range(1, 11))
    assert calibrate(votes, sample.labels[:99], held_out=False, seed=1) is None
    assert familiarity(np.ones(99), held_out=False) is None
    assert not is_unlike(None, -1.0)


def test_one_in_a_hundred_known_items_counts_as_unlike(sample: Index) -> None:
    nearest = nearest_items(sample.embeddings, np.arange(5000), 1).similarities[:, 0]
    known = familiarity(nearest, held_out=False)
    assert known.similarity == pytest.approx(np.percentile(nearest, 1))
    assert np.mean([is_unlike(known, value) for value in nearest]) == pytest.approx(0.01, abs=1e-3)
