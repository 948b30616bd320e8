"""The data set as it is: how many items each class has, a grid of samples, and every item's pixel values."""

import base64
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedding.image import flatten
from index.query import filled_classes, item_image
from index.standby import Opened
from index.store import Index
from ui.desk import Desk
from ui.palette import color_of, swatch
from ui.results import MAX_CRISP_SIDE, thumbnail

PAGE_ITEMS = 48  # fills rows of 3, 4, 6, 8 and 12
MAX_SEED = 2**32 - 1
NEIGHBORS = 10


class ExploreView(gr.HTML):
    """Classes, samples and pixels of an index; its value is `explore_value(...)`.

    Its event `pick` has the `item` to search with. `layout` is for gr.HTML, as elem_id.
    """

    def __init__(self, desk: Desk, value: dict[str, str] | None = None, **layout: Any) -> None:
        """`value` may be missing: Gradio makes the component again for an update that leaves it as it is."""
        super().__init__(
            value=value,
            html_template=_HTML,
            js_on_load=_script(),
            apply_default_css=False,
            server_functions=_server_functions(desk),
            **layout,  # no props: they are lost when a value comes before the tab is first opened (6.31)
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what is explored, and what a browser claims about it is dropped."""

    def api_info(self) -> dict[str, str]:
        return {"type": "object"}


def explore_value(key: str) -> dict[str, str]:
    """The index to explore, by its key."""
    return {"key": key}


def _server_functions(desk: Desk) -> list[Callable]:
    """What the browser may call; functions, because Gradio marks them and methods cannot be marked (6.31).

    Each takes one object, because Gradio hands several arguments on as one list. All answer None to what does
    not exist: any visitor may ask.
    """

    def overview(asked: object) -> dict[str, object] | None:
        opened = _asked_of(desk, asked)
        return class_counts(opened.index) if opened else None

    def samples(asked: object) -> dict[str, object] | None:
        opened = _asked_of(desk, asked)
        if opened is None:
            return None
        return sample_page(opened.index, asked.get("label"), asked.get("seed"), asked.get("page"))

    def inspect(asked: object) -> dict[str, object] | None:
        opened = _asked_of(desk, asked)
        return item_details(opened, asked.get("item")) if opened else None

    def received(asked: object) -> dict[str, object] | None:
        opened = _asked_of(desk, asked)
        return received_pixels(opened, asked.get("item")) if opened else None

    return [overview, samples, inspect, received]


def _asked_of(desk: Desk, asked: object) -> Opened | None:
    """The open index that a browser's question names by its `key`."""
    return desk.find(asked.get("key")) if isinstance(asked, dict) else None


# ---- Classes


def class_counts(index: Index) -> dict[str, object]:
    """How many items there are, in all and in each class; without classes a `note` that says so instead."""
    manifest = index.manifest
    counts = np.bincount(index.labels, minlength=len(manifest.classes)).tolist()
    classes = [
        {"name": name, "count": count, "color": color_of(label), "swatch": swatch(label)}
        for label, (name, count) in enumerate(zip(manifest.classes, counts, strict=True))
    ]
    return {
        "count": manifest.count,
        "split": manifest.source.split,
        "crisp": manifest.preparation.size <= MAX_CRISP_SIDE,
        "classes": classes if manifest.source.labeled else [],
        "note": _note(index),
    }


def _note(index: Index) -> str:
    """Why there is nothing to chart, if so."""
    count, source = index.manifest.count, index.manifest.source
    if source.labeled:
        return ""
    if source.label_column and len(names := filled_classes(index)) == 1:
        return f"All {count:,} items are in one class, {names[0]}, so there is nothing to compare."
    return f"This data set has no classes, so its {count:,} items cannot be counted by class."


# ---- Samples


def sample_page(index: Index, label: object, seed: object, page: object) -> dict[str, object] | None:
    """A page of thumbnails of all items, or of those in the class `label`; None where there is none.

    They come in the order of a shuffle with `seed`, the same for the same seed, or by number if it is None.
    """
    items = _chosen(index, label)
    if items is None or not (seed is None or _is_below(seed, MAX_SEED + 1)):
        return None
    pages = max(1, -(-len(items) // PAGE_ITEMS))
    if not _is_below(page, pages):
        return None
    if seed is not None:
        items = np.random.default_rng(seed).permutation(items)
    first = page * PAGE_ITEMS
    shown = items[first : first + PAGE_ITEMS].tolist()
    tiles = [_tile(index, item) for item in shown]
    return {"total": len(items), "pages": pages, "first": first, "tiles": tiles}


def _chosen(index: Index, label: object) -> NDArray[np.int64] | None:
    """The items of a class, all for None, None for no class."""
    if label is None:
        return np.arange(index.manifest.count)
    if not index.manifest.source.labeled or not _is_below(label, len(index.manifest.classes)):
        return None
    return np.flatnonzero(index.labels == label)


def _is_below(value: object, end: int) -> bool:
    """Whether the value is a whole number from 0 to below `end`."""
    return type(value) is int and 0 <= value < end  # not isinstance: True is an int


def _tile(index: Index, item: int) -> dict[str, object]:
    """An item as the browser shows it in passing: its class by number."""
    label = int(index.labels[item]) if index.manifest.source.labeled else None
    return {"item": item, "label": label, "image": thumbnail(index.images[item])}


# ---- One item


def item_details(opened: Opened, item: object) -> dict[str, object] | None:
    """An item with its stored pixels and its nearest neighbors; None for no item."""
    index = opened.index
    if not _is_below(item, index.manifest.count):
        return None
    stored = np.asarray(flatten(Image.open(BytesIO(index.images[item]))))
    planes = np.atleast_3d(stored).transpose(2, 0, 1)  # (channels, height, width)
    found = opened.searching.search(index.embeddings[item], NEIGHBORS, exclude=item)
    return {
        **_tile(index, item),
        "source_row": int(index.source_rows[item]),
        "pixels": _pixels(planes, [(0, 255)] * len(planes)),
        "neighbors": [_tile(index, near.item) | {"similarity": near.similarity} for near in found],
    }


def received_pixels(opened: Opened, item: object) -> dict[str, object] | None:
    """What the live model is fed for an item, or the `reason` why that is not known; None for no item."""
    if not _is_below(item, opened.index.manifest.count):
        return None
    encoder = opened.live.ready
    if encoder is None:
        loading = "The model is still loading. The values appear here as soon as it is ready."
        absent = "The model is not here, so what it would receive is not known."
        return {"reason": loading if opened.live.loading else absent, "loading": opened.live.loading}
    planes = encoder.received(item_image(opened.index, item))
    # what black and white become are the ends of the scale, whatever the processor does
    ends = [encoder.received(Image.new("L", (1, 1), level))[:, 0, 0].tolist() for level in (0, 255)]
    return {"pixels": _pixels(planes, list(zip(*ends, strict=True)))}


def _pixels(planes: NDArray, ranges: list[tuple[float, float]]) -> dict[str, object]:
    """Values (channels, height, width) for the browser: the levels there are, and each value's level.

    An 8-bit image has few levels, so this is exact and short. `ranges` has each channel's least and greatest
    possible value. `alike` says that all channels are the same, of which then only the first is sent.
    """
    alike = len(planes) > 1 and bool((planes == planes[0]).all())
    sent = planes[:1] if alike else planes
    levels, codes = np.unique(sent, return_inverse=True)
    narrow = codes.astype(np.min_scalar_type(len(levels) - 1).newbyteorder("<"))
    return {
        "width": planes.shape[2],
        "height": planes.shape[1],
        "channels": len(sent),
        "alike": alike,
        "ranges": ranges[: len(sent)],
        "levels": levels.tolist(),
        "bytes": narrow.itemsize,
        "codes": base64.b64encode(narrow.tobytes()).decode(),
    }


@lru_cache
def _script() -> str:
    return Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


# Gradio runs a template as code, so it may hold no data: class names come from the server functions.
_HTML = """
<div class="explore">
  <section class="explore-classes" aria-label="Classes">
    <h3>Classes</h3>
    <p class="explore-note" hidden></p>
    <div class="explore-chart">
      <table>
        <thead>
          <tr><th scope="col">Class</th><th scope="col">Items</th><th scope="col">Share</th>
          <th scope="col"><span class="explore-unseen">Bar</span></th></tr>
        </thead>
        <tbody></tbody>
        <tfoot></tfoot>
      </table>
    </div>
  </section>
  <section class="explore-samples" aria-label="Samples">
    <div class="explore-bar">
      <h3 tabindex="-1">Samples</h3>
      <div class="explore-tools">
        <div class="explore-switch" role="group" aria-label="Order">
          <button type="button" data-order="random" aria-pressed="true">Random</button>
          <button type="button" data-order="number" aria-pressed="false">By number</button>
        </div>
        <div class="explore-seed">
          <label>Seed <input type="text" inputmode="numeric" autocomplete="off"></label>
          <button type="button" class="explore-button" data-act="shuffle">Shuffle</button>
        </div>
      </div>
      <div class="explore-pager" role="group" aria-label="Pages">
        <button type="button" data-step="-1" aria-label="Previous page">
          <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M10 3 5 8l5 5"/></svg>
        </button>
        <span class="explore-range" role="status"></span>
        <button type="button" data-step="1" aria-label="Next page">
          <svg viewBox="0 0 16 16" aria-hidden="true"><path d="m6 3 5 5-5 5"/></svg>
        </button>
      </div>
    </div>
    <p class="explore-note" role="status">Loading …</p>
    <div class="explore-grid"></div>
    <div class="explore-pager explore-more" role="group" aria-label="Pages, below the samples">
      <button type="button" data-step="-1">Previous</button>
      <span class="explore-range"></span>
      <button type="button" data-step="1">Next</button>
    </div>
  </section>
  <dialog class="explore-item" aria-labelledby="explore-title">
    <header>
      <h3 id="explore-title" tabindex="-1"></h3>
      <button type="button" data-act="close" aria-label="Close">
        <svg viewBox="0 0 16 16" aria-hidden="true"><path d="m3 3 10 10M13 3 3 13"/></svg>
      </button>
    </header>
    <div class="explore-picture">
      <div class="explore-stage">
        <canvas tabindex="0" role="img"></canvas>
        <p class="explore-note" role="status" hidden></p>
      </div>
      <div class="explore-foot">
        <p class="explore-readout"></p>
        <div class="explore-zoom" role="group" aria-label="Zoom">
          <button type="button" data-act="out" aria-label="Zoom out" title="Zoom out">
            <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 8h10"/></svg>
          </button>
          <button type="button" data-act="in" aria-label="Zoom in" title="Zoom in">
            <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M8 3v10M3 8h10"/></svg>
          </button>
        </div>
      </div>
    </div>
    <div class="explore-facts">
      <dl></dl>
      <button type="button" class="explore-button explore-primary" data-act="search">Search with this</button>
      <div class="explore-choice">
        <h4>Values</h4>
        <div class="explore-switch" role="group" aria-label="Values">
          <button type="button" data-values="stored" aria-pressed="true">Stored</button>
          <button type="button" data-values="received" aria-pressed="false">What the model receives</button>
        </div>
        <div class="explore-switch explore-channels" role="group" aria-label="Channel" hidden></div>
        <div class="explore-scale"></div>
        <p class="explore-hint"></p>
      </div>
      <div class="explore-where" hidden>
        <h4>Shown part</h4>
        <canvas aria-hidden="true"></canvas>
      </div>
      <div class="explore-near">
        <h4>Nearest neighbors, with their similarity</h4>
        <div class="explore-strip"></div>
      </div>
    </div>
  </dialog>
</div>
"""
