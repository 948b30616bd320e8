"""The page inside a page of another origin, and links to what is on screen."""

# ruff: noqa: F811  (fixtures come in by import)

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Frame, Page, expect

from index.query import answer, query_class, query_item
from index.store import Index
from tests.browser_fixtures import PATIENCE, browser, needs_chromium, opened, playwright  # noqa: F401
from tests.server import running_app

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_app(log=tmp_path_factory.mktemp("app") / "log") as url:
        yield url


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Nothing: requests are no news here."""


@pytest.fixture(scope="module")
def blog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of another origin, and the folder of its pages."""
    folder = tmp_path_factory.mktemp("blog")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()


def embedded(
    browser: Browser, blog: tuple[str, Path], source: str, width: int, height: int = 560
) -> tuple[Page, Frame]:
    """A blog post that shows `source` in a frame, and the frame once its page stands."""
    url, folder = blog
    frame = f'<iframe src="{source}" width="{width}" height="{height}" style="border:0"></iframe>'
    (folder / "post.html").write_text(f"<!doctype html><p>A post</p>{frame}<div style='height:2000px'></div>")
    page = browser.new_page(viewport={"width": width + 40, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(url + "post.html")
    shown = page.frame_locator("iframe")
    expect(shown.locator(".results-query")).to_be_attached(timeout=PATIENCE)
    return page, page.frames[-1]


def drawn(frame: Frame) -> None:
    frame.wait_for_function("performance.getEntriesByName('map-drawn').length", timeout=PATIENCE)


def items(where: Page | Frame) -> list[int]:
    return where.locator(".tile").evaluate_all("tiles => tiles.map(tile => Number(tile.dataset.item))")


@pytest.mark.parametrize("width", [320, 480, 760, 1200])
@pytest.mark.parametrize("view", ["map", "search", ""])
def test_frame_of_any_width_fits(
    browser: Browser, blog: tuple[str, Path], address: str, width: int, view: str
) -> None:
    page, frame = embedded(browser, blog, f"{address}?view={view}&__theme=dark", width)
    if view != "search":
        drawn(frame)
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert frame.evaluate("document.body.classList.contains('dark')")
    parts = {".stage": view != "search", ".answer": view != "map", ".ask": view != "map"}
    assert {part: frame.locator(part).is_visible() for part in parts} == parts
    if view == "map":
        assert frame.evaluate("document.documentElement.scrollHeight <= innerHeight")
        assert frame.locator(".map-frame").bounding_box()["height"] > 200
    page.close()


def test_wheel_over_the_map_scrolls_the_page_around_it(
    browser: Browser, blog: tuple[str, Path], address: str
) -> None:
    page, frame = embedded(browser, blog, f"{address}?view=map", 600)
    drawn(frame)
    box = page.locator("iframe").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 280)
    page.mouse.wheel(0, 400)
    page.wait_for_function("scrollY > 300")
    page.close()


def test_link_shows_the_item_that_it_names(
    browser: Browser, blog: tuple[str, Path], address: str, sample: Index
) -> None:
    page, frame = embedded(browser, blog, f"{address}?item=42&k=5", 1200)
    expect(frame.locator(".results-query")).to_contain_text("item 42", timeout=PATIENCE)
    assert items(frame) == [neighbor.item for neighbor in answer(sample, query_item(sample, 42), 5).neighbors]
    expect(frame.get_by_label("Class", exact=True).first).to_have_value(sample.class_of(42))
    page.close()


def test_link_with_class_and_seed_always_shows_the_same_item(
    browser: Browser, address: str, sample: Index
) -> None:
    page = opened(browser.new_page(), f"{address}?label=4&seed=7&k=3")
    due = answer(sample, query_class(sample, "4", 7), 3)
    expect(page.locator(".results-query")).to_contain_text(f"item {due.query.item}", timeout=PATIENCE)
    assert items(page) == [neighbor.item for neighbor in due.neighbors]
    page.close()


@pytest.mark.parametrize("link", ["item=99999", "label=cat", "k=many", "item=x&k=-3", "label=4&seed=x"])
def test_bad_link_is_ignored_with_a_word(browser: Browser, address: str, link: str) -> None:
    page = opened(browser.new_page(), f"{address}?{link}")
    expect(page.get_by_text("A part of the link was ignored.").first).to_be_visible(timeout=PATIENCE)
    assert len(items(page)) in (1, 10)
    assert page.faults == []
    page.close()


def test_copied_link_leads_to_what_is_on_screen(browser: Browser, address: str) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = opened(context.new_page(), f"{address}?__theme=dark&item=42")
    expect(page.locator(".results-query")).to_contain_text("item 42", timeout=PATIENCE)
    item = items(page)[2]
    page.locator(".tile").nth(2).click()
    expect(page.locator(".results-query")).to_contain_text(f"item {item}", timeout=PATIENCE)
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert set(parse_qs(urlsplit(link).query)) == {"__theme", "item", "k"}
    there = opened(context.new_page(), link)
    expect(there.locator(".results-query")).to_contain_text(f"item {item}", timeout=PATIENCE)
    context.close()


def test_link_in_a_frame_can_be_copied_by_hand(
    browser: Browser, blog: tuple[str, Path], address: str
) -> None:
    page, frame = embedded(browser, blog, f"{address}?view=search&item=7", 480, 900)
    expect(frame.locator(".results-query")).to_contain_text("item 7", timeout=PATIENCE)
    frame.get_by_role("button", name="Copy link").click()
    expect(frame.get_by_label("Link to this query")).to_have_value(f"{address}?view=search&item=7&k=10")
    page.close()
