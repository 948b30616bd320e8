"""The projection as an interactive map: a few bytes a point, and thumbnails on demand."""

import base64
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.query import Answer
from index.store import Index
from ui.palette import color_of, swatch, symbol_of

STEPS = 65_535  # a coordinate is one of so many steps across the map's longer side
PAGE_ITEMS = 256
PAGE_COLUMNS = 16
PAGES_KEPT = 64
MAX_TILE = 64  # pixels
MAX_LOSSLESS_TILE = 32
EMPTY = {"query": None, "position": None, "neighbors": []}


class MapView(gr.HTML):
    """The index's items as points; its value is `map_value(answer)`, its event `pick` has the clicked `item`.

    `folder` is an existing directory, into which the points are written for the browser to fetch; `layout` is
    for gr.HTML, as elem_id.
    """

    def __init__(self, index: Index, folder: Path, value: dict[str, object] = EMPTY, **layout: Any) -> None:
        points = quantize(index.map)
        file = _write_points(points, index.labels, len(index.manifest.classes), folder)
        script = plotly_script()
        gr.set_static_paths([file, script])
        super().__init__(
            value=value,
            html_template=_HTML,
            js_on_load=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
            apply_default_css=False,
            server_functions=[_thumbnails(index, points.steps)],
            points=_url(file),
            plotly=_url(script),
            count=index.manifest.count,
            origin=points.origin,
            step=points.step,
            classes=list(index.manifest.classes) if index.manifest.source.labeled else [],
            looks=_looks(len(index.manifest.classes)),
            **layout,
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what the map shows, and what a browser claims about it is dropped."""

    def api_info(self) -> dict[str, str]:
        return {"type": "object"}


@dataclass(frozen=True)
class Points:
    """Coordinates as whole numbers: they are `origin + step * steps`, with steps (n, 2) uint16."""

    steps: NDArray[np.uint16]
    origin: tuple[float, float]
    step: float


def map_value(answer: Answer) -> dict[str, object]:
    """What the map marks for an answer: a star at the query, a ring around each neighbor."""
    return {
        "query": answer.query.item,
        "position": [float(value) for value in answer.position],
        "neighbors": [neighbor.item for neighbor in answer.neighbors],
    }


def quantize(coordinates: NDArray[np.float32]) -> Points:
    """Coordinates (n, 2) to the nearest of 65,535 steps across the longer side."""
    exact = coordinates.astype(np.float64)
    low, high = exact.min(axis=0), exact.max(axis=0)
    step = float((high - low).max()) / STEPS or 1.0  # all points in one place: any step will do
    steps = np.rint((exact - low) / step).astype(np.uint16)
    return Points(steps, (float(low[0]), float(low[1])), step)


def morton_order(steps: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The items along a Z-shaped curve through the map, on which neighbors on the map are mostly near."""
    return np.argsort(_spread(steps[:, 0]) | _spread(steps[:, 1]) << np.uint32(1), kind="stable")


def preload_tag() -> str:
    """For the page's head: the browser fetches Plotly, the largest file by far, at once."""
    return f'<link rel="preload" as="script" href="{escape(_url(plotly_script()))}">'


def plotly_script() -> Path:
    """plotly.min.js of the installed plotly; found without importing plotly, which takes half a second."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("plotly is not installed: pip install plotly")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def _write_points(points: Points, labels: NDArray[np.int32], classes: int, folder: Path) -> Path:
    """All x, then all y, then all labels, little-endian; named by content, as browsers keep files."""
    label_type = "u1" if classes <= 256 else "<u2"
    data = points.steps.T.astype("<u2").tobytes() + labels.astype(label_type).tobytes()
    file = folder.resolve() / f"points-{hashlib.sha256(data).hexdigest()[:16]}.bin"
    file.write_bytes(data)
    return file


def _url(file: Path) -> str:
    return f"gradio_api/file={file.as_posix()}"


def _looks(classes: int) -> list[dict[str, str]]:
    return [{"color": color_of(c), "symbol": symbol_of(c), "swatch": swatch(c)} for c in range(classes)]


def _spread(values: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """The bits of each value, moved apart to every second place of 32."""
    bits = values.astype(np.uint32)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        bits = (bits | bits << np.uint32(shift)) & np.uint32(mask)
    return bits


def _thumbnails(index: Index, steps: NDArray[np.uint16]) -> Callable[[object], dict[str, object] | None]:
    """The function that the browser asks for thumbnails; it builds pages when they are first wanted."""
    order = morton_order(steps)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))

    @lru_cache(maxsize=PAGES_KEPT)
    def page(number: int) -> dict[str, object]:
        items = order[number * PAGE_ITEMS : (number + 1) * PAGE_ITEMS].tolist()
        return {"items": items, "columns": PAGE_COLUMNS, **_sprite([index.images[item] for item in items])}

    def thumbnails(item: object) -> dict[str, object] | None:
        """The page with an item and those near it on the map; None for no item: any visitor may ask."""
        if type(item) is not int or not 0 <= item < len(ranks):  # not isinstance: True is an int
            return None
        return page(int(ranks[item]) // PAGE_ITEMS)

    return thumbnails


def _sprite(files: list[bytes]) -> dict[str, object]:
    """Image files side by side in one WebP: its data URL, and the side of a tile in pixels."""
    images = [_tile(file) for file in files]
    tile = max(max(image.size) for image in images)
    rows = -(-len(images) // PAGE_COLUMNS)
    sheet = Image.new("RGBA", (PAGE_COLUMNS * tile, rows * tile))
    for place, image in enumerate(images):
        row, column = divmod(place, PAGE_COLUMNS)
        left, top = (tile - image.width) // 2, (tile - image.height) // 2
        sheet.paste(image, (column * tile + left, row * tile + top))
    buffer = BytesIO()
    sheet.save(buffer, "WEBP", lossless=tile <= MAX_LOSSLESS_TILE, quality=80, method=2)
    return {"tile": tile, "image": "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()}


def _tile(file: bytes) -> Image.Image:
    image = Image.open(BytesIO(file))
    image.draft("RGB", (2 * MAX_TILE, 2 * MAX_TILE))  # a JPEG decoder skips what a small tile does not need
    image = image.convert("RGBA")
    image.thumbnail((MAX_TILE, MAX_TILE))
    return image


# Gradio runs a template as code, so it may hold no data: class names travel in the props.
_HTML = """
<div class="map">
  <div class="map-legend" role="group" aria-label="Classes on the map"></div>
  <div class="map-frame">
    <div class="map-plot" role="img" aria-label="Map of all images: similar images lie close together"></div>
    <svg class="map-marks" aria-hidden="true"></svg>
    <p class="map-note" role="status">Drawing the map …</p>
    <div class="map-tip" hidden><canvas></canvas><strong></strong><span></span></div>
  </div>
  <div class="map-foot">
    <p class="map-count" aria-live="polite"></p>
    <p class="map-hint"></p>
    <div class="map-tools" role="group" aria-label="Map view">
      <button type="button" data-tool="in" aria-label="Zoom in" title="Zoom in">
        <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M8 3v10M3 8h10"/></svg>
      </button>
      <button type="button" data-tool="out" aria-label="Zoom out" title="Zoom out">
        <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 8h10"/></svg>
      </button>
      <button type="button" data-tool="reset" aria-label="Reset view" title="Reset view">
        <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 6V3h3M10 3h3v3M13 10v3h-3M6 13H3v-3"/></svg>
      </button>
    </div>
  </div>
</div>
"""
