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


class Maps:
    """What browsers fetch to draw the maps of indexes: files of points in `folder`, thumbnails on demand.

    A map is known by its key, a hash of its points; the page may change from one to another.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is an existing directory, and everybody may read what is in it."""
        self._folder = folder.resolve()
        self._known: dict[str, _Drawable] = {}
        self._keys: dict[int, str] = {}
        gr.set_static_paths([self._folder, plotly_script()])

    def key(self, index: Index) -> str:
        """The key of the index's map, whose points are written when they are first asked for."""
        key = self._keys.get(id(index))
        if key is None:
            drawable = _drawable(index, self._folder)
            key = str(drawable.description["key"])
            self._known[key] = drawable
            self._keys[id(index)] = key
        return key

    def describe(self, key: object) -> dict[str, object] | None:
        """What a browser needs to draw a map; None for an unknown key: any visitor may ask."""
        return self._known[key].description if isinstance(key, str) and key in self._known else None

    def thumbnails(self, key: object, item: object) -> dict[str, object] | None:
        """The page of thumbnails with an item of a map; None where there is none: any visitor may ask."""
        return self._known[key].thumbnails(item) if isinstance(key, str) and key in self._known else None


class MapView(gr.HTML):
    """An index's items as points; its value is `map_value(...)`, its event `pick` has the clicked `item`.

    `layout` is for gr.HTML, as elem_id.
    """

    def __init__(self, maps: Maps, value: dict[str, object] | None = None, **layout: Any) -> None:
        """`value` may be missing: Gradio makes the component again for an update that leaves it as it is."""
        super().__init__(
            value=value,
            html_template=_HTML,
            js_on_load=_script(),
            apply_default_css=False,
            server_functions=_server_functions(maps),
            plotly=_url(plotly_script()),
            first=maps.describe(value["key"]) if value else None,  # saves the first map a question
            **layout,
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what the map shows, and what a browser claims about it is dropped."""

    def api_info(self) -> dict[str, str]:
        return {"type": "object"}


def _server_functions(maps: Maps) -> list[Callable]:
    """What the browser may call; functions, because Gradio marks them and methods cannot be marked (6.31)."""

    def describe(key: object) -> dict[str, object] | None:
        return maps.describe(key)

    def thumbnails(key: object, item: object) -> dict[str, object] | None:
        return maps.thumbnails(key, item)

    return [describe, thumbnails]


@dataclass(frozen=True)
class Points:
    """Coordinates as whole numbers: they are `origin + step * steps`, with steps (n, 2) uint16."""

    steps: NDArray[np.uint16]
    origin: tuple[float, float]
    step: float


def map_value(key: str, answer: Answer) -> dict[str, object]:
    """The map to show and what it marks: a star at the query, a ring around each neighbor."""
    return {
        "key": key,
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


@lru_cache
def _script() -> str:
    return Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


@lru_cache
def plotly_script() -> Path:
    """plotly.min.js of the installed plotly; found without importing plotly, which takes half a second."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("plotly is not installed: pip install plotly")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


@dataclass(frozen=True)
class _Drawable:
    """A map's description for browsers, and the function that gives its thumbnails."""

    description: dict[str, object]
    thumbnails: Callable[[object], dict[str, object] | None]


def _drawable(index: Index, folder: Path) -> _Drawable:
    manifest = index.manifest
    points = quantize(index.map)
    file = _write_points(points, index.labels, len(manifest.classes), folder)
    description = {
        "key": file.stem,
        "points": _url(file),
        "count": manifest.count,
        "origin": points.origin,
        "step": points.step,
        "classes": list(manifest.classes) if manifest.source.labeled else [],
        "looks": _looks(len(manifest.classes)),
    }
    return _Drawable(description, _thumbnails(index, points.steps))


def _write_points(points: Points, labels: NDArray[np.int32], classes: int, folder: Path) -> Path:
    """All x, then all y, then all labels, little-endian; named by content, as browsers keep files."""
    label_type = "u1" if classes <= 256 else "<u2"
    data = points.steps.T.astype("<u2").tobytes() + labels.astype(label_type).tobytes()
    file = folder / f"points-{hashlib.sha256(data).hexdigest()[:16]}.bin"
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
