"""The page in a real browser: every gesture, both themes, a phone."""

# ruff: noqa: F811  (fixtures come in by import)

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, Playwright, expect

from index.query import answer, query_item
from index.store import Index
from tests.browser_fixtures import (  # noqa: F401
    CHROMIUM,
    PATIENCE,
    browser,
    needs_chromium,
    opened,
    playwright,
)
from tests.conftest import ROOT
from tests.pictures import file_of, seven
from tests.server import running_app

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_app(log=tmp_path_factory.mktemp("app") / "log") as url:
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield opened(context.new_page(), address)
    context.close()


@pytest.fixture
def phone(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    yield opened(context.new_page(), address)
    context.close()


def point_at(page: Page, item: int, sample: Index) -> tuple[float, float]:
    """Where an item's point is on the screen."""
    page.locator(".map-plot").first.scroll_into_view_if_needed()
    x, y = sample.map[item].tolist()
    return page.evaluate(
        """([x, y]) => {
            const plot = document.querySelector(".map-plot"), box = plot.getBoundingClientRect();
            const { xaxis, yaxis, _size } = plot._fullLayout;
            return [box.left + _size.l + xaxis.l2p(x), box.top + _size.t + yaxis.l2p(y)];
        }""",
        [x, y],
    )


def marked(page: Page) -> dict[str, int]:
    """How many stars and rings the map shows."""
    return {
        "rings": page.locator(".map-marks circle").count(),
        "stars": page.locator(".map-marks path").count(),
    }


def lonely_item(sample: Index) -> int:
    """The item farthest from all other points on the map: a click there can mean no other."""
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=2).fit(sample.map).kneighbors(sample.map)
    return int(distances[:, 1].argmax())


def neighbors_of(page: Page) -> list[int]:
    return page.locator(".tile").evaluate_all("tiles => tiles.map(tile => Number(tile.dataset.item))")


def wait_for_item(page: Page, item: int) -> None:
    expect(page.locator(".results-query")).to_contain_text(f"item {item}", timeout=PATIENCE)


def test_first_result_is_on_screen_at_load(page: Page) -> None:
    assert len(neighbors_of(page)) == 10
    assert marked(page) == {"rings": 10, "stars": 1}
    expect(page.locator(".map-count")).to_have_text("5,000 of 5,000 points")
    expect(page.locator(".page-head").first).to_contain_text("make fashion")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_nothing_outside_is_asked(page: Page, address: str) -> None:
    page.get_by_role("tab", name="Sketch").click()
    page.wait_for_timeout(500)
    assert page.hosts <= {address.split("/")[2], "data"}
    assert page.faults == []


def test_class_is_picked(page: Page) -> None:
    page.get_by_label("Class", exact=True).first.click()
    page.get_by_role("option", name="4", exact=True).click()
    expect(page.locator(".results-query h3")).to_have_text("4")
    first = page.locator(".results-query p").inner_text()
    page.get_by_role("button", name="Another example").click()
    expect(page.locator(".results-query p")).not_to_have_text(first)
    expect(page.locator(".results-query h3")).to_have_text("4")


def test_clicked_point_becomes_the_query(page: Page, sample: Index) -> None:
    item = lonely_item(sample)
    page.mouse.click(*point_at(page, item, sample))
    wait_for_item(page, item)
    due = answer(sample, query_item(sample, item), 10)
    assert neighbors_of(page) == [neighbor.item for neighbor in due.neighbors]
    assert marked(page) == {"rings": 10, "stars": 1}
    shares = page.locator(".vote-share").all_inner_texts()
    assert shares[0].endswith("%")


def test_hovered_point_shows_its_image(page: Page, sample: Index) -> None:
    item = lonely_item(sample)
    x, y = point_at(page, item, sample)
    page.mouse.move(x - 40, y - 40)
    page.mouse.move(x, y, steps=4)
    tip = page.locator(".map-tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text(f"{item}")
    expect(tip.locator("strong")).to_have_text(sample.class_of(item))
    page.wait_for_function(
        """() => {
            const canvas = document.querySelector(".map-tip canvas");
            if (!canvas.width) return false;
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return pixels.some((value, place) => place % 4 < 3 && value > 128);
        }"""
    )


def test_neighbor_becomes_the_query(page: Page) -> None:
    second = neighbors_of(page)[1]
    page.locator(".tile").nth(1).click()
    wait_for_item(page, second)
    assert second not in neighbors_of(page)


def test_k_changes_the_number_of_neighbors(page: Page) -> None:
    page.get_by_role("spinbutton").fill("23")
    page.get_by_role("spinbutton").press("Tab")
    expect(page.locator(".tile")).to_have_count(23)
    assert marked(page)["rings"] == 23


def counted(page: Page, words: str) -> None:
    expect(page.locator(".map-count")).to_have_text(words, timeout=PATIENCE)


def test_legend_selects_classes_and_the_rest_stays_gray(page: Page) -> None:
    page.locator(".chip", has_text="3").click()
    counted(page, "500 of 5,000 points")
    expect(page.locator(".selection-head h4")).to_have_text("500 selected")
    gray = "document.querySelector('.map-plot')._fullData.map((trace) => trace.selectedpoints.length)"
    page.wait_for_function(f"{gray}.join() === '0,0,0,500,0,0,0,0,0,0'")
    page.locator(".chip", has_text="8").click()
    counted(page, "1,000 of 5,000 points")
    page.locator(".chip", has_text="All").click()
    counted(page, "5,000 of 5,000 points")
    expect(page.locator(".selection-head")).to_have_count(0)


def test_search_box_selects_a_class_or_an_item(page: Page) -> None:
    box = page.get_by_label("Select a class or item")
    for text, words in (("7", "500 of"), ("item 12", "1 of"), ("zebra", "Nothing here is called zebra")):
        box.fill(text)
        box.press("Enter")
        expect(page.locator(".map-count")).to_contain_text(words)


def lasso(page: Page, tool: str, corners: list[tuple[float, float]]) -> None:
    page.get_by_role("button", name=tool).click()
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in [*corners[1:], corners[0]]:
        page.mouse.move(*corner, steps=4)
    page.mouse.up()


def test_lasso_selects_what_is_inside(page: Page, sample: Index, tmp_path: Path) -> None:
    item = lonely_item(sample)
    x, y = point_at(page, item, sample)
    lasso(page, "Select with a lasso", [(x - 2, y - 2), (x + 2, y - 2), (x + 2, y + 2), (x - 2, y + 2)])
    counted(page, "1 of 5,000 points")
    page.get_by_role("button", name="Select with a lasso").click()  # off again
    with page.expect_download() as download:
        page.locator(".selection [data-export=parquet]").click()
    table = pd.read_parquet(download.value.path())
    assert table["item"].tolist() == [item]
    assert table["label"].tolist() == [sample.class_of(item)]
    assert table["umap_x"].tolist() == pytest.approx([sample.map[item, 0]])
    page.locator(".selection .tile").click()
    wait_for_item(page, item)


def test_box_selects_everything_when_it_is_drawn_round_everything(page: Page) -> None:
    box = page.locator(".map-plot").bounding_box()
    left, top = box["x"] + 2, box["y"] + 2
    page.get_by_role("button", name="Select with a box").click()
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + box["width"] - 4, top + box["height"] - 4, steps=5)
    page.mouse.up()
    counted(page, "5,000 of 5,000 points")
    expect(page.locator(".selection-head h4")).to_have_text("5,000 selected", timeout=PATIENCE)


def places(page: Page, panel: int = 0) -> list[float]:
    """Where the first points of the first class are drawn."""
    return page.evaluate(
        "(n) => Array.from(document.querySelectorAll('.map-plot')[n]._fullData[0].x.slice(0, 5))", panel
    )


def layouts_shown(page: Page) -> int:
    return page.evaluate("performance.getEntriesByName('map-layout').length")


def test_layouts_follow_one_another_and_keep_the_query(page: Page, sample: Index) -> None:
    before, seen = places(page), layouts_shown(page)
    neighbors = neighbors_of(page)
    page.get_by_label("Method").select_option("tsne")
    page.wait_for_function("(n) => performance.getEntriesByName('map-layout').length > n", arg=seen)
    assert places(page) != before
    assert marked(page) == {"rings": 10, "stars": 1}
    assert neighbors_of(page) == neighbors
    expect(page.get_by_label("n_neighbors")).to_be_hidden()
    page.get_by_label("Method").select_option("umap")
    page.wait_for_function("(n) => performance.getEntriesByName('map-layout').length > n + 1", arg=seen)
    assert places(page) == pytest.approx(before)
    page.get_by_label("n_neighbors").focus()
    page.keyboard.press("ArrowRight")  # by keyboard, too
    page.wait_for_function("(n) => performance.getEntriesByName('map-layout').length > n + 2", arg=seen)
    expect(page.locator(".map-layout output").first).to_have_text("50")


def test_two_layouts_share_the_hovered_point_and_the_selection(page: Page, sample: Index) -> None:
    page.get_by_role("button", name="Two layouts side by side").click()
    expect(page.locator(".map-plot")).to_have_count(2)
    page.wait_for_function("performance.getEntriesByName('map-layout').length")
    page.wait_for_function("document.querySelectorAll('.map-plot')[1]._fullData?.length === 10")
    page.locator(".chip", has_text="4").click()
    chosen = "(n) => document.querySelectorAll('.map-plot')[n]._fullData[4].selectedpoints?.length === 500"
    for panel in (0, 1):
        page.wait_for_function(chosen, arg=panel)
    page.mouse.move(*point_at(page, lonely_item(sample), sample))
    expect(page.locator(".map-panel").nth(1).locator(".echo")).to_have_count(1)
    page.get_by_role("button", name="Two layouts side by side").click()
    expect(page.locator(".map-plot")).to_have_count(1)


def test_every_point_can_be_reached_by_keyboard(page: Page, sample: Index) -> None:
    page.get_by_role("button", name="Points as a table").press("Enter")
    expect(page.locator(".map-table tbody tr")).to_have_count(50)
    page.get_by_role("button", name="Next").press("Enter")
    row = page.get_by_role("button", name="Search with item 57", exact=True)
    row.press("Enter")
    wait_for_item(page, 57)
    page.locator(".chip", has_text="9").press("Enter")
    expect(page.locator(".pages")).to_contain_text("of 500")


def test_vote_says_what_it_is_worth(page: Page, sample: Index) -> None:
    expect(page.locator(".results")).to_contain_text("votes like this are right")


def test_neighbors_can_be_saved(page: Page) -> None:
    with page.expect_download() as download:
        page.locator(".results [data-export=csv]").click()
    table = pd.read_csv(download.value.path())
    assert table["item"].tolist() == neighbors_of(page)
    assert table["similarity"].is_monotonic_decreasing


def test_uploaded_image_is_answered(page: Page, tmp_path: Path) -> None:
    seven().save(tmp_path / "seven.png")
    page.get_by_role("tab", name="Upload").click()
    page.set_input_files("input[type=file]", tmp_path / "seven.png")
    expect(page.get_by_text("What the model sees")).to_be_visible()
    expect(page.get_by_text("Your image")).to_be_visible()
    expect(page.locator(".vote-name").first).to_have_text("7")
    assert marked(page) == {"rings": 10, "stars": 1}


def send(page: Page, selector: str, event: str) -> None:
    """Dispatches a drop or a paste that carries the seven as a PNG file."""
    page.evaluate(
        """([selector, event, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "seven.png", { type: "image/png" }));
            const target = document.querySelector(selector);
            target.dispatchEvent(event === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
        }""",
        [selector, event, list(file_of(seven()).getvalue())],
    )


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_dropped_and_pasted_images_are_answered(page: Page, event: str) -> None:
    if event == "drop":  # a paste needs no tab to be opened first
        page.get_by_role("tab", name="Upload").click()
        page.wait_for_selector("#upload input[type=file]", state="attached")
    send(page, "#upload button" if event == "drop" else "body", event)
    expect(page.get_by_text("What the model sees")).to_be_visible()
    expect(page.locator(".vote-name").first).to_have_text("7")


def test_bad_upload_is_told_and_nothing_is_lost(page: Page, tmp_path: Path) -> None:
    before = neighbors_of(page)
    (tmp_path / "fake.png").write_text("not an image")
    page.get_by_role("tab", name="Upload").click()
    page.set_input_files("input[type=file]", tmp_path / "fake.png")
    expect(page.get_by_text("The file is not a PNG")).to_be_visible()
    assert neighbors_of(page) == before


def draw_seven(page: Page, move, down, up) -> None:
    page.locator(".sketch canvas").scroll_into_view_if_needed()
    box = page.locator(".sketch canvas").bounding_box()
    at = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"])
        for x, y in ((0.3, 0.2), (0.7, 0.2), (0.45, 0.85))
    ]
    down(*at[0])
    for start, end in pairwise(at):
        for step in range(1, 9):
            move(*(a + (b - a) * step / 8 for a, b in zip(start, end, strict=True)))
    up()


def test_sketch_by_mouse_is_answered_and_undone(page: Page) -> None:
    page.get_by_role("tab", name="Sketch").click()

    def down(x: float, y: float) -> None:
        page.mouse.move(x, y)
        page.mouse.down()

    draw_seven(page, page.mouse.move, down, page.mouse.up)
    expect(page.get_by_text("Your sketch")).to_be_visible()
    expect(page.locator(".vote-name").first).to_have_text("7")
    page.get_by_role("button", name="Undo").click()
    assert page.get_by_role("button", name="Undo").is_disabled()
    expect(page.locator(".toast-body")).to_have_count(0)


def test_sketch_by_touch_is_answered(phone: Page) -> None:
    phone.get_by_role("tab", name="Sketch").click()
    session = phone.context.new_cdp_session(phone)

    def touch(kind: str, *at: float) -> None:
        points = [{"x": at[0], "y": at[1]}] if at else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    draw_seven(
        phone,
        lambda x, y: touch("touchMove", x, y),
        lambda x, y: touch("touchStart", x, y),
        lambda: touch("touchEnd"),
    )
    expect(phone.get_by_text("Your sketch")).to_be_visible()
    expect(phone.locator(".vote-name").first).to_have_text("7")


def test_tap_on_the_phone_is_a_query(phone: Page, sample: Index) -> None:
    item = lonely_item(sample)
    phone.touchscreen.tap(*point_at(phone, item, sample))
    wait_for_item(phone, item)


def test_phone_shows_everything_in_one_column(phone: Page) -> None:
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in (".workbench", ".map-plot", ".results", ".strip"):
        box = phone.locator(selector).first.bounding_box()
        assert box["width"] > 250
        assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(browser: Browser, address: str, theme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=theme)
    page = opened(context.new_page(), address)
    for selector in (
        ".results-query p",
        ".map-count",
        ".map-hint",
        ".tile-similarity",
        ".vote-name",
        ".page-head p",
    ):
        assert contrast(page, selector) >= 4.5, selector
    context.close()


def contrast(page: Page, selector: str) -> float:
    """The WCAG contrast of an element's text with the first background behind it."""
    front, back = page.evaluate(
        """(selector) => {
            let node = document.querySelector(selector);
            const color = getComputedStyle(node).color;
            const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const painted = (paint) => {
                canvas.fillStyle = paint;
                canvas.fillRect(0, 0, 1, 1);
                return [...canvas.getImageData(0, 0, 1, 1).data];
            };
            const background = () => getComputedStyle(node).backgroundColor;
            const clear = /^rgba\\(.*, 0\\)$|^transparent$/;
            while (node.parentElement && clear.test(background())) node = node.parentElement;
            const back = painted(background());
            return [painted(color), back];
        }""",
        selector,
    )
    darker, lighter = sorted((luminance(front), luminance(back)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(pixel: list[int]) -> float:
    parts = [value / 255 for value in pixel[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_map_without_webgl_says_so(playwright: Playwright, address: str) -> None:
    poor = ["--no-sandbox", "--disable-gpu", "--disable-3d-apis", "--disable-sync"]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=poor)
    page = browser.new_page()
    page.goto(address)
    expect(page.get_by_text("The map needs WebGL")).to_be_visible(timeout=PATIENCE)
    assert len(neighbors_of(page)) == 10
    browser.close()


def test_stylesheet_and_scripts_are_the_projects_own() -> None:
    names = [file.name for file in (ROOT / "ui").iterdir() if file.suffix in (".js", ".css")]
    assert sorted(names) == [
        "explore.js",
        "hygiene.js",
        "map.js",
        "quality.js",
        "sketch.js",
        "style.css",
        "upload.js",
    ]
