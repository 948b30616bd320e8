"""What is selected on the map: how many items of which classes, and the first of them."""

from html import escape
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from index.store import Index
from ui.export import EXPORT_BUTTONS, EXPORT_SCRIPT, item_export
from ui.map import Maps
from ui.palette import swatch
from ui.results import item_picture

SHOWN = 48  # items in the strip; the export has them all


class SelectionView(gr.HTML):
    """A strip of the selected items; its value is `selection_value(...)`, its event `pick` has an `item`."""

    def __init__(self, maps: Maps, value: dict[str, object] | None = None, **layout: Any) -> None:
        super().__init__(
            value=value or EMPTY,
            html_template='<div class="selection">${value.html}</div>',
            js_on_load=_SCRIPT,
            apply_default_css=False,
            server_functions=[item_export(maps)],
            **layout,
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what is shown, and what a browser claims about it is dropped."""

    def api_info(self) -> dict[str, str]:
        return {"type": "object"}


EMPTY: dict[str, object] = {"key": "", "html": "", "items": []}


def selection_value(index: Index | None, key: str, items: NDArray[np.int64] | None) -> dict[str, object]:
    """Selected items (m,) as the value of a SelectionView; an empty one for no selection, or no index."""
    if index is None or items is None:
        return EMPTY
    tiles = "".join(item_tile(index, item) for item in items[:SHOWN].tolist())
    more = f"<p>The first {SHOWN} are shown.</p>" if len(items) > SHOWN else ""
    head = (
        f"<h4>{len(items):,} selected</h4>{_classes_html(index, items)}{EXPORT_BUTTONS if len(items) else ''}"
    )
    html = f'<div class="selection-head">{head}</div><div class="selection-strip">{tiles}</div>{more}'
    return {"key": key, "html": html, "items": items.tolist()}


def _classes_html(index: Index, items: NDArray[np.int64]) -> str:
    """How many of the items are in each class, the largest first."""
    if not index.manifest.source.labeled or not len(items):
        return ""
    counts = np.bincount(index.labels[items], minlength=len(index.manifest.classes))
    order = np.argsort(-counts, kind="stable")[:5]
    parts = [
        f"<li>{swatch(int(c))}{escape(index.manifest.classes[c])} {counts[c]:,}</li>"
        for c in order
        if counts[c]
    ]
    left = int((counts > 0).sum()) - len(parts)
    return f"<ul>{''.join(parts)}{f'<li>{left} more</li>' if left > 0 else ''}</ul>"


def item_tile(index: Index, item: int) -> str:
    """An item's picture over its class, as a button to search with it."""
    name = escape(index.class_of(item)) if index.manifest.source.labeled else ""
    return (
        f'<button type="button" class="tile" data-item="{item}" title="Item {item}: search with it" '
        f'aria-label="{name or "Image"}, item {item}: search with it">'
        f'{item_picture(index, item)}<span class="tile-name">{name or item}</span></button>'
    )


_SCRIPT = (
    EXPORT_SCRIPT
    + """
element.addEventListener("click", (event) => {
  const tile = event.target.closest("[data-item]");
  if (tile) trigger("pick", { item: Number(tile.dataset.item) });
  exported(event, (format) => server.export_items(props.value.key, props.value.items, null, format));
});
"""
)
