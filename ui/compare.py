"""Two indexes of the same items: how far their answers agree, and their figures side by side."""

from collections.abc import Callable
from functools import lru_cache
from html import escape

import numpy as np

from embedding.image import QueryError
from index.compare import common_items, compare, comparison_tables, disagreements
from index.manifest import FormatError
from index.query import Answer
from index.store import Index
from ui.map import Maps

RIGHT = {True: "right", False: "wrong"}


def verdict_html(indexes: tuple[Index, Index], answers: list[Answer]) -> str:
    """How far two answers agree, and which is right: by source row, for item numbers may differ."""
    sides = list(zip(indexes, answers, strict=True))
    rows = [{int(index.source_rows[near.item]) for near in found.neighbors} for index, found in sides]
    k = len(answers[0].neighbors)
    words = [f"<strong>overlap@{k}: {len(rows[0] & rows[1])} of {k}</strong> neighbors are the same."]
    judged = [_judged(index, found) for index, found in sides]
    if None not in judged:
        words.append(f"The vote on the left is {RIGHT[judged[0]]}, on the right {RIGHT[judged[1]]}.")
    return f'<p class="compare-verdict" role="status">{" ".join(words)}</p>'


def comparing(maps: Maps) -> Callable[[str, str], str]:
    """The function that gives two indexes' figures, by the keys of their maps; it remembers what it found."""

    @lru_cache(maxsize=8)
    def tables_html(one: str, other: str) -> str:
        indexes = [maps.index(one), maps.index(other)]
        try:
            comparison = compare(("left", "right"), indexes)
        except FormatError as error:
            return f'<p class="results-note">{escape(str(error))}</p>'
        about = (
            f"<p>{comparison.common:,} common items, {comparison.judged:,} judged, each by the others.</p>"
        )
        return about + "".join(_table_html(table) for table in comparison_tables(comparison))

    return tables_html


def splitting(maps: Maps) -> Callable[[str, str, int | None], int]:
    """The function that gives the next item that only one of two indexes judges right, after `item`."""

    @lru_cache(maxsize=8)
    def items(one: str, other: str) -> list[int]:
        return [item for item, _ in disagreements(maps.index(one), maps.index(other))]

    def next_item(one: str, other: str, item: int | None) -> int:
        try:
            found = items(one, other)
        except FormatError as error:
            raise QueryError(str(error)) from None
        if not found:
            raise QueryError("Both indexes judge the same items right.")
        return found[(found.index(item) + 1) % len(found)] if item in found else found[0]

    return next_item


def random_item(one: Index, other: Index) -> int:
    """An item of `one` that `other` holds as well. Raises QueryError if there is none."""
    try:
        return int(np.random.default_rng().choice(common_items([one, other])[0]))
    except FormatError as error:
        raise QueryError(str(error)) from None


def _judged(index: Index, found: Answer) -> bool | None:
    """Whether the vote names the query's class; None where that is not known."""
    if found.query.item is None or not found.vote or not index.manifest.source.labeled:
        return None
    return bool(found.vote[0][0] == index.labels[found.query.item])


def _table_html(table: list[tuple[str, ...]]) -> str:
    header, *rows = table
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="compare-figures"><tr>{head}</tr>{body}</table></div>'
