"""Two indexes of the same items: how far their answers agree, and their figures side by side."""

from collections.abc import Callable
from functools import lru_cache
from html import escape
from typing import Any

import gradio as gr
import numpy as np
import pyarrow as pa

from embedding.image import QueryError
from index.compare import Comparison, common_items, compare, comparison_tables, disagreements
from index.manifest import FormatError
from index.query import Answer
from index.store import Index
from ui.export import EXPORT_BUTTONS, EXPORT_SCRIPT, table_file
from ui.map import Maps, for_browsers

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


class FiguresView(gr.HTML):
    """The figures of two indexes as tables; its value is `figures_value(...)`."""

    def __init__(self, maps: Maps, value: dict[str, object] | None = None, **layout: Any) -> None:
        super().__init__(
            value=value or {"keys": [], "html": ""},
            html_template='<div class="compare-figures">${value.html}</div>',
            js_on_load=_SCRIPT,
            apply_default_css=False,
            server_functions=[_export(maps)],
            **layout,
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what is shown, and what a browser claims about it is dropped."""

    def api_info(self) -> dict[str, str]:
        return {"type": "object"}


def figures_value(maps: Maps, one: str, other: str) -> dict[str, object]:
    """The figures of two indexes, by the keys of their maps; finding them takes a search for every item."""
    try:
        comparison = comparing(maps)(one, other)
    except FormatError as error:
        return {"keys": [], "html": f'<p class="results-note">{escape(str(error))}</p>'}
    about = f"<p>{comparison.common:,} common items, {comparison.judged:,} judged, each by the others.</p>"
    tables = enumerate(comparison_tables(comparison))
    return {
        "keys": [one, other],
        "html": about + "".join(_table_html(place, table) for place, table in tables),
    }


@lru_cache(maxsize=1)  # there is one Maps in an app
def comparing(maps: Maps) -> Callable[[str, str], Comparison]:
    """The function that compares two indexes by the keys of their maps, and remembers what it found."""

    @lru_cache(maxsize=8)
    def compared(one: str, other: str) -> Comparison:
        return compare(("left", "right"), [maps.index(one), maps.index(other)])

    return compared


def _export(maps: Maps) -> Callable:
    """The function that browsers ask for a table of figures as a file."""

    def export_figures(keys: object, place: object, format: object) -> dict[str, str] | None:
        if not isinstance(keys, list) or len(keys) != 2 or None in map(maps.index, keys):
            return None
        if type(place) is not int or place not in (0, 1):
            return None
        header, *rows = comparison_tables(comparing(maps)(*keys))[place]
        columns = {name: [row[column] for row in rows] for column, name in enumerate(header)}
        return table_file(pa.table(columns), ("indexes", "pairs")[place], format)

    return for_browsers(export_figures)


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


def _table_html(place: int, table: list[tuple[str, ...]]) -> str:
    header, *rows = table
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<section data-place="{place}">{EXPORT_BUTTONS}'
        f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div></section>'
    )


_SCRIPT = (
    EXPORT_SCRIPT
    + """
element.addEventListener("click", (event) => exported(event, (format) => {
  const place = Number(event.target.closest("[data-place]").dataset.place);
  return server.export_figures(props.value.keys, place, format);
}));
"""
)
