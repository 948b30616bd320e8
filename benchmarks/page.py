"""The page in a browser: bytes and time until the map is drawn, and from a click on a point to its neighbors.

python -m benchmarks.page FASHION_MNIST INDEX... [--rounds 5] [--clicks 10] [--port 8000]

FASHION_MNIST is a folder with the Parquet files of zalando-datasets/fashion_mnist; each INDEX is a folder
that `python -m index build` made. All apps run at once, their models loaded; every round visits each with a
fresh headless Chromium (software WebGL), then once more with the same one, and in another fresh one opens the
yardstick: a bare page, without Gradio, on which Plotly draws the same points. Drawn is the performance mark
"map-drawn", counted from the start of the navigation; bytes are what came over the network until then. A
click is counted from the press of the mouse button to the frame after the new neighbors are in the document.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import BrowserContext, Page, Playwright, sync_playwright

from benchmarks.fashion import photo_file, read_files
from benchmarks.server import ask_live, serving
from benchmarks.timing import print_table
from index.store import Index, load_index
from ui.map import plotly_script

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
OPTIONS += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a graphics card
PATIENCE = 60_000  # milliseconds
AIM = 150  # milliseconds that a hand rests on a point before it presses; the map asks for its thumbnail then

BARE_PAGE = """<!doctype html><div id="plot" style="width:560px;height:580px"></div>
<script src="{script}"></script>
<script>Plotly.newPlot("plot", {traces}).then(() => performance.mark("map-drawn"))</script>"""

WATCH_CLICKS = """() => {
    const asked = () => document.querySelector(".results-query p")?.textContent;
    window.clicks = [];
    addEventListener("mousedown", (event) => clicks.push({ down: event.timeStamp, before: asked() }), true);
    new MutationObserver(() => {
        const click = clicks.at(-1);
        if (!click || click.seen || asked() === click.before || !document.querySelector(".tile")) return;
        click.seen = true;
        requestAnimationFrame(() => setTimeout(() => (click.shown = performance.now())));
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""

PLACE = """([x, y]) => {
    const plot = document.querySelector(".map-plot"), box = plot.getBoundingClientRect();
    const { xaxis, yaxis, _size } = plot._fullLayout;
    return [box.left + _size.l + xaxis.l2p(x), box.top + _size.t + yaxis.l2p(y)];
}"""


@dataclass(frozen=True)
class Visit:
    """Seconds until the map is drawn, megabytes until then, and seconds from each click to its neighbors."""

    drawn: float
    megabytes: float
    clicks: tuple[float, ...]


@dataclass(frozen=True)
class Subject:
    """What is visited: an index, the address of its app, its points on a bare page, and what was measured."""

    index: Index
    address: str
    bare_page: str
    bare: list[float] = field(default_factory=list)
    visits: dict[str, list[Visit]] = field(default_factory=lambda: {"cold": [], "warm": []})


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    if CHROMIUM is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium.")
    upload = photo_file(read_files(options.fashion_mnist, 1)[0])
    with ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subjects = []
        for port, folder in enumerate(options.indexes, options.port):
            server = stack.enter_context(serving(folder, port))
            ask_live(server.address, upload)  # once this is answered the model is loaded
            index = load_index(folder)
            subjects.append(Subject(index, server.address, write_bare_page(index, scratch)))
        for turn in range(options.rounds):
            for subject in subjects:
                measure(subject, playwright, np.random.default_rng(turn), options.clicks)
    header = ["items", "visit", "MB", "drawn s", "bare Plotly page s", "first click s", "later clicks s"]
    rows = [row(subject, kind) for subject in subjects for kind in subject.visits]
    print_table([*header, "slowest tenth of later clicks s"], rows)


def measure(subject: Subject, playwright: Playwright, rng: np.random.Generator, clicks: int) -> None:
    """One round: a first and a second visit with clicks on random points, and the bare page."""
    items = rng.choice(subject.index.manifest.count, clicks)
    with fresh_browser(playwright) as context:
        for visits in subject.visits.values():
            visits.append(visit(context, subject, items))
    with fresh_browser(playwright) as context:
        subject.bare.append(opened(context, subject.bare_page)[1])


def row(subject: Subject, kind: str) -> list[str]:
    visits = subject.visits[kind]
    later = [seconds for visit in visits for seconds in visit.clicks[1:]]
    figures = [
        f"{median(visit.megabytes for visit in visits):.2f}",
        f"{median(visit.drawn for visit in visits):.1f}",
        f"{median(subject.bare):.1f}",
        f"{median(visit.clicks[0] for visit in visits):.2f}",
        f"{median(later):.2f}",
        f"{np.quantile(later, 0.9):.2f}",
    ]
    return [f"{subject.index.manifest.count:,}", kind, *figures]


@contextmanager
def fresh_browser(playwright: Playwright) -> Iterator[BrowserContext]:
    """A browser process of its own, with nothing in its cache."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
    try:
        yield browser.new_context(viewport={"width": 1280, "height": 800})
    finally:
        browser.close()


def visit(context: BrowserContext, subject: Subject, items: NDArray[np.int64]) -> Visit:
    """One visit, with clicks on the places of `items`."""
    page, drawn, megabytes = opened(context, subject.address)
    page.evaluate(WATCH_CLICKS)
    clicks = tuple(click(page, subject.index, int(item)) for item in items)
    page.close()
    return Visit(drawn, megabytes, clicks)


def opened(context: BrowserContext, address: str) -> tuple[Page, float, float]:
    """The page with its map drawn, the seconds and the megabytes (headers too, cached ones not) it took."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    sizes: list[float] = []
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(address)
    page.wait_for_function("performance.getEntriesByName('map-drawn').length")
    megabytes = sum(sizes) / 1e6
    drawn = page.evaluate("performance.getEntriesByName('map-drawn')[0].startTime") / 1e3
    return page, drawn, megabytes


def click(page: Page, index: Index, item: int) -> float:
    """Seconds from a press at an item's place to the neighbors of the point found there."""
    page.mouse.move(*page.evaluate(PLACE, index.map[item].tolist()))
    page.wait_for_timeout(AIM)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("clicks.at(-1).shown")
    return page.evaluate("(clicks.at(-1).shown - clicks.at(-1).down) / 1e3")


def write_bare_page(index: Index, folder: Path) -> str:
    """The address of a file that draws the index's points with Plotly and nothing else."""
    traces = []
    for label in np.unique(index.labels):
        points = index.map[index.labels == label]
        axes = {axis: points[:, column].tolist() for column, axis in enumerate("xy")}
        traces.append({"type": "scattergl", "mode": "markers", "marker": {"size": 4}, **axes})
    file = folder / f"{index.manifest.fingerprint}-{index.manifest.count}.html"
    file.write_text(BARE_PAGE.format(script=plotly_script().as_uri(), traces=json.dumps(traces)))
    return file.as_uri()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("fashion_mnist", type=Path)
    parser.add_argument("indexes", type=Path, nargs="+", metavar="INDEX")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
