"""Several indexes of the same items, side by side: which sees better, and where they disagree."""

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.manifest import FormatError
from index.search import neighbors_of_items, sample_items, vote_winners
from index.store import Index

OVERLAP_K = 10
VOTERS = 20
PRECISION_K = 5


@dataclass(frozen=True)
class ComparedIndex:
    """One index's figures: leave-one-out among the common items, and those of its manifest.

    The latter are None where the index holds other items too, for then they are about those as well.
    """

    name: str
    model: str
    pooling: str
    dimension: int
    knn_accuracy: float | None
    precision_at_5: float | None
    silhouette_embedding: float | None
    silhouette_map: float | None
    trustworthiness: float | None
    recall_at_15: float | None


@dataclass(frozen=True)
class ComparedPair:
    """Two indexes: the share of the 10 nearest that both find, and for how many items which vote is right."""

    one: str
    other: str
    overlap_at_10: float
    both_right: int | None
    only_one_right: int | None
    only_other_right: int | None
    neither_right: int | None


@dataclass(frozen=True)
class Comparison:
    """What a comparison found of `judged` of `common` items; up to 5,000 all are judged."""

    common: int
    judged: int
    indexes: tuple[ComparedIndex, ...]
    pairs: tuple[ComparedPair, ...]


@dataclass(frozen=True)
class Judged:
    """The nearest common items (m, k) of m judged ones, and whether the vote is right (m,)."""

    nearest: NDArray[np.int32]
    precise: NDArray[np.bool_]
    right: NDArray[np.bool_]


def compare(names: Sequence[str], indexes: Sequence[Index]) -> Comparison:
    """The indexes, held against each other on the items that they share. Raises FormatError if none."""
    items = common_items(indexes)
    count = len(items[0])
    judged_items = sample_items(count, indexes[0].manifest.seed)
    judged = [_judge(index, own, judged_items) for index, own in zip(indexes, items, strict=True)]
    labeled = all(index.manifest.source.labeled for index in indexes)
    return Comparison(
        common=count,
        judged=len(judged_items),
        indexes=tuple(
            _compared_index(name, index, votes, count, labeled)
            for name, index, votes in zip(names, indexes, judged, strict=True)
        ),
        pairs=tuple(
            _compared_pair((names[a], names[b]), (judged[a], judged[b]), labeled)
            for a, b in combinations(range(len(indexes)), 2)
        ),
    )


def common_items(indexes: Sequence[Index]) -> list[NDArray[np.int64]]:
    """The items of each index that all hold, in the same order. Raises FormatError if there are none."""
    sources = [index.manifest.source for index in indexes]
    for source in sources[1:]:
        if (source.id, source.split) != (sources[0].id, sources[0].split):
            raise FormatError(
                f"The indexes are not of the same items: {sources[0].id}, split {sources[0].split}, "
                f"and {source.id}, split {source.split}."
            )
        if source.revision != sources[0].revision or source.rows != sources[0].rows:
            raise FormatError(f"The indexes were made of different versions of {source.id}.")
    rows = indexes[0].source_rows
    for index in indexes[1:]:
        rows = np.intersect1d(rows, index.source_rows)
    if len(rows) == 0:
        raise FormatError(f"The indexes share no item: other rows of {sources[0].id} were drawn for each.")
    return [_places(index.source_rows, np.sort(rows)) for index in indexes]


def same_item(one: Index, other: Index, item: int) -> int | None:
    """The item of `other` that comes from the same row of the same source, None where there is none."""
    here, there = one.manifest.source, other.manifest.source
    if (here.id, here.split, here.revision) != (there.id, there.split, there.revision):
        return None
    found = np.flatnonzero(other.source_rows == one.source_rows[item])
    return int(found[0]) if len(found) else None


def disagreements(one: Index, other: Index, limit: int = 100) -> tuple[tuple[int, int], ...]:
    """Common items that only one of two indexes judges right, as (item in one, item in the other).

    Those where the wrong vote was surest come first. Raises FormatError as common_items does.
    """
    first, second = common_items([one, other])
    judged = sample_items(len(first), one.manifest.seed)
    votes = [_vote(index, own, judged) for index, own in ((one, first), (other, second))]
    (right, sure), (also_right, also_sure) = (
        (predicted == one.labels[first[judged]], shares) for predicted, shares in votes
    )
    differ = np.flatnonzero(right != also_right)
    wrong_share = np.where(right, also_sure, sure)[differ]
    chosen = judged[differ[np.argsort(-wrong_share, kind="stable")]][:limit]
    return tuple((int(first[item]), int(second[item])) for item in chosen)


def comparison_tables(comparison: Comparison) -> list[list[tuple[str, ...]]]:
    """Two tables as text, header first: the indexes, and the pairs of them."""
    tables = []
    for rows in (comparison.indexes, comparison.pairs):
        if rows:
            header = tuple(field.name.replace("_", " ") for field in fields(rows[0]))
            tables.append([header, *(tuple(map(_cell, astuple(row))) for row in rows)])
    return tables


def write_comparison(comparison: Comparison, out: Path) -> list[Path]:
    """Writes comparison.md, and indexes.csv and pairs.csv, into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    tables = comparison_tables(comparison)
    text = [f"{comparison.common:,} common items, {comparison.judged:,} judged."]
    text += [_markdown(table) for table in tables]
    (out / "comparison.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    files = [out / "comparison.md"]
    for name, table in zip(("indexes.csv", "pairs.csv"), tables, strict=False):
        with (out / name).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(table)
        files.append(out / name)
    return files


def _places(rows: NDArray[np.int32], wanted: NDArray[np.int32]) -> NDArray[np.int64]:
    order = np.argsort(rows, kind="stable")
    return order[np.searchsorted(rows, wanted, sorter=order)]


def _judge(index: Index, items: NDArray[np.int64], judged: NDArray[np.int64]) -> Judged:
    labels = index.labels[items]
    ids, similarities = _nearest(index, items, judged)
    winners = vote_winners(labels[ids], similarities, (ids.shape[1],))
    predicted = winners.classes[0] if winners.ks else np.full(len(judged), -1)
    precise = labels[ids[:, :PRECISION_K]] == labels[judged][:, None]
    return Judged(ids, precise, predicted == labels[judged])


def _vote(
    index: Index, items: NDArray[np.int64], judged: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Who wins the vote on each of the `judged` common items, and its share."""
    ids, similarities = _nearest(index, items, judged)
    winners = vote_winners(index.labels[items][ids], similarities, (ids.shape[1],))
    return winners.at(ids.shape[1])


def _nearest(
    index: Index, items: NDArray[np.int64], judged: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The 20 nearest others among the common items (numbered as such), and their similarities."""
    parts = list(neighbors_of_items(index.embeddings[items], judged, VOTERS))
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([near for _, near in parts])


def _compared_index(name: str, index: Index, votes: Judged, common: int, labeled: bool) -> ComparedIndex:
    manifest = index.manifest
    metrics = manifest.metrics if manifest.count == common else None
    return ComparedIndex(
        name=name,
        model=manifest.model.name,
        pooling=manifest.model.pooling,
        dimension=manifest.dimension,
        knn_accuracy=float(votes.right.mean()) if labeled else None,
        precision_at_5=float(votes.precise.mean()) if labeled and votes.precise.size else None,
        silhouette_embedding=metrics and metrics.silhouette_embedding,
        silhouette_map=metrics and metrics.silhouette_map,
        trustworthiness=metrics and metrics.trustworthiness,
        recall_at_15=metrics and metrics.recall_at_15,
    )


def _compared_pair(names: tuple[str, str], votes: tuple[Judged, Judged], labeled: bool) -> ComparedPair:
    one, other = votes
    k = min(OVERLAP_K, one.nearest.shape[1])
    shared = (one.nearest[:, :k, None] == other.nearest[:, None, :k]).any(2)
    overlap = float(shared.mean()) if shared.size else 1.0
    if not labeled:
        return ComparedPair(*names, overlap, None, None, None, None)
    right = (one.right & other.right, one.right & ~other.right, ~one.right & other.right)
    both, first, second = (int(case.sum()) for case in right)
    return ComparedPair(*names, overlap, both, first, second, len(one.right) - both - first - second)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _markdown(table: list[tuple[str, ...]]) -> str:
    header, *rows = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table)
    return "\n".join([header, "|" + "---|" * len(table[0]), *rows])
