"""The projection as an interactive map: a few bytes a point, and thumbnails on demand."""

import base64
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from inspect import signature
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.compare import common_items
from index.manifest import DEFAULT_PROJECTION, manifest_to_json
from index.projection import Alignment, alignment, layout_rows, layout_title
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

    A map is known by its key, a hash of its points and manifest; the page may change from one to another.
    What any visitor may ask for is checked here, and answered with None where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is an existing directory, and everybody may read what is in it."""
        self._folder = folder.resolve()
        self._atlases: dict[str, _Atlas] = {}
        self._keys: dict[tuple[int, int], str] = {}  # by identity: an atlas keeps its index alive
        gr.set_static_paths([self._folder, plotly_script()])

    def key(self, index: Index, beside: Index | None = None) -> str:
        """The key of the index's map, whose points are written when it is first asked for.

        `beside` another index of the same items it is turned to lie like that one's.
        """
        asked = (id(index), id(beside))
        if asked not in self._keys:
            turned = beside and alignment(*_common_points(index, beside))
            atlas = _Atlas(index, self._folder, turned, beside)
            self._keys[asked] = atlas.key
            self._atlases.setdefault(atlas.key, atlas)
        return self._keys[asked]

    def index(self, key: object) -> Index | None:
        atlas = self._atlas(key)
        return atlas and atlas.index

    def describe(self, key: object) -> dict[str, object] | None:
        """What a browser needs to draw a map."""
        atlas = self._atlas(key)
        return atlas and atlas.description()

    def layout(self, key: object, name: object) -> dict[str, object] | None:
        """Where the points of one of a map's layouts are, turned to lie like the default layout's."""
        atlas = self._atlas(key)
        return atlas.layout(name) if atlas and name in atlas.index.coordinates else None

    def thumbnails(self, key: object, item: object) -> dict[str, object] | None:
        """The page of thumbnails with an item of a map."""
        atlas = self._atlas(key)
        return atlas and atlas.thumbnails(item)

    def positions(self, key: str, answer: Answer) -> dict[str, list[float]]:
        """Where a new image lies on every layout as it is drawn; none for an item, which is a point."""
        if answer.query.item is not None:
            return {}
        aligned = self._atlases[key].alignment
        return {
            name: aligned(name).apply(np.array([place]))[0].tolist()
            for name, place in answer.positions.items()
        }

    def _atlas(self, key: object) -> "_Atlas | None":
        return self._atlases.get(key) if isinstance(key, str) else None


class _Atlas:
    """The maps of one index, each written when it is first wanted."""

    def __init__(
        self, index: Index, folder: Path, turned: Alignment | None = None, beside: Index | None = None
    ) -> None:
        self.index = index
        self._folder = folder
        self._beside = beside  # kept, so that no other index gets its identity
        self._alignments: dict[str, Alignment] = {}
        self._layouts: dict[str, dict[str, object]] = {}
        self._map = turned.apply(index.map) if turned else index.map
        points = quantize(self._map)
        self.thumbnails = _thumbnails(index, points.steps)
        file = _write_points(points, _label_bytes(index), folder)
        made = file.stem + manifest_to_json(index.manifest)  # two indexes may have the same points
        self.key = hashlib.sha256(made.encode()).hexdigest()[:16]
        self._layouts[DEFAULT_PROJECTION] = _located(DEFAULT_PROJECTION, points, file)

    def description(self) -> dict[str, object]:
        manifest = self.index.manifest
        return {
            "key": self.key,
            "layout": self._layouts[DEFAULT_PROJECTION],
            "layouts": [
                {
                    "name": row.name,
                    "title": layout_title(row),
                    "method": row.method,
                    "n_neighbors": row.n_neighbors,
                    "min_dist": row.min_dist,
                }
                for row in layout_rows(manifest)
            ],
            "count": manifest.count,
            "classes": list(manifest.classes) if manifest.source.labeled else [],
            "looks": _looks(len(manifest.classes)),
        }

    def layout(self, name: str) -> dict[str, object]:
        if name not in self._layouts:
            points = quantize(self.alignment(name).apply(self.index.coordinates[name]))
            self._layouts[name] = _located(name, points, _write_points(points, b"", self._folder))
        return self._layouts[name]

    def alignment(self, name: str) -> Alignment:
        if name not in self._alignments:
            self._alignments[name] = alignment(self.index.coordinates[name], self._map)
        return self._alignments[name]


class MapView(gr.HTML):
    """An index's items as points; its value is `map_value(...)`.

    Its event `pick` has the clicked `item`, its event `selected` what `selected_items` reads.

    `layout` is for gr.HTML, as elem_id.
    """

    def __init__(self, maps: Maps, value: dict[str, object] | None = None, **layout: Any) -> None:
        """`value` may be missing: Gradio makes the component again for an update that leaves it as it is."""
        super().__init__(
            value=value,
            # Gradio runs a template as code, so it may hold no data: class names travel in the props
            html_template=_text("map.html"),
            js_on_load=_text("map.js"),
            apply_default_css=False,
            server_functions=[for_browsers(ask) for ask in (maps.describe, maps.layout, maps.thumbnails)],
            plotly=_url(plotly_script()),
            first=value and maps.describe(value["key"]),  # saves the first map a question
            **layout,
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what the map shows, and what a browser claims about it is dropped."""

    def api_info(self) -> dict[str, str]:
        return {"type": "object"}


def for_browsers(function: Callable) -> Callable:
    """A function as gr.HTML's server_functions want it (6.31): of one argument, a list if there are several.

    Gradio marks it, which methods do not allow. Not as many arguments as are due are answered with None.
    """
    due = len(signature(function).parameters)

    def call(arguments: object) -> object:
        given = arguments if isinstance(arguments, list) and due > 1 else [arguments]
        return function(*given) if len(given) == due else None

    call.__name__ = function.__name__  # not functools.wraps: Gradio would look at the wrapped signature
    return call


@dataclass(frozen=True)
class Selection:
    """Items that the server selects on the map; `id` tells one selection from the next."""

    id: str
    items: tuple[int, ...]


def selected_items(index: Index, event: object) -> NDArray[np.int64] | None:
    """The items that a `selected` event names, ascending; None for no selection, or what is not one.

    A browser sends whole numbers, of `items` or `classes`: anything else is dropped.
    """
    names, count = getattr(event, "classes", None), index.manifest.count
    if isinstance(names, list):
        return np.flatnonzero(np.isin(index.labels, [name for name in names if type(name) is int]))
    items = getattr(event, "items", None)
    if not isinstance(items, list) or len(items) > count:
        return None
    return np.unique(np.array([i for i in items if type(i) is int and 0 <= i < count], np.int64))


@dataclass(frozen=True)
class Points:
    """Coordinates as whole numbers: they are `origin + step * steps`, with steps (n, 2) uint16."""

    steps: NDArray[np.uint16]
    origin: tuple[float, float]
    step: float


def map_value(
    maps: Maps, key: str, answer: Answer, selection: "Selection | None" = None
) -> dict[str, object]:
    """The map to show and what it marks: a star at the query, a ring around each neighbor.

    A `selection` that the page has not seen yet is taken over; None leaves what is selected as it is.
    """
    return {
        "key": key,
        "query": answer.query.item,
        "positions": maps.positions(key, answer),
        "neighbors": [neighbor.item for neighbor in answer.neighbors],
        "selection": selection and {"id": selection.id, "items": list(selection.items)},
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
def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@lru_cache
def plotly_script() -> Path:
    """plotly.min.js of the installed plotly; found without importing plotly, which takes half a second."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("plotly is not installed: pip install plotly")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def _common_points(index: Index, beside: Index) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the items that both hold lie on their maps. Raises FormatError if there are none."""
    here, there = common_items([index, beside])
    return index.map[here], beside.map[there]


def _located(name: str, points: Points, file: Path) -> dict[str, object]:
    return {"name": name, "points": _url(file), "origin": points.origin, "step": points.step}


def _label_bytes(index: Index) -> bytes:
    return index.labels.astype("u1" if len(index.manifest.classes) <= 256 else "<u2").tobytes()


def _write_points(points: Points, labels: bytes, folder: Path) -> Path:
    """All x, then all y, then all labels, little-endian; named by content, as browsers keep files."""
    data = points.steps.T.astype("<u2").tobytes() + labels
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
