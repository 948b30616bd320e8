"""How often votes are right, and how similar to its nearest item an image should be: learnt from items."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.manifest import Calibration, Familiarity, ReliabilityBin
from index.search import Winners

CALIBRATED_KS = tuple(range(1, 51))
RELIABILITY_K = 10  # what the app asks for unless told otherwise
MOST_BINS = 10
FEWEST = 50  # items in a bin, at least
STANDARD_ERROR = 0.01  # of a bin's share: with it, what is stated comes true within 3 points
LARGEST = 0.3  # of the items: no bin needs more, however wide its error
FOLDS = 5
RARE = 1  # percent of known items that are less similar to their nearest than what counts as familiar
ROUNDING = 1e-6  # shares are kept to six digits

Bins = tuple[tuple[float, int, int], ...]


@dataclass(frozen=True)
class Calibrated:
    """Of `of` votes with such a share of the winning class, `count` were right: the share `right`."""

    right: float
    count: int
    of: int


def calibrate(winners: Winners, labels: NDArray[np.int32], held_out: bool, seed: int) -> Calibration | None:
    """How often the winners of votes on m items of classes `labels` are right; None below 100 items.

    Judging them, for the reliability, uses each fifth of the items with what the others teach.
    """
    ks = [k for k in CALIBRATED_KS if k in winners.ks]
    if len(labels) < 2 * FEWEST or not ks:
        return None
    votes = [winners.at(k) for k in ks]
    k = min(RELIABILITY_K, ks[-1])
    predicted, shares = winners.at(k)
    return Calibration(
        held_out=held_out,
        items=len(labels),
        bins=tuple(fit_bins(shares, predicted == labels) for predicted, shares in votes),
        reliability_k=k,
        reliability=reliability(shares, predicted == labels, seed),
    )


def calibrated(calibration: Calibration, k: int, share: float) -> Calibrated:
    """How often votes of k neighbors are right where the winner got such a share, 0 to 1."""
    bins = calibration.bins[min(k, len(calibration.bins)) - 1]
    _, right, count = bins[int(_bin_of(bins, np.array([share]))[0])]
    return Calibrated(right / count, right, count)


def fit_bins(shares: NDArray[np.float64], right: NDArray[np.bool_]) -> Bins:
    """At most ten bins of shares, of at least 50 items, in which ever more votes are right.

    Isotonic regression finds the steps; then those merge that lose least by it, so that each holds enough
    items to tell its share.
    """
    from sklearn.isotonic import IsotonicRegression  # slow import: 2 to 7 s, needed for learning only

    steps = IsotonicRegression().fit_transform(shares, right)
    order = np.argsort(shares, kind="stable")
    starts = np.flatnonzero(np.diff(steps[order], prepend=-1.0) > 0)
    counts = np.diff([*starts, len(shares)])
    rights = np.add.reduceat(right[order].astype(int), starts)
    blocks = [
        (float(least), int(hits), int(count))
        for least, hits, count in zip(shares[order][starts], rights, counts, strict=True)
    ]
    ends = _partition([(hits, count) for _, hits, count in blocks])
    bins = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        inside = blocks[start:end]
        bins.append((round(inside[0][0], 6), sum(b[1] for b in inside), sum(b[2] for b in inside)))
    return tuple(bins)


def reliability(
    shares: NDArray[np.float64], right: NDArray[np.bool_], seed: int
) -> tuple[ReliabilityBin, ...]:
    """What was said about votes, and what came true, each vote judged by bins that it had no part in."""
    folds = np.random.default_rng(seed).permutation(len(shares)) % FOLDS
    stated = np.empty(len(shares))
    for fold in range(FOLDS):
        bins = fit_bins(shares[folds != fold], right[folds != fold])
        stated[folds == fold] = _stated(bins, shares[folds == fold])
    return reliability_table(fit_bins(shares, right), shares, right, stated)


def reliability_of(
    bins: Bins, shares: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """The bins held against other votes than those they were learnt from."""
    return reliability_table(bins, shares, right, _stated(bins, shares))


def reliability_table(
    bins: Bins, shares: NDArray[np.float64], right: NDArray[np.bool_], stated: NDArray[np.float64]
) -> tuple[ReliabilityBin, ...]:
    """Votes (m,) sorted into bins: how many were right, and the mean of what was stated of them."""
    places = _bin_of(bins, shares)
    return tuple(
        ReliabilityBin(least, float(stated[own].mean()), int(right[own].sum()), int(own.sum()))
        for (least, _, _), own in ((bins[place], places == place) for place in np.unique(places))
    )


def familiarity(similarities: NDArray[np.float64], held_out: bool) -> Familiarity | None:
    """What similarity (m,) to their nearest item all but 1 % of known items reach; None below 100 items."""
    if len(similarities) < 100 // RARE:
        return None
    return Familiarity(float(np.percentile(similarities, RARE)), len(similarities), held_out)


def is_unlike(known: Familiarity | None, similarity: float) -> bool:
    """Whether an image is less similar to its nearest item than 99 % of known items are to theirs."""
    return known is not None and similarity < known.similarity


def _partition(blocks: list[tuple[int, int]]) -> list[int]:
    """Where bins of (right, count) blocks end: those that lose the least squared error of all that may be.

    A bin must hold enough items. If no two bins can, two that are only large enough are better than one: few
    votes are wrong in an easy set.
    """
    rights, counts = (np.cumsum([0, *column]) for column in zip(*blocks, strict=True))
    enough = LARGEST * counts[-1]
    for most, demand in ((MOST_BINS, enough), (2, 0.0)):
        ends = _cheapest(rights, counts, most, demand)
        if len(ends) > 1:
            return ends
    return [len(blocks)]


def _cheapest(rights: NDArray[np.int64], counts: NDArray[np.int64], most: int, largest: float) -> list[int]:
    """The ends of at most `most` bins with the least squared error, by dynamic programming over their number.

    A bin needs as many items as tell its share, or `largest`, and 50 in any case.
    """
    total = len(counts) - 1
    least = np.full((most + 1, total + 1), np.inf)  # of the first blocks, in so many bins
    least[0, 0] = 0
    came_from = np.zeros((most + 1, total + 1), int)
    for end in range(1, total + 1):
        count, right = counts[end] - counts[:end], rights[end] - rights[:end]
        share = right / count
        needed = np.maximum(np.minimum(share * (1 - share) / STANDARD_ERROR**2, largest), FEWEST)
        error = np.where(count >= needed, count * share * (1 - share), np.inf)
        for bins in range(1, most + 1):
            errors = least[bins - 1, :end] + error
            came_from[bins, end] = errors.argmin()
            least[bins, end] = errors.min()
    bins = int(least[:, total].argmin())
    ends = []
    end = total if np.isfinite(least[bins, total]) else 0
    while end:
        ends.append(end)
        bins, end = bins - 1, int(came_from[bins, end])
    return ends[::-1]


def _bin_of(bins: Bins, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """The number of each share's bin; below all of them, the first."""
    edges = np.array([least for least, _, _ in bins])
    return np.maximum(np.searchsorted(edges, shares + ROUNDING, side="right") - 1, 0)


def _stated(bins: Bins, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([right / count for _, right, count in bins])[_bin_of(bins, shares)]
