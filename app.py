"""The Space: an index on screen, asked by class, item, upload and sketch; the same questions as an API."""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal
from uuid import uuid4

import gradio as gr
from gradio.events import Dependency
from PIL import Image

from embedding.image import MAX_PIXELS, QueryError, open_image
from index.live import without_folders
from index.manifest import FormatError
from index.query import (
    DEFAULT_K,
    MAX_K,
    Answer,
    Query,
    answer,
    filled_classes,
    first_query,
    query_class,
    query_image,
    query_item,
    whole_k,
)
from index.standby import Opened, Standby
from index.store import Index
from ui.desk import AT_ONCE, LOOKUP, MODEL_QUEUE, PRIVATE, Desk, in_words
from ui.hygiene import HygieneView
from ui.link import read_link, view_tag
from ui.map import Maps, MapView, Selection, map_value, preload_tag, selected_items
from ui.quality import QualityView
from ui.results import ResultsView, about_json, answer_html, answer_json, map_json
from ui.selection import SelectionView, selection_value
from ui.sketch import SketchPad
from ui.upload import ImageFile, paste_tag

ROOT = Path(__file__).resolve().parent
SAMPLE = ROOT / "assets" / "sample"
EXAMPLES = [ROOT / "assets" / "examples" / name for name in ("seven.png", "two.png", "four.jpg")]
FIRST_SEED = 50  # the item on screen when the page opens: in the sample, one with a divided vote
THEME = gr.themes.Base(  # no outside fonts
    primary_hue="blue",
    neutral_hue="slate",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)


# ---- Settings


def read_settings(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line over the environment over the bundled sample."""
    parser = argparse.ArgumentParser(description="Search images by look.")
    parser.add_argument(
        "--index", default=os.environ.get("INDEX") or str(SAMPLE), help="a folder or a Hub dataset id"
    )
    parser.add_argument("--revision", default=os.environ.get("INDEX_REVISION") or None, help="of a Hub index")
    parser.add_argument("--model", help="a folder or Hub id to use instead of the model that the index names")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("GRADIO_SERVER_PORT", "7860"))
    return parser.parse_args(arguments)


# ---- Questions and answers


def ask_class(opened: Opened, label: object, k: object, seed: object = None) -> Answer:
    return answer(opened.index, query_class(opened.index, label, seed), whole_k(k))


def ask_item(opened: Opened, item: object, k: object) -> Answer:
    return answer(opened.index, query_item(opened.index, item), whole_k(k))


def ask_image(opened: Opened, file: object, k: object) -> Answer:
    return ask_file(opened, file, k, "image", "There is no image: choose, drop or paste one.")


def ask_sketch(opened: Opened, file: object, k: object) -> Answer:
    return ask_file(opened, file, k, "sketch", "The sketch is blank: draw something to search for.")


def ask_file(
    opened: Opened, file: object, k: object, kind: Literal["image", "sketch"], missing: str
) -> Answer:
    """Waits for the model if it is still loading, but not to refuse what cannot be answered anyway."""
    if not file:
        raise QueryError(missing)
    count, image = whole_k(k), open_image(file)
    return answer(opened.index, query_image(opened.index, image, opened.live.encoder(), kind), count)


# ---- The page


@dataclass(frozen=True)
class Shown:
    """What a visitor has on screen: a query, and the key of the index that it was put to."""

    key: str
    query: Query


@dataclass(frozen=True)
class Top:
    """What stands above the tabs."""

    head: gr.HTML
    notice: gr.HTML
    banner: gr.HTML


@dataclass(frozen=True)
class Search:
    """The tab that takes questions and shows answers."""

    label: gr.Dropdown
    another: gr.Button
    upload: ImageFile
    examples: gr.Column
    example: Dependency
    pad: SketchPad
    k: gr.Slider
    shown: gr.State
    view: MapView
    selection: SelectionView
    results: ResultsView

    @property
    def answer(self) -> list:
        """What an answer replaces, in the order of `on_page`."""
        return [self.shown, self.view, self.results]


def build_page(desk: Desk) -> gr.Blocks:
    """The whole app."""
    with gr.Blocks(
        title="Image similarity", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)
    ) as page:
        top = lay_out_top(desk)
        with gr.Tabs(elem_classes="page-tabs") as tabs:
            with gr.Tab("Search", id="search"):
                search = lay_out_search(desk)
            with gr.Tab("Quality", id="quality"):
                quality = QualityView(desk.maps, desk.key(desk.opened))
            with gr.Tab("Data hygiene", id="hygiene"):
                hygiene = HygieneView(desk, desk.key(desk.opened))
        connect_lookups(desk, search)
        connect_selection(desk, search)
        connect_reports(desk, tabs, search, quality, hygiene)
        connect_model(desk, search)
        connect_arrival(desk, page, top, search, [quality, hygiene])
        serve_api(desk)
    return page


def lay_out_top(desk: Desk) -> Top:
    opened = desk.opened
    with gr.Row(elem_classes="page-top"):
        head = gr.HTML(head_html(opened), elem_classes="page-head")
        notice = gr.HTML(notice_html(opened), elem_classes="page-notice")
    return Top(head, notice, gr.HTML(banner_html(desk, opened), elem_classes="page-banner"))


def lay_out_search(desk: Desk) -> Search:
    """The search tab's components in their places, showing a first answer."""
    opened = desk.opened
    key = desk.key(opened)
    found = answer(opened.index, first_query(opened.index, FIRST_SEED), DEFAULT_K)
    with gr.Row(elem_classes="workbench"):
        with gr.Column(elem_classes="ask"):
            with gr.Tabs():
                with gr.Tab("Class"):
                    label = gr.Dropdown(**class_choice(opened.index, found), label="Class")
                    another = gr.Button("Another example", variant="primary")
                with gr.Tab("Upload", elem_id="upload-tab"):
                    upload = ImageFile(label="Drop, paste or choose an image", height=240, elem_id="upload")
                    with gr.Column(visible=opened.is_sample) as examples:
                        example = offer_examples(upload)
                with gr.Tab("Sketch"):
                    pad = SketchPad()
            k = gr.Slider(1, MAX_K, DEFAULT_K, step=1, label="Neighbors (k)")
        with gr.Column(elem_classes="stage"):
            view = MapView(desk.maps, map_value(desk.maps, key, found))
            selection = SelectionView(desk.maps)
        with gr.Column(elem_classes="answer"):
            results = ResultsView(desk.maps, answer_html(opened.index, key, found))
    shown = gr.State(Shown(key, found.query))
    return Search(label, another, upload, examples, example, pad, k, shown, view, selection, results)


def offer_examples(upload: ImageFile) -> Dependency:
    """Three digits to try; the event of one being chosen."""
    files = [[str(file)] for file in EXAMPLES]
    return gr.Examples(files, upload, label="Try one", api_visibility="private").load_input_event


def class_choice(index: Index, found: Answer) -> dict[str, object]:
    """The class picker's choices, and which of them is the answered query's."""
    return {"choices": list(filled_classes(index)), "value": index.class_of(found.query.item)}


def on_page(desk: Desk, opened: Opened, found: Answer) -> list:
    """An answer as the values of `Search.answer`."""
    key = desk.key(opened)
    return [Shown(key, found.query), map_value(desk.maps, key, found), answer_html(opened.index, key, found)]


def renewed(desk: Desk, opened: Opened, query: Query | None, k: int) -> list:
    """What another index replaces, with the answer to `query` or else to a first one."""
    found = answer(opened.index, query or first_query(opened.index, FIRST_SEED), k)
    return [
        head_html(opened),
        gr.Dropdown(**class_choice(opened.index, found)),
        gr.Column(visible=opened.is_sample),
        k,
        *[desk.key(opened)] * 2,  # the reports
        *on_page(desk, opened, found),
    ]


def connect_lookups(desk: Desk, search: Search) -> None:
    """What needs no model: a class, an item of the map or of the results, and another k."""

    @in_words
    def pick_class(label: str, k: int) -> list:
        opened = desk.opened
        return on_page(desk, opened, ask_class(opened, label, k))

    @in_words
    def pick_item(k: int, event: gr.EventData) -> list:
        opened = desk.opened
        return on_page(desk, opened, ask_item(opened, event.item, k))

    @in_words
    def change_k(shown: Shown, k: int) -> list:
        opened = desk.opened
        query = shown.query if shown.key == desk.key(opened) else first_query(opened.index, FIRST_SEED)
        return on_page(desk, opened, answer(opened.index, query, whole_k(k)))

    asked = [search.label, search.k]
    gr.on([search.label.input, search.another.click], pick_class, asked, search.answer, **AT_ONCE, **PRIVATE)
    # a call each: gr.on does not take a gr.HTML's own events (6.31)
    search.view.pick(pick_item, search.k, search.answer, **AT_ONCE, **PRIVATE)
    search.results.pick(pick_item, search.k, search.answer, **AT_ONCE, **PRIVATE)
    search.selection.pick(pick_item, search.k, search.answer, **AT_ONCE, **PRIVATE)
    search.k.input(change_k, [search.shown, search.k], search.answer, **AT_ONCE, **PRIVATE)


def connect_selection(desk: Desk, search: Search) -> None:
    """What is selected on the map appears below it."""

    def show_selection(event: gr.EventData) -> dict:
        index = desk.maps.index(event.key)
        return selection_value(index, event.key, index and selected_items(index, event))

    search.view.selected(show_selection, None, search.selection, **AT_ONCE, **PRIVATE)


def connect_reports(
    desk: Desk, tabs: gr.Tabs, search: Search, quality: QualityView, hygiene: HygieneView
) -> None:
    """Items of a report: marked on the map, looked at there, or searched with."""

    def mark(shown: Shown, k: int, event: gr.EventData) -> list:
        return selected(desk, shown, k, event)

    def show(shown: Shown, k: int, event: gr.EventData) -> list:
        return [gr.Tabs(selected="search"), *selected(desk, shown, k, event)]

    @in_words
    def pick_item(k: int, event: gr.EventData) -> list:
        opened = desk.opened
        return [gr.Tabs(selected="search"), *on_page(desk, opened, ask_item(opened, event.item, k))]

    on_map, asked = [search.view, search.selection], [search.shown, search.k]
    quality.chosen(mark, asked, on_map, **AT_ONCE, **PRIVATE)
    quality.shown(show, asked, [tabs, *on_map], **AT_ONCE, **PRIVATE)
    hygiene.shown(show, asked, [tabs, *on_map], **AT_ONCE, **PRIVATE)
    quality.pick(pick_item, search.k, [tabs, *search.answer], **AT_ONCE, **PRIVATE)
    hygiene.pick(pick_item, search.k, [tabs, *search.answer], **AT_ONCE, **PRIVATE)


def selected(desk: Desk, shown: Shown, k: int, event: gr.EventData) -> list:
    """The items that an event names, selected on the map, if it is still their index's, and listed below."""
    index, key = desk.opened.index, getattr(event, "key", None)
    items = selected_items(index, event)
    if items is None or not key == shown.key == desk.maps.key(index):
        return [gr.skip(), gr.skip()]
    selection = Selection(uuid4().hex, tuple(items.tolist()))
    found = answer(index, shown.query, whole_k(k))
    return [map_value(desk.maps, key, found, selection), selection_value(index, key, items)]


def connect_model(desk: Desk, search: Search) -> None:
    """What needs the model: uploads, example images and sketches."""

    @in_words
    def search_upload(file: object, k: int) -> list:
        opened = desk.opened
        return on_page(desk, opened, ask_image(opened, file, k))

    @in_words
    def search_sketch(file: object, k: int) -> list:
        opened = desk.opened
        return on_page(desk, opened, ask_sketch(opened, file, k))

    uploaded = [search.upload, search.k]
    search.upload.upload(search_upload, uploaded, search.answer, **MODEL_QUEUE, **PRIVATE)
    search.example.success(search_upload, uploaded, search.answer, **MODEL_QUEUE, **PRIVATE)
    search.pad.drawn(search_sketch, [search.pad, search.k], search.answer, **MODEL_QUEUE, **PRIVATE)


def connect_arrival(desk: Desk, page: gr.Blocks, top: Top, search: Search, reports: list[gr.HTML]) -> None:
    """What a page shows when it is opened, by its address, and when another index has come meanwhile.

    The lines about index and model are looked at every few seconds while something is expected.
    """
    timer = gr.Timer(1)
    built = search.shown.value.key
    # as in `renewed`
    index_parts = [top.head, search.label, search.examples, search.k, *reports, *search.answer]
    unchanged = [gr.skip()] * len(index_parts)

    def status(opened: Opened) -> list:
        expected = opened.live.expected or desk.standby.problem is not None
        pause = gr.Timer(1 if opened.live.loading else 3, active=expected)
        return [banner_html(desk, opened), notice_html(opened), pause]

    def arrive(request: gr.Request) -> list:
        opened = desk.opened
        linked = read_link(opened.index, request.query_params)
        for sentence in linked.ignored:
            gr.Info(f"A part of the link was ignored. {sentence}")
        if linked.query is None and linked.k == DEFAULT_K and desk.key(opened) == built:
            return [*unchanged, *status(opened)]
        return [*renewed(desk, opened, linked.query, linked.k), *status(opened)]

    def look(shown: Shown, k: int) -> list:
        opened = desk.opened
        if shown.key == desk.key(opened):
            return [*unchanged, *status(opened)]
        return [*renewed(desk, opened, None, whole_k(k)), *status(opened)]

    told = [*index_parts, top.banner, top.notice, timer]
    page.load(arrive, None, told, **LOOKUP, **PRIVATE)  # gr.Info needs the queue
    timer.tick(look, [search.shown, search.k], told, **AT_ONCE, **PRIVATE)


def head_html(opened: Opened) -> str:
    """The title, and the line that says what is being searched."""
    manifest = opened.index.manifest
    parts = [
        f"<strong>{escape(manifest.title)}</strong>",
        f"{manifest.count:,} items",
        f"model {escape(manifest.model.name)}",
    ]
    if opened.is_sample:
        parts.append("the bundled sample; <code>make fashion</code> builds Fashion-MNIST")
    return f"<h1>Image similarity</h1><p>{' · '.join(parts)}</p>"


def banner_html(desk: Desk, opened: Opened) -> str:
    """What a visitor should know of how the index came; nothing if it is the one that was asked for."""
    asked = f"<code>{escape(desk.standby.location)}</code>"
    if desk.standby.problem:
        return (
            f"<p role='status'><strong>{asked} is not here yet, this is the bundled sample.</strong> "
            f"{escape(desk.standby.problem)} It is asked for again, and appears as soon as it comes.</p>"
        )
    if opened.reason:
        cached = f"This is revision {(opened.revision or '')[:7]} of {asked}, from the cache."
        return f"<p role='status'>{escape(opened.reason)} {cached}</p>"
    return ""


def notice_html(opened: Opened) -> str:
    """What a visitor should know about the live model; nothing once it is ready."""
    if opened.live.loading:
        return "<p>The model is loading; uploads wait for it.</p>"
    return f"<p>{escape(opened.live.reason or '')}</p>"


# ---- The API


def serve_api(desk: Desk) -> None:
    """The named endpoints, inside the page's Blocks; their names and answers are a promise."""

    def classes() -> dict:
        """The names of the index's classes, in the order of their numbers."""
        return {"classes": list(desk.opened.index.manifest.classes)}

    def about() -> dict:
        """Which index and model answer here, with counts, metrics and versions."""
        opened = desk.opened
        return {**about_json(opened.index), **standing(desk, opened)}

    def map() -> dict:
        """Every item's place on the map and its class, in the order of the item numbers."""
        return map_json(desk.opened.index)

    @in_words
    def query_class(label: str, k: int = DEFAULT_K, seed: int | None = None) -> dict:
        """The neighbors of a random item of a class.

        Args:
            label: the class, as /classes lists it, give or take case and punctuation
            k: how many neighbors, 1 to 50
            seed: a whole number; the same seed gives the same item
        """
        opened = desk.opened
        return answer_json(opened.index, ask_class(opened, label, k, seed))

    @in_words
    def query_item(item: int, k: int = DEFAULT_K) -> dict:
        """The neighbors of an indexed item.

        Args:
            item: its number, from 0
            k: how many neighbors, 1 to 50
        """
        opened = desk.opened
        return answer_json(opened.index, ask_item(opened, item, k))

    @in_words
    def query_image(image: object, k: int = DEFAULT_K) -> dict:
        """The neighbors of a new image.

        Args:
            image: a PNG, JPEG, WebP, GIF, BMP or AVIF file of up to 5 MB
            k: how many neighbors, 1 to 50
        """
        opened = desk.opened
        return answer_json(opened.index, ask_image(opened, image, k))

    @in_words
    def query_sketch(image: object, k: int = DEFAULT_K) -> dict:
        """The neighbors of a sketch, dark on light or light on dark.

        Args:
            image: a PNG, JPEG, WebP, GIF, BMP or AVIF file of up to 5 MB
            k: how many neighbors, 1 to 50
        """
        opened = desk.opened
        return answer_json(opened.index, ask_sketch(opened, image, k))

    for endpoint in (classes, about, map, query_class, query_item):
        gr.api(endpoint, api_name=endpoint.__name__, **LOOKUP)
    # gr.api hands a file's path on unchecked; a component's event makes Gradio verify that it was uploaded
    file, number, found = (
        ImageFile(visible=False),
        gr.Number(DEFAULT_K, visible=False),
        gr.JSON(visible=False),
    )
    for endpoint in (query_image, query_sketch):
        call = gr.Button(visible=False).click
        call(endpoint, [file, number], found, api_name=endpoint.__name__, **MODEL_QUEUE)


def standing(desk: Desk, opened: Opened) -> dict[str, object]:
    """How the index that answers came to be here, and whether uploads and sketches are answered."""
    live = opened.live
    state = "loading" if live.loading else "unavailable" if live.reason else "ready"
    return {
        "sample": opened.is_sample,
        "asked": {
            "index": without_folders(desk.standby.location),
            "revision": desk.standby.revision,
            "problem": desk.standby.problem,
        },
        "revision": opened.revision,
        "cached": opened.reason,
        "live": {"state": state, "reason": live.reason},
    }


# ---- Launch


def main(arguments: list[str] | None = None) -> int:
    """Opens the index and serves the page; the model loads once the page is up."""
    settings = read_settings(arguments)
    standby = Standby(settings.index, settings.revision, SAMPLE, settings.model)
    try:
        standby.open()
    except FormatError as error:
        print(f"The index {settings.index} cannot be opened: {error}", file=sys.stderr)
        return 1
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Gradio opens images as well
    with tempfile.TemporaryDirectory() as folder:
        page = build_page(Desk(standby, Maps(Path(folder))))
        try:
            serve(page, settings)
        except OSError as error:  # the port is taken, or may not be used
            print(f"The page cannot be served on {settings.host}: {error}", file=sys.stderr)
            return 1
        standby.serve()
        page.block_thread()
    return 0


def serve(page: gr.Blocks, settings: argparse.Namespace) -> None:
    """Starts the server and comes back; the settings are those of a demo that anybody may visit."""
    page.queue(max_size=64).launch(
        server_name=settings.host,
        server_port=settings.port,
        css_paths=[ROOT / "ui" / "style.css"],
        head=preload_tag() + paste_tag() + view_tag(),
        theme=THEME,
        max_file_size="16mb",  # above 5 MB open_image says so in a sentence of its own
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=True,
        prevent_thread_lock=True,
    )


if __name__ == "__main__":
    sys.exit(main())
