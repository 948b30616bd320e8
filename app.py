"""The Space: an index on screen, asked by class, item, upload and sketch; the same questions as an API."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Literal
from uuid import uuid4

import gradio as gr
from gradio.events import Dependency
from PIL import Image

from embedding.image import MAX_PIXELS, QueryError, open_image
from index.compare import same_item
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
from index.searching import check_engine
from index.standby import Opened, Standby
from index.store import Index
from ui.compare import FiguresView, figures_value, random_item, splitting, verdict_html
from ui.desk import AT_ONCE, LOOKUP, MODEL_QUEUE, PRIVATE, Desk, in_words
from ui.explore import ExploreView, explore_value
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
FIRST_SEED = 25  # the item on screen when the page opens: in the sample, one with a divided vote
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
        "--index", action="append", help="a folder or a Hub dataset id; several times: to switch and compare"
    )
    parser.add_argument("--revision", action="append", help="of a Hub index; the first is the first index's")
    parser.add_argument("--model", help="a folder or Hub id to use instead of what the first index names")
    parser.add_argument(
        "--search",
        type=engine,
        default=os.environ.get("SEARCH") or "auto",
        help="exact, faiss (approximate), the URL of a Qdrant, or auto: faiss where the index is made for it",
    )
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("GRADIO_SERVER_PORT", "7860"))
    settings = parser.parse_args(arguments)
    settings.index = settings.index or [os.environ.get("INDEX") or str(SAMPLE)]
    settings.revision = settings.revision or [os.environ.get("INDEX_REVISION") or None]
    return settings


def engine(text: str) -> str:
    """The setting of --search, refused in a sentence."""
    try:
        return check_engine(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# ---- Questions and answers


def ask(opened: Opened, query: Query, k: object) -> Answer:
    return answer(opened.index, query, whole_k(k), opened.searching)


def ask_class(opened: Opened, label: object, k: object, seed: object = None) -> Answer:
    return ask(opened, query_class(opened.index, label, seed), k)


def ask_item(opened: Opened, item: object, k: object) -> Answer:
    return ask(opened, query_item(opened.index, item), k)


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
    return ask(opened, query_image(opened.index, image, opened.live.encoder(), kind), count)


# ---- The page


@dataclass(frozen=True)
class Shown:
    """What a visitor has on screen: a query, and the key of the index that it was put to."""

    key: str
    query: Query


@dataclass(frozen=True)
class Top:
    """What stands above the tabs; `which` is the number of the index that a visitor looks at."""

    which: gr.Radio
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
        with gr.Tabs(elem_classes="page-tabs", overflow_behavior="wrap") as tabs:  # nobody looks into a menu
            with gr.Tab("Search", id="search"):
                search = lay_out_search(desk)
            with gr.Tab("Explore", id="explore"):
                explore = ExploreView(desk, explore_value(desk.key(desk.opened)))
            with gr.Tab("Quality", id="quality"):
                quality = QualityView(desk.maps, desk.key(desk.opened))
            with gr.Tab("Data hygiene", id="hygiene"):
                hygiene = HygieneView(desk, desk.key(desk.opened))
            with gr.Tab("Compare", id="compare", visible=len(desk.standbys) > 1) as tab:
                pair = lay_out_compare(desk)
        reports = Reports(explore, quality, hygiene)
        connect_lookups(desk, top, search)
        connect_selection(desk, search)
        connect_model(desk, top, search)
        connect_reports(desk, tabs, top, search, reports)
        connect_arrival(desk, page, top, search, reports)
        connect_compare(desk, tab, top, search, pair)
        serve_api(desk)
    return page


def lay_out_top(desk: Desk) -> Top:
    opened = desk.opened
    with gr.Row(elem_classes="page-top"):
        head = gr.HTML(head_html(opened), elem_classes="page-head")
        notice = gr.HTML(notice_html(opened), elem_classes="page-notice")
    which = gr.Radio(
        index_choices(desk),
        value=0,
        visible=len(desk.standbys) > 1,
        show_label=False,
        container=False,
        elem_classes="page-which",
    )
    banner = gr.HTML(banner_html(desk.standby(0)), elem_classes="page-banner")
    return Top(which, head, notice, banner)


def index_choices(desk: Desk) -> list[tuple[str, int]]:
    """What to call each index, with its number: title and model, its place too where that is not enough."""
    manifests = [standby.current.index.manifest for standby in desk.standbys]
    names = [f"{manifest.title}, {manifest.model.name.split('/')[-1]}" for manifest in manifests]
    places = [without_folders(standby.location).split("/")[-1] for standby in desk.standbys]
    unlike = len(set(names)) == len(names)
    return [
        (name if unlike else f"{name} ({place})", number)
        for number, (name, place) in enumerate(zip(names, places, strict=True))
    ]


def lay_out_search(desk: Desk) -> Search:
    """The search tab's components in their places, showing a first answer."""
    opened = desk.opened
    key = desk.key(opened)
    found = ask(opened, first_query(opened.index, FIRST_SEED), DEFAULT_K)
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
            selection = SelectionView(desk.maps, elem_classes="selection-block")
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
    label = found.vote[0][0] if found.query.item is None else index.labels[found.query.item]
    return {"choices": list(filled_classes(index)), "value": index.manifest.classes[label]}


def on_page(desk: Desk, opened: Opened, found: Answer) -> list:
    """An answer as the values of `Search.answer`."""
    key = desk.key(opened)
    return [Shown(key, found.query), map_value(desk.maps, key, found), answer_html(opened.index, key, found)]


def renewed(desk: Desk, opened: Opened, query: Query | None, k: int) -> list:
    """What another index replaces, with the answer to `query` or else to a first one."""
    found = ask(opened, query or first_query(opened.index, FIRST_SEED), k)
    return [
        head_html(opened),
        gr.Dropdown(**class_choice(opened.index, found)),
        gr.Column(visible=opened.is_sample),
        k,
        explore_value(desk.key(opened)),
        *[desk.key(opened)] * 2,  # the other reports
        *on_page(desk, opened, found),
    ]


def connect_lookups(desk: Desk, top: Top, search: Search) -> None:
    """What needs no model: a class, an item of the map or of the results, and another k."""

    @in_words
    def pick_class(which: int, k: int, label: str) -> list:
        opened = desk.at(which)
        return on_page(desk, opened, ask_class(opened, label, k))

    @in_words
    def pick_item(which: int, k: int, event: gr.EventData) -> list:
        opened = desk.at(which)
        return on_page(desk, opened, ask_item(opened, event.item, k))

    @in_words
    def change_k(which: int, k: int, shown: Shown) -> list:
        opened = desk.at(which)
        query = shown.query if shown.key == desk.key(opened) else first_query(opened.index, FIRST_SEED)
        return on_page(desk, opened, ask(opened, query, k))

    asked = [top.which, search.k]
    labels = [*asked, search.label]
    gr.on([search.label.input, search.another.click], pick_class, labels, search.answer, **AT_ONCE, **PRIVATE)
    for view in (search.view, search.results, search.selection):  # gr.on takes no gr.HTML's own events (6.31)
        view.pick(pick_item, asked, search.answer, **AT_ONCE, **PRIVATE)
    search.k.input(change_k, [*asked, search.shown], search.answer, **AT_ONCE, **PRIVATE)


def connect_selection(desk: Desk, search: Search) -> None:
    """What is selected on the map appears below it."""

    def show_selection(event: gr.EventData) -> dict:
        index = desk.maps.index(event.key)
        return selection_value(index, event.key, index and selected_items(index, event))

    search.view.selected(show_selection, None, search.selection, **AT_ONCE, **PRIVATE)


@dataclass(frozen=True)
class Reports:
    """The tabs about the data as a whole."""

    explore: ExploreView
    quality: QualityView
    hygiene: HygieneView

    @property
    def views(self) -> list:
        """In the order of `renewed`."""
        return [self.explore, self.quality, self.hygiene]


def connect_reports(desk: Desk, tabs: gr.Tabs, top: Top, search: Search, reports: Reports) -> None:
    """Items of a report: marked on the map, looked at there, or searched with."""

    def mark(which: int, k: int, shown: Shown, event: gr.EventData) -> list:
        return selected(desk, desk.at(which), shown, k, event)

    def show(which: int, k: int, shown: Shown, event: gr.EventData) -> list:
        return [gr.Tabs(selected="search"), *selected(desk, desk.at(which), shown, k, event)]

    @in_words
    def pick_item(which: int, k: int, event: gr.EventData) -> list:
        opened = desk.at(which)
        return [gr.Tabs(selected="search"), *on_page(desk, opened, ask_item(opened, event.item, k))]

    asked, on_map = [top.which, search.k, search.shown], [search.view, search.selection]
    reports.quality.chosen(mark, asked, on_map, **AT_ONCE, **PRIVATE)
    for view in (reports.quality, reports.hygiene):
        view.shown(show, asked, [tabs, *on_map], **AT_ONCE, **PRIVATE)
    for view in reports.views:
        view.pick(pick_item, asked[:2], [tabs, *search.answer], **AT_ONCE, **PRIVATE)


def selected(desk: Desk, opened: Opened, shown: Shown, k: int, event: gr.EventData) -> list:
    """The items that an event names, selected on the map, if it is still their index's, and listed below."""
    index, key = opened.index, getattr(event, "key", None)
    items = selected_items(index, event)
    if items is None or not key == shown.key == desk.key(opened):
        return [gr.skip(), gr.skip()]
    selection = Selection(uuid4().hex, tuple(items.tolist()))
    found = ask(opened, shown.query, k)
    return [map_value(desk.maps, key, found, selection), selection_value(index, key, items)]


def connect_model(desk: Desk, top: Top, search: Search) -> None:
    """What needs the model: uploads, example images and sketches."""

    @in_words
    def search_upload(which: int, k: int, file: object) -> list:
        opened = desk.at(which)
        return on_page(desk, opened, ask_image(opened, file, k))

    @in_words
    def search_sketch(which: int, k: int, file: object) -> list:
        opened = desk.at(which)
        return on_page(desk, opened, ask_sketch(opened, file, k))

    uploaded = [top.which, search.k, search.upload]
    search.upload.upload(search_upload, uploaded, search.answer, **MODEL_QUEUE, **PRIVATE)
    search.example.success(search_upload, uploaded, search.answer, **MODEL_QUEUE, **PRIVATE)
    drawn = [top.which, search.k, search.pad]
    search.pad.drawn(search_sketch, drawn, search.answer, **MODEL_QUEUE, **PRIVATE)


def connect_arrival(desk: Desk, page: gr.Blocks, top: Top, search: Search, reports: Reports) -> None:
    """What a page shows when it is opened, by its address, and when another index takes its place.

    The lines about index and model are looked at every few seconds while something is expected.
    """
    timer = gr.Timer(1)
    built = search.shown.value.key
    # as in `renewed`
    index_parts = [top.head, search.label, search.examples, search.k, *reports.views, *search.answer]
    unchanged = [gr.skip()] * len(index_parts)

    def status(which: int) -> list:
        standby = desk.standby(which)
        live = standby.current.live
        pause = gr.Timer(1 if live.loading else 3, active=live.expected or standby.problem is not None)
        return [banner_html(standby), notice_html(standby.current), pause]

    def arrive(request: gr.Request) -> list:
        opened = desk.opened
        linked = read_link(opened.index, request.query_params)
        for sentence in linked.ignored:
            gr.Info(f"A part of the link was ignored. {sentence}")
        if linked.query is None and linked.k == DEFAULT_K and desk.key(opened) == built:
            return [*unchanged, *status(0)]
        return [*renewed(desk, opened, linked.query, linked.k), *status(0)]

    def look(which: int, k: int, shown: Shown) -> list:
        opened = desk.at(which)
        if shown.key == desk.key(opened):
            return [*unchanged, *status(which)]
        return [*renewed(desk, opened, asked_again(desk, opened, shown), whole_k(k)), *status(which)]

    told = [*index_parts, top.banner, top.notice, timer]
    page.load(arrive, None, told, **LOOKUP, **PRIVATE)  # gr.Info needs the queue
    seen = [top.which, search.k, search.shown]
    gr.on([timer.tick, top.which.input], look, seen, told, **AT_ONCE, **PRIVATE)


def asked_again(desk: Desk, opened: Opened, shown: Shown) -> Query | None:
    """What is on screen, put to another index: the same item or new image; None where that cannot be."""
    before = desk.maps.index(shown.key)
    try:
        if shown.query.item is None:
            if opened.live.loading:
                return None
            return query_image(opened.index, shown.query.original, opened.live.encoder(), shown.query.kind)
        item = same_item(before, opened.index, shown.query.item)
        return None if item is None else query_item(opened.index, item)
    except QueryError:
        return None


@dataclass(frozen=True)
class Pair:
    """The tab that puts one query to two indexes; `item` is its item on the left, None for a new image."""

    other: gr.Dropdown
    another: gr.Button
    split: gr.Button
    query: gr.State
    verdict: gr.HTML
    views: tuple[MapView, MapView]
    results: tuple[ResultsView, ResultsView]
    figures: FiguresView

    @property
    def answer(self) -> list:
        """What an answer replaces, in the order of `on_pair`."""
        return [self.query, self.verdict, *self.views, *self.results]


def lay_out_compare(desk: Desk) -> Pair:
    """The compare tab's components, empty until it is opened."""
    with gr.Row(elem_classes="compare-ask"):
        other = gr.Dropdown(index_choices(desk), value=len(desk.standbys) - 1, label="Compare with")
        another = gr.Button("Another example", variant="primary")
        split = gr.Button("Only one right")
    verdict = gr.HTML()
    with gr.Row(elem_classes="compare-pair"):
        columns = [lay_out_side(desk) for _ in range(2)]
    views, results = zip(*columns, strict=True)
    return Pair(other, another, split, gr.State(), verdict, views, results, FiguresView(desk.maps))


def lay_out_side(desk: Desk) -> tuple[MapView, ResultsView]:
    with gr.Column():
        return MapView(desk.maps), ResultsView(desk.maps)


def connect_compare(desk: Desk, tab: gr.Tab, top: Top, search: Search, pair: Pair) -> None:
    """The query on screen answered by both, then any other that both hold."""
    next_split = splitting(desk.maps)

    def sides(which: int, other: int) -> tuple[Opened, Opened]:
        if which == other:
            raise QueryError("These are the same index: choose another one to compare with.")
        return desk.at(which), desk.at(other)

    def ask_both(opened: tuple[Opened, Opened], k: int, query: Query) -> list:
        again = asked_again(desk, opened[1], Shown(desk.key(opened[0]), query))
        if again is None:
            raise QueryError("The other index does not hold this item, or its model is not ready.")
        found = [ask(one, asked, k) for one, asked in zip(opened, (query, again), strict=True)]
        return on_pair(desk, opened, query, found)

    @in_words
    def show(which: int, other: int, k: int, shown: Shown) -> list:
        opened = sides(which, other)
        same = shown.key == desk.key(opened[0])
        return ask_both(opened, k, shown.query if same else first_query(opened[0].index, FIRST_SEED))

    @in_words
    def show_another(which: int, other: int, k: int) -> list:
        opened = sides(which, other)
        item = random_item(opened[0].index, opened[1].index)
        return ask_both(opened, k, query_item(opened[0].index, item))

    @in_words
    def show_split(which: int, other: int, k: int, query: Query | None) -> list:
        opened = sides(which, other)
        item = next_split(desk.key(opened[0]), desk.key(opened[1]), query and query.item)
        return ask_both(opened, k, query_item(opened[0].index, item))

    def pick(side: int) -> Callable:
        @in_words
        def pick_item(which: int, other: int, k: int, event: gr.EventData) -> list:
            opened = sides(which, other)
            item = query_item(opened[side].index, event.item).item
            if side:
                item = same_item(opened[1].index, opened[0].index, item)
            return ask_both(opened, k, query_item(opened[0].index, item))

        return pick_item

    @in_words
    def measure(which: int, other: int) -> dict:
        one, another = sides(which, other)
        return figures_value(desk.maps, desk.key(one), desk.key(another))

    asked = [top.which, pair.other, search.k]
    gr.on([tab.select, pair.other.input], show, [*asked, search.shown], pair.answer, **MODEL_QUEUE, **PRIVATE)
    gr.on([tab.select, pair.other.input], measure, asked[:2], pair.figures, **LOOKUP, **PRIVATE)
    pair.another.click(show_another, asked, pair.answer, **AT_ONCE, **PRIVATE)
    pair.split.click(show_split, [*asked, pair.query], pair.answer, **LOOKUP, **PRIVATE)
    for side in range(2):
        for view in (pair.views[side], pair.results[side]):
            view.pick(pick(side), asked, pair.answer, **AT_ONCE, **PRIVATE)


def on_pair(desk: Desk, opened: tuple[Opened, Opened], query: Query, found: list[Answer]) -> list:
    """Two answers as the values of `Pair.answer`; the right map is turned to lie like the left one."""
    one, other = (side.index for side in opened)
    keys = desk.maps.key(one), desk.maps.key(other, beside=one)
    return [
        query,
        verdict_html((one, other), found),
        *(map_value(desk.maps, key, answered) for key, answered in zip(keys, found, strict=True)),
        *(
            answer_html(side, key, answered)
            for side, key, answered in zip((one, other), keys, found, strict=True)
        ),
    ]


def head_html(opened: Opened) -> str:
    """The title, and the line that says what is being searched."""
    manifest = opened.index.manifest
    parts = [
        f"<strong>{escape(manifest.title)}</strong>",
        f"{manifest.count:,} items",
        f"model {escape(manifest.model.name)}",
    ]
    if opened.searching.asked == "faiss" and manifest.approximate:
        found = 100 * manifest.approximate.recall_at_10
        parts.append(f"approximate search, which finds {found:.1f} % of the 10 nearest")
    if opened.is_sample:
        parts.append("the bundled sample; <code>make fashion</code> builds Fashion-MNIST")
    return f"<h1>Image similarity</h1><p>{' · '.join(parts)}</p>"


def banner_html(standby: Standby) -> str:
    """What a visitor should know of how the index came; nothing if it is the one that was asked for."""
    opened, asked = standby.current, f"<code>{escape(standby.location)}</code>"
    if problem := standby.problem:
        return (
            f"<p role='status'><strong>{asked} is not here yet, this is the bundled sample.</strong> "
            f"{escape(problem)} It is asked for again, and appears as soon as it comes.</p>"
        )
    if opened.reason:
        cached = f"This is revision {(opened.revision or '')[:7]} of {asked}, from the cache."
        return f"<p role='status'>{escape(opened.reason)} {cached}</p>"
    return ""


def notice_html(opened: Opened) -> str:
    """What a visitor should know about the live model; nothing once it is ready."""
    if opened.live.loading:
        return "<p>Model loading: uploads wait.</p>"
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
        return {**about_json(opened.index), **standing(desk.standby(0))}

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


def standing(standby: Standby) -> dict[str, object]:
    """How the index that answers came to be here, and whether uploads and sketches are answered."""
    opened = standby.current
    live = opened.live
    state = "loading" if live.loading else "unavailable" if live.reason else "ready"
    asked = {"index": without_folders(standby.location), "revision": standby.revision}
    return {
        "sample": opened.is_sample,
        "asked": {**asked, "problem": standby.problem},
        "revision": opened.revision,
        "cached": opened.reason,
        "live": {"state": state, "reason": live.reason},
        "search": asdict(opened.searching.status),
    }


# ---- Launch


def main(arguments: list[str] | None = None) -> int:
    """Opens the indexes and serves the page; the models load once the page is up."""
    settings = read_settings(arguments)
    try:
        standbys = open_indexes(settings)
    except FormatError as error:
        print(error, file=sys.stderr)
        return 1
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Gradio opens images as well
    with tempfile.TemporaryDirectory() as folder:
        page = build_page(Desk(standbys, Maps(Path(folder))))
        try:
            serve(page, settings)
        except OSError as error:  # the port is taken, or may not be used
            print(f"The page cannot be served on {settings.host}: {error}", file=sys.stderr)
            return 1
        for standby in standbys:
            standby.serve()
        page.block_thread()
    return 0


def open_indexes(settings: argparse.Namespace) -> tuple[Standby, ...]:
    """The indexes that were asked for, open. Raises FormatError, which names the one that cannot be."""
    asked = zip_longest(settings.index, settings.revision[: len(settings.index)], [settings.model])
    standbys = tuple(
        Standby(location, revision, SAMPLE, model, settings.search) for location, revision, model in asked
    )
    for standby in standbys:
        try:
            standby.open()
        except FormatError as error:
            raise FormatError(f"The index {standby.location} cannot be opened: {error}") from None
    return standbys


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
