"""The Space: an index on screen, asked by class, item, upload and sketch; the same questions as an API."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.events import Dependency
from PIL import Image

from embedding.image import MAX_PIXELS, QueryError, open_image
from index.hub import fetch_index
from index.live import LiveModel
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
from index.store import Index, load_index
from ui.map import MapView, map_value, preload_tag
from ui.results import ResultsView, about_json, answer_html, answer_json, map_json
from ui.sketch import SketchPad
from ui.upload import ImageFile, paste_tag

ROOT = Path(__file__).resolve().parent
SAMPLE = ROOT / "assets" / "sample"
EXAMPLES = [ROOT / "assets" / "examples" / name for name in ("seven.png", "two.png", "four.jpg")]
FIRST_SEED = 50  # the item on screen when the page opens: in the sample, one with a divided vote
MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1}  # whatever runs the model, one at a time
LOOKUP = {"concurrency_limit": None}
AT_ONCE = {"queue": False}  # what takes milliseconds: the queue's two requests would take longer
THEME = gr.themes.Base(  # no outside fonts
    primary_hue="blue",
    neutral_hue="slate",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
PRIVATE = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}


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


class Desk:
    """Where page and API put their questions: one index and the live model that belongs to it."""

    def __init__(self, index: Index, live: LiveModel, is_sample: bool) -> None:
        self.index = index
        self.live = live
        self.is_sample = is_sample

    def ask_class(self, label: object, k: object, seed: object = None) -> Answer:
        return self.ask(query_class(self.index, label, seed), k)

    def ask_item(self, item: object, k: object) -> Answer:
        return self.ask(query_item(self.index, item), k)

    def ask_image(self, file: object, k: object) -> Answer:
        return self.ask_file(file, k, "image", "There is no image: choose, drop or paste one.")

    def ask_sketch(self, file: object, k: object) -> Answer:
        return self.ask_file(file, k, "sketch", "The sketch is blank: draw something to search for.")

    def ask_file(self, file: object, k: object, kind: Literal["image", "sketch"], missing: str) -> Answer:
        """Waits for the model if it is still loading, but not to refuse what cannot be answered anyway."""
        if not file:
            raise QueryError(missing)
        count, image = whole_k(k), open_image(file)
        return answer(self.index, query_image(self.index, image, self.live.encoder(), kind), count)

    def ask(self, query: Query, k: object) -> Answer:
        return answer(self.index, query, whole_k(k))

    def state(self) -> dict[str, str | None]:
        """Whether uploads and sketches are answered: loading, ready, or unavailable with the reason."""
        state = "loading" if self.live.loading else "unavailable" if self.live.reason else "ready"
        return {"state": state, "reason": self.live.reason}


def in_words(handler: Callable) -> Callable:
    """The handler, with what cannot be answered told to the visitor instead of logged as a fault."""

    @wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except QueryError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return call


# ---- The page


def build_page(desk: Desk, folder: Path) -> gr.Blocks:
    """The whole app; `folder` receives the files that the browser fetches."""
    classes = filled_classes(desk.index)
    first = desk.ask(first_query(desk.index, FIRST_SEED), DEFAULT_K)
    first_class = desk.index.class_of(first.query.item)
    with gr.Blocks(
        title="Image similarity", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)
    ) as page:
        with gr.Row(elem_classes="page-top"):
            gr.HTML(head_html(desk), elem_classes="page-head")
            notice = gr.HTML(notice_html(desk), elem_classes="page-notice")
        with gr.Row(elem_classes="workbench"):
            with gr.Column():
                with gr.Tabs():
                    with gr.Tab("Class"):
                        label = gr.Dropdown(classes, value=first_class, label="Class")
                        another = gr.Button("Another example", variant="primary")
                    with gr.Tab("Upload", elem_id="upload-tab"):
                        upload = ImageFile(
                            label="Drop, paste or choose an image", height=240, elem_id="upload"
                        )
                        example = offer_examples(desk, upload)
                    with gr.Tab("Sketch"):
                        pad = SketchPad()
                k = gr.Slider(1, MAX_K, DEFAULT_K, step=1, label="Neighbors (k)")
            with gr.Column(elem_classes="stage"):
                view = MapView(desk.index, folder, value=map_value(first))
            with gr.Column(elem_classes="answer"):
                results = ResultsView(value=answer_html(desk.index, first))
        on_screen = [gr.State(first.query), view, results]
        connect_lookups(desk, label, another, k, on_screen)
        connect_model(desk, upload, example, pad, k, on_screen)
        connect_notice(desk, page, notice)
        serve_api(desk)
    return page


def on_page(desk: Desk, found: Answer) -> list:
    """An answer as the values of what is on screen: the current query, the map, the results."""
    return [found.query, map_value(found), answer_html(desk.index, found)]


def connect_lookups(
    desk: Desk, label: gr.Dropdown, another: gr.Button, k: gr.Slider, on_screen: list
) -> None:
    """What needs no model: a class, an item of the map or of the results, and another k."""
    current, view, results = on_screen

    @in_words
    def pick_class(label: str, k: int) -> list:
        return on_page(desk, desk.ask_class(label, k))

    @in_words
    def pick_item(k: int, event: gr.EventData) -> list:
        return on_page(desk, desk.ask_item(event.item, k))

    @in_words
    def change_k(query: Query, k: int) -> list:
        return on_page(desk, desk.ask(query, k))

    gr.on([label.input, another.click], pick_class, [label, k], on_screen, **AT_ONCE, **PRIVATE)
    # two calls: gr.on does not take a gr.HTML's own events (6.31)
    view.pick(pick_item, k, on_screen, **AT_ONCE, **PRIVATE)
    results.pick(pick_item, k, on_screen, **AT_ONCE, **PRIVATE)
    k.change(change_k, [current, k], on_screen, **AT_ONCE, **PRIVATE)


def connect_model(
    desk: Desk, upload: ImageFile, example: Dependency | None, pad: SketchPad, k: gr.Slider, on_screen: list
) -> None:
    """What needs the model: uploads, example images and sketches."""

    @in_words
    def search_upload(file: object, k: int) -> list:
        return on_page(desk, desk.ask_image(file, k))

    @in_words
    def search_sketch(file: object, k: int) -> list:
        return on_page(desk, desk.ask_sketch(file, k))

    upload.upload(search_upload, [upload, k], on_screen, **MODEL_QUEUE, **PRIVATE)
    pad.drawn(search_sketch, [pad, k], on_screen, **MODEL_QUEUE, **PRIVATE)
    if example:
        example.success(search_upload, [upload, k], on_screen, **MODEL_QUEUE, **PRIVATE)


def connect_notice(desk: Desk, page: gr.Blocks, notice: gr.HTML) -> None:
    """The line about the model, looked at every second until the model is loaded or known to be missing."""

    def look_at_model() -> tuple[str, gr.Timer]:
        return notice_html(desk), gr.Timer(active=desk.live.loading)

    timer = gr.Timer(1)
    gr.on([page.load, timer.tick], look_at_model, None, [notice, timer], **LOOKUP, **PRIVATE)


def offer_examples(desk: Desk, upload: ImageFile) -> Dependency | None:
    """Three digits to try, where the index is of digits; the event of one being chosen."""
    if not desk.is_sample:
        return None
    files = [[str(file)] for file in EXAMPLES]
    return gr.Examples(files, upload, label="Try one", api_visibility="private").load_input_event


def head_html(desk: Desk) -> str:
    """The title, and the line that says what is being searched."""
    manifest = desk.index.manifest
    parts = [
        f"<strong>{escape(manifest.title)}</strong>",
        f"{manifest.count:,} items",
        f"model {escape(manifest.model.name)}",
    ]
    if desk.is_sample:
        parts.append("the bundled sample; <code>make fashion</code> builds Fashion-MNIST")
    return f"<h1>Image similarity</h1><p>{' · '.join(parts)}</p>"


def notice_html(desk: Desk) -> str:
    """What a visitor should know about the live model; nothing once it is ready."""
    if desk.live.loading:
        return "<p>The model is loading: uploads and sketches wait for it.</p>"
    return f"<p>{escape(desk.live.reason or '')}</p>"


# ---- The API


def serve_api(desk: Desk) -> None:
    """The named endpoints, inside the page's Blocks; their names and answers are a promise."""

    def classes() -> dict:
        """The names of the index's classes, in the order of their numbers."""
        return {"classes": list(desk.index.manifest.classes)}

    def about() -> dict:
        """Which index and model answer here, with counts, metrics and versions."""
        return {**about_json(desk.index), "sample": desk.is_sample, "live": desk.state()}

    def map() -> dict:
        """Every item's place on the map and its class, in the order of the item numbers."""
        return map_json(desk.index)

    @in_words
    def query_class(label: str, k: int = DEFAULT_K, seed: int | None = None) -> dict:
        """The neighbors of a random item of a class.

        Args:
            label: the class, as /classes lists it, give or take case and punctuation
            k: how many neighbors, 1 to 50
            seed: a whole number; the same seed gives the same item
        """
        return answer_json(desk.index, desk.ask_class(label, k, seed))

    @in_words
    def query_item(item: int, k: int = DEFAULT_K) -> dict:
        """The neighbors of an indexed item.

        Args:
            item: its number, from 0
            k: how many neighbors, 1 to 50
        """
        return answer_json(desk.index, desk.ask_item(item, k))

    @in_words
    def query_image(image: object, k: int = DEFAULT_K) -> dict:
        """The neighbors of a new image.

        Args:
            image: a PNG, JPEG, WebP, GIF, BMP or AVIF file of up to 5 MB
            k: how many neighbors, 1 to 50
        """
        return answer_json(desk.index, desk.ask_image(image, k))

    @in_words
    def query_sketch(image: object, k: int = DEFAULT_K) -> dict:
        """The neighbors of a sketch, dark on light or light on dark.

        Args:
            image: a PNG, JPEG, WebP, GIF, BMP or AVIF file of up to 5 MB
            k: how many neighbors, 1 to 50
        """
        return answer_json(desk.index, desk.ask_sketch(image, k))

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


# ---- Launch


def main(arguments: list[str] | None = None) -> int:
    """Opens the index and serves the page; the model loads once the page is up."""
    settings = read_settings(arguments)
    try:
        index = load_index(fetch_index(settings.index, settings.revision))
    except FormatError as error:
        print(f"The index {settings.index} cannot be opened: {error}", file=sys.stderr)
        return 1
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Gradio opens images as well
    desk = Desk(index, LiveModel(index, settings.model), Path(settings.index).resolve() == SAMPLE)
    with tempfile.TemporaryDirectory() as folder:
        page = build_page(desk, Path(folder))
        try:
            serve(page, settings)
        except OSError as error:  # the port is taken, or may not be used
            print(f"The page cannot be served on {settings.host}: {error}", file=sys.stderr)
            return 1
        desk.live.start()
        page.block_thread()
    return 0


def serve(page: gr.Blocks, settings: argparse.Namespace) -> None:
    """Starts the server and comes back; the settings are those of a demo that anybody may visit."""
    page.queue(max_size=64).launch(
        server_name=settings.host,
        server_port=settings.port,
        css_paths=[ROOT / "ui" / "style.css"],
        head=preload_tag() + paste_tag(),
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
