"""An answer as HTML for people, and as JSON for programs."""

import base64
import json
from dataclasses import asdict
from html import escape
from io import BytesIO
from typing import Any

import gradio as gr
from PIL import Image

from embedding.image import flatten
from index.calibration import Calibrated, calibrated, is_unlike
from index.query import Answer
from index.search import Neighbor
from index.store import Index
from ui.export import EXPORT_BUTTONS, EXPORT_SCRIPT, item_export
from ui.link import link_to
from ui.map import Maps
from ui.palette import color_of, swatch

VOTE_ROWS = 5
MAX_CRISP_SIDE = 64  # pixels
TILE_SIDE = 160  # pixels
EMPTY = (
    '<div class="results-empty"><strong>No query yet</strong>'
    "<p>Choose a class, upload an image, draw a sketch or click a point on the map.</p></div>"
)


class ResultsView(gr.HTML):
    """Query, vote and neighbors; its value is `answer_html(...)`, its event `pick` has the clicked `item`."""

    def __init__(self, maps: Maps, value: str = EMPTY, **layout: Any) -> None:
        super().__init__(
            value=value,
            html_template='<div class="results">${value}</div>',
            js_on_load=_SCRIPT,
            apply_default_css=False,
            server_functions=[item_export(maps)],
            **layout,
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what is shown, and what a browser claims about it is dropped."""

    def postprocess(self, value: str | None) -> str:
        return value or EMPTY


def answer_html(index: Index, key: str, answer: Answer) -> str:
    """The answer's query, vote and neighbors; `key` is that of the index's map."""
    return _query_html(index, answer) + _vote_html(index, answer) + _neighbors_html(index, key, answer)


def answer_json(index: Index, answer: Answer) -> dict[str, object]:
    """The answer in plain JSON types: classes by name, images as data URLs."""
    query, classes = answer.query, index.manifest.classes
    return {
        "query": {
            "kind": query.kind,
            "item": query.item,
            "label": None if query.item is None or not _labeled(index) else index.class_of(query.item),
            "x": float(answer.position[0]),
            "y": float(answer.position[1]),
            "image": image_data_url(query.image),
        },
        "neighbors": [_neighbor_json(index, rank, found) for rank, found in enumerate(answer.neighbors, 1)],
        "vote": [{"label": classes[label], "share": float(share)} for label, share in answer.vote],
        "calibrated": _calibrated_json(index, answer),
        "unlike": _is_unlike(index, answer),
        "milliseconds": {step: float(answer.milliseconds[step]) for step in ("prepare", "embed", "search")},
    }


def about_json(index: Index) -> dict[str, object]:
    """Which index and model these are, in plain JSON types."""
    manifest = index.manifest
    return {
        "index": {
            "title": manifest.title,
            "source": asdict(manifest.source),
            "fingerprint": manifest.fingerprint,
        },
        "model": {"id": manifest.model.name, "revision": manifest.model.revision},
        "counts": {
            "items": manifest.count,
            "dimension": manifest.dimension,
            "classes": {
                name: int((index.labels == label).sum()) for label, name in enumerate(manifest.classes)
            },
        },
        "metrics": asdict(manifest.metrics),
        "projections": {name: asdict(projection) for name, projection in manifest.projections.items()},
        "versions": manifest.versions,
        "seed": manifest.seed,
    }


def map_json(index: Index) -> dict[str, list]:
    """Every item's coordinates and class name, in the order of the item numbers."""
    return {
        "x": index.map[:, 0].tolist(),
        "y": index.map[:, 1].tolist(),
        "label": [index.manifest.classes[label] for label in index.labels],
    }


def data_url(file: bytes) -> str:
    """An image file's bytes, as they are, as a data URL."""
    return f"data:{_media_type(file)};base64,{base64.b64encode(file).decode()}"


def thumbnail(file: bytes) -> str:
    """An image file as a data URL: as it is, or if it is large, small enough for a page of them."""
    image = Image.open(BytesIO(file))
    if max(image.size) <= TILE_SIDE:
        return data_url(file)
    image.draft("RGB", (TILE_SIDE, TILE_SIDE))  # a JPEG decoder skips what a small tile does not need
    small = flatten(image)
    small.thumbnail((TILE_SIDE, TILE_SIDE))
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return data_url(buffer.getvalue())


def image_data_url(image: Image.Image) -> str:
    """An image as the data URL of a PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return data_url(buffer.getvalue())


def _calibrated_json(index: Index, answer: Answer) -> dict[str, float | int | bool] | None:
    """How often votes like this one were right, None where that is not known."""
    found = _calibrated(index, answer)
    return found and {"right": found.right, "count": found.count, "of": found.of}


def _calibrated(index: Index, answer: Answer) -> Calibrated | None:
    calibration = index.manifest.calibration
    if calibration is None or not answer.vote or not _labeled(index):
        return None
    return calibrated(calibration, len(answer.neighbors), answer.vote[0][1])


def _is_unlike(index: Index, answer: Answer) -> bool:
    """Whether the query is less similar to its nearest item than 99 % of known items are to theirs."""
    return bool(answer.neighbors) and is_unlike(index.manifest.familiarity, answer.neighbors[0].similarity)


def _neighbor_json(index: Index, rank: int, neighbor: Neighbor) -> dict[str, object]:
    x, y = index.map[neighbor.item]
    return {
        "rank": rank,
        "item": int(neighbor.item),
        "label": index.manifest.classes[neighbor.label],
        "similarity": float(neighbor.similarity),
        "x": float(x),
        "y": float(y),
        "image": data_url(index.images[neighbor.item]),
    }


def _media_type(file: bytes) -> str:
    if file.startswith(b"\x89PNG"):
        return "image/png"
    if file.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if file[:4] == b"RIFF" and file[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"


def _labeled(index: Index) -> bool:
    return index.manifest.source.labeled


def _query_html(index: Index, answer: Answer) -> str:
    query, words = answer.query, ""
    if query.item is not None:
        title = escape(index.class_of(query.item)) if _labeled(index) else "Query"
        mark = swatch(int(index.labels[query.item])) if _labeled(index) else ""
        pictures = _picture(query.image, "")
        words = f"<h3>{mark}{title}</h3><p>item {query.item}</p>{_link_html(answer)}"
    else:
        noun = "sketch" if query.kind == "sketch" else "image"
        pictures = _picture(query.original, f"Your {noun}") if query.original else ""
        pictures += _picture(query.image, "What the model sees")
    return f'<section class="results-query" aria-label="Query">{pictures}<div>{words}</div></section>'


def _link_html(answer: Answer) -> str:
    """The button that copies a link to what is on screen, and the field for where that is not allowed."""
    return (
        f'<button type="button" class="link" data-link="{escape(link_to(answer) or "")}">Copy link</button>'
        '<input class="link-field" type="text" readonly hidden aria-label="Link to this query">'
    )


def _picture(image: Image.Image, caption: str) -> str:
    words = f"<figcaption>{caption}</figcaption>" if caption else ""
    alt = caption or "Query image"
    look = f"picture{crisp(max(image.size))}"
    return f'<figure><img class="{look}" src="{image_data_url(image)}" alt="{alt}">{words}</figure>'


def item_picture(index: Index, item: int) -> str:
    """An item's image for a place that names it already."""
    look = f"picture{crisp(index.manifest.preparation.size)}"
    return f'<img class="{look}" src="{thumbnail(index.images[item])}" alt="">'


def crisp(side: int) -> str:
    """The class that keeps the pixels of a small image square when it is enlarged."""
    return " pixels" if 0 < side <= MAX_CRISP_SIDE else ""


def _vote_html(index: Index, answer: Answer) -> str:
    if not _labeled(index):
        rows = '<p class="results-note">This data set has no classes, so there is no vote.</p>'
    else:
        bars = [_bar(index.manifest.classes[label], label, share) for label, share in answer.vote[:VOTE_ROWS]]
        rows = f'<ul class="vote">{"".join(bars)}</ul>'
        if (more := len(answer.vote) - VOTE_ROWS) > 0:
            rows += f'<p class="results-note">{more} more</p>'
        rows += _reason_html(index, answer)
    return f'<section aria-label="Vote"><h4>Class vote</h4>{rows}</section>'


def _reason_html(index: Index, answer: Answer) -> str:
    """How much the vote is worth, in words: by its neighbors, by votes like it, by how near they are."""
    if not answer.vote:
        return ""
    winner, total = answer.vote[0][0], len(answer.neighbors)
    agreeing = sum(neighbor.label == winner for neighbor in answer.neighbors)
    name = escape(index.manifest.classes[winner])
    words = (
        f"{agreeing} of {total} neighbor{'' if total == 1 else 's'} {'is' if agreeing == 1 else 'are'} {name}"
    )
    if found := _calibrated(index, answer):
        words += f"; votes like this are right {_percent(found.right)} of the time"
    note = f'<p class="results-note">{words}.</p>'
    if _is_unlike(index, answer):
        note += '<p class="results-warning">This is unlike anything in this index: take the vote lightly.</p>'
    return note


def _bar(name: str, label: int, share: float) -> str:
    return (
        f'<li><span class="vote-name">{escape(name)}</span> <span class="vote-share">{_percent(share)}</span>'
        '<span class="vote-bar">'
        f'<span style="width:{100 * share:.1f}%;background:{color_of(label)}"></span></span></li>'
    )


def _percent(share: float) -> str:
    """A share in whole percent; neither nothing nor everything unless it is."""
    if 0 < share < 0.01:
        return "&lt;1 %"
    if 0.995 <= share < 1:
        return "&gt;99 %"
    return f"{100 * share:.0f} %"


def _neighbors_html(index: Index, key: str, answer: Answer) -> str:
    tiles = "".join(_tile_html(index, neighbor) for neighbor in answer.neighbors)
    number = len(answer.neighbors)
    heading = f"{number} nearest neighbor{'' if number == 1 else 's'}"
    rows = json.dumps([[neighbor.item, neighbor.similarity] for neighbor in answer.neighbors])
    return (
        f'<section aria-label="Neighbors" data-key="{key}" data-rows="{rows}">'
        f'<div class="results-head"><h4>{heading}</h4>{EXPORT_BUTTONS}</div>'
        f'<div class="strip">{tiles}</div></section>'
    )


def _tile_html(index: Index, neighbor: Neighbor) -> str:
    name = escape(index.manifest.classes[neighbor.label]) if _labeled(index) else ""
    mark = swatch(neighbor.label) if _labeled(index) else ""
    item, similarity = neighbor.item, f"{neighbor.similarity:.3f}"
    return (
        f'<button type="button" class="tile" data-item="{item}" title="Item {item}: search with it" '
        f'aria-label="{name or "Image"}, item {item}, similarity {similarity}: search with it">'
        f"{item_picture(index, item)}"
        f'<span class="tile-name">{name}</span>'
        f'<span class="tile-similarity">{mark}{similarity}</span></button>'
    )


# One listener for all tiles: those are replaced with every answer.
_SCRIPT = (
    EXPORT_SCRIPT
    + """
const linkTo = (query) => {
  const url = new URL(location.href);
  for (const name of ["item", "label", "seed", "k"]) url.searchParams.delete(name);
  for (const [name, value] of new URLSearchParams(query)) url.searchParams.set(name, value);
  return url.href;
};

const copy = async (button) => {
  const link = linkTo(button.dataset.link);
  try {
    await navigator.clipboard.writeText(link);
    button.textContent = "Link copied";
    setTimeout(() => (button.textContent = "Copy link"), 2000);
  } catch {
    // Browsers do not let a page within another page, or one without https, use the clipboard.
    const field = button.nextElementSibling;
    field.value = link;
    field.hidden = false;
    field.focus();
    field.select();
  }
};

element.addEventListener("click", (event) => {
  const tile = event.target.closest("[data-item]");
  if (tile) trigger("pick", { item: Number(tile.dataset.item) });
  const button = event.target.closest("[data-link]");
  if (button) copy(button);
  exported(event, (format) => {
    const { key, rows } = event.target.closest("[data-rows]").dataset;
    const column = (place) => JSON.parse(rows).map((row) => row[place]);
    return server.export_items(key, column(0), column(1), format);
  });
});
"""
)
