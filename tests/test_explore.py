"""Explore: classes are counted, samples come in pages, pixel values are the true ones."""

# ruff: noqa: F811  (fixtures come in by import)

import base64
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from embedding.encoder import Dinov2Encoder
from index.live import LiveModel
from index.query import answer, item_image, query_item
from index.searching import Searching
from index.standby import Opened, Standby
from index.store import Index
from tests.browser_fixtures import PATIENCE, browser, needs_chromium, opened, playwright  # noqa: F401
from tests.conftest import SAMPLE
from tests.pictures import file_of, noise
from tests.server import running_app
from tests.test_store import small
from ui.desk import Desk
from ui.explore import (
    MAX_SEED,
    PAGE_ITEMS,
    ExploreView,
    class_counts,
    explore_value,
    item_details,
    received_pixels,
    sample_page,
)
from ui.map import Maps


@pytest.fixture(scope="module")
def live(sample: Index) -> Opened:
    """The sample with its live model, loaded."""
    model = LiveModel(sample)
    model.start()
    model.encoder()
    return Opened(sample, model, Searching(sample, SAMPLE), SAMPLE)


def unloaded(index: Index) -> Opened:
    """An index without its live model."""
    return Opened(index, LiveModel(index), Searching(index, SAMPLE), SAMPLE)


def items_of(page: dict) -> list[int]:
    return [tile["item"] for tile in page["tiles"]]


def decoded(pixels: dict) -> NDArray[np.float32]:
    """The values that a browser makes of the server's answer: (channels, height, width)."""
    codes = np.frombuffer(base64.b64decode(pixels["codes"]), f"<u{pixels['bytes']}")
    shape = (pixels["channels"], pixels["height"], pixels["width"])
    return np.array(pixels["levels"], np.float32)[codes].reshape(shape)


def with_source(index: Index, **changes: object) -> Index:
    source = replace(index.manifest.source, **changes)
    return replace(index, manifest=replace(index.manifest, source=source))


def with_photos(index: Index, photos: list[Image.Image]) -> Index:
    """The index with other images at its beginning."""
    files = [file_of(photo, "JPEG", quality=90).getvalue() for photo in photos]
    preparation = replace(index.manifest.preparation, grayscale=False, background=None, size=256)
    manifest = replace(index.manifest, preparation=preparation)
    return replace(index, manifest=manifest, images=files + index.images[len(files) :])


# ---- Classes


def test_classes_are_counted(sample: Index) -> None:
    found = class_counts(sample)
    assert found["count"] == 5000
    assert [row["count"] for row in found["classes"]] == [int((sample.labels == c).sum()) for c in range(10)]
    assert found["note"] == ""


def test_data_without_classes_says_so(sample: Index) -> None:
    found = class_counts(with_source(sample, labeled=False, label_column=None))
    assert found["classes"] == []
    assert found["note"].startswith("This data set has no classes")


def test_one_class_is_a_sentence(sample: Index) -> None:
    one = with_source(replace(sample, labels=np.zeros(5000, np.int32)), labeled=False, label_column="label")
    assert class_counts(one)["note"].startswith("All 5,000 items are in one class, 0")


# ---- Samples


def test_pages_by_number_hold_every_item_once(sample: Index) -> None:
    pages = [sample_page(sample, None, None, page) for page in range(-(-5000 // PAGE_ITEMS))]
    assert [item for page in pages for item in items_of(page)] == list(range(5000))
    assert pages[-1]["first"] + len(pages[-1]["tiles"]) == pages[-1]["total"] == 5000


def test_shuffled_pages_hold_every_item_of_a_class_once(sample: Index) -> None:
    due = np.flatnonzero(sample.labels == 4).tolist()
    pages = [sample_page(sample, 4, 7, page) for page in range(-(-len(due) // PAGE_ITEMS))]
    found = [item for page in pages for item in items_of(page)]
    assert sorted(found) == due != found
    assert {tile["label"] for page in pages for tile in page["tiles"]} == {4}


def test_same_seed_gives_the_same_samples(sample: Index) -> None:
    assert sample_page(sample, None, 3, 1) == sample_page(sample, None, 3, 1)
    assert items_of(sample_page(sample, None, 3, 1)) != items_of(sample_page(sample, None, 4, 1))


@pytest.mark.parametrize(
    ("label", "seed", "page"),
    [
        (10, None, 0),
        (-1, None, 0),
        ("4", None, 0),
        (True, None, 0),
        (None, -1, 0),
        (None, MAX_SEED + 1, 0),
        (None, 1.5, 0),
        (None, [1], 0),
        (None, None, -1),
        (None, None, 105),
        (None, None, None),
        (None, None, 10**30),
    ],
)
def test_pages_that_do_not_exist_are_refused(
    sample: Index, label: object, seed: object, page: object
) -> None:
    assert sample_page(sample, label, seed, page) is None


def test_class_without_items_has_one_empty_page(sample: Index) -> None:
    few = replace(small(sample), labels=np.zeros(60, np.int32))
    assert sample_page(few, 3, None, 0) == {"total": 0, "pages": 1, "first": 0, "tiles": []}
    assert sample_page(few, 3, None, 1) is None


def test_a_page_of_large_photos_is_light(sample: Index) -> None:
    photos = with_photos(sample, [noise(256, 256, seed) for seed in range(PAGE_ITEMS)])
    page = sample_page(photos, None, None, 0)
    assert sum(len(tile["image"]) for tile in page["tiles"]) < sum(map(len, photos.images[:PAGE_ITEMS]))


# ---- Pixels


def test_stored_values_are_those_of_the_file(sample: Index) -> None:
    found = item_details(unloaded(sample), 42)
    due = np.asarray(Image.open(BytesIO(sample.images[42])))
    assert (decoded(found["pixels"])[0] == due).all()
    assert found["pixels"]["ranges"] == [(0, 255)]
    assert found["source_row"] == sample.source_rows[42]


def test_stored_values_of_a_color_photo_are_those_of_the_file(sample: Index) -> None:
    photos = with_photos(sample, [noise(120, 80)])
    due = np.asarray(Image.open(BytesIO(photos.images[0])))
    assert (decoded(item_details(unloaded(photos), 0)["pixels"]) == due.transpose(2, 0, 1)).all()


def test_neighbors_are_those_of_the_search(sample: Index) -> None:
    due = answer(sample, query_item(sample, 42), 10).neighbors
    found = item_details(unloaded(sample), 42)["neighbors"]
    assert [(tile["item"], tile["similarity"]) for tile in found] == [(n.item, n.similarity) for n in due]


@pytest.mark.parametrize("item", [-1, 5000, True, "7", 1.0, None, [3]])
def test_items_that_do_not_exist_are_refused(live: Opened, item: object) -> None:
    assert item_details(live, item) is None
    assert received_pixels(live, item) is None


def test_received_values_are_normalized_stored_ones(live: Opened) -> None:
    pixels = received_pixels(live, 42)["pixels"]
    stored = np.asarray(Image.open(BytesIO(live.index.images[42])), np.float64)
    assert np.allclose(decoded(pixels), (stored / 255 - 0.286) / 0.353, atol=1e-6)
    assert pixels["alike"] is True
    assert np.allclose(pixels["ranges"], [(-0.286 / 0.353, (1 - 0.286) / 0.353)])


def test_received_values_are_what_the_network_is_fed(
    sample: Index, encoder: Dinov2Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Dinov2Model

    fed = []
    forward = Dinov2Model.forward

    def watched(self: Dinov2Model, pixel_values: torch.Tensor, **named: object) -> object:
        fed.append(pixel_values)
        return forward(self, pixel_values=pixel_values, **named)

    monkeypatch.setattr(Dinov2Model, "forward", watched)
    image = item_image(sample, 7)
    encoder.encode([image])
    assert torch.equal(fed[0][0].cpu(), torch.from_numpy(encoder.received(image)))


def test_received_values_of_a_color_photo_survive_the_way(live: Opened) -> None:
    photos = with_photos(live.index, [noise(120, 80)])
    pixels = received_pixels(replace(live, index=photos), 0)["pixels"]
    assert (decoded(pixels) == live.live.ready.received(item_image(photos, 0))).all()
    assert pixels["channels"] == 3


def test_model_that_is_not_here_is_said(sample: Index) -> None:
    found = received_pixels(unloaded(sample), 0)
    assert found["loading"] is True
    assert found["reason"].startswith("The model is still loading")


@pytest.mark.parametrize("asked", [None, [], "x", {}, {"key": "points-0"}, {"key": ["x"]}, {"item": 3}])
def test_questions_about_no_open_index_are_refused(
    asked: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    standby = Standby(str(SAMPLE), None, SAMPLE)
    standby.open()
    desk = Desk((standby,), Maps(tmp_path_factory.mktemp("maps")))
    view = ExploreView(desk, explore_value(desk.key(desk.opened)))
    for function in (view.overview, view.samples, view.inspect, view.received):
        assert function(asked) is None
    assert view.overview(explore_value(desk.key(desk.opened)))["count"] == 5000


# ---- In a browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_app(log=tmp_path_factory.mktemp("app") / "log") as url:
        yield url


@pytest.fixture(params=[1280, 320])
def page(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The tab Explore, once its first samples are there."""
    page = opened(browser.new_page(viewport={"width": request.param, "height": 800}), address)
    page.get_by_role("tab", name="Explore").click()
    expect(page.locator(".explore-grid .explore-tile")).to_have_count(PAGE_ITEMS, timeout=PATIENCE)
    yield page
    assert page.faults == []
    page.close()


def numbers(tiles: Locator) -> list[int]:
    return [int(text.removeprefix("item ")) for text in tiles.locator(".explore-number").all_inner_texts()]


def range_of(page: Page) -> Locator:
    return page.locator(".explore-bar .explore-range")


def look_at(page: Page, place: int) -> Locator:
    """Opens the item at a place of the grid; its dialog."""
    page.locator(".explore-grid .explore-tile").nth(place).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    return dialog


@needs_chromium
def test_explored_page_fits_and_shows_what_the_seed_gives(page: Page, sample: Index) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert numbers(page.locator(".explore-grid")) == items_of(sample_page(sample, None, 42, 0))
    expect(range_of(page)).to_have_text("1 to 48 of 5,000")
    expect(page.locator(".explore-chart tbody tr")).to_have_count(10)


@needs_chromium
def test_class_filters_and_pages_turn(page: Page, sample: Index) -> None:
    count = int((sample.labels == 4).sum())
    page.locator(".explore-chart").get_by_role("button", name="4").click()
    expect(range_of(page)).to_have_text(f"1 to 48 of {count}")
    page.get_by_role("button", name="By number").click()
    forward = page.get_by_role("button", name="Next page")
    forward.click()
    expect(range_of(page)).to_have_text(f"49 to 96 of {count}")
    assert numbers(page.locator(".explore-grid")) == np.flatnonzero(sample.labels == 4)[48:96].tolist()
    expect(forward).to_be_focused()
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.locator(".explore-grid .explore-tile").first).to_be_focused()


def give(field: Locator, text: str) -> None:
    """Types over what a field holds: only what is typed makes a browser tell of a change."""
    field.press("Control+a")
    field.press_sequentially(text)
    field.press("Enter")


@needs_chromium
def test_shuffle_changes_the_seed_in_its_field(page: Page, sample: Index) -> None:
    field = page.get_by_label("Seed")
    give(field, "7")
    due = items_of(sample_page(sample, None, 7, 0))
    expect(page.locator(".explore-grid .explore-number").first).to_have_text(f"item {due[0]}")
    give(field, "seven")
    expect(field).to_have_value("7")
    page.get_by_role("button", name="Shuffle").click()
    expect(field).not_to_have_value("7")


@needs_chromium
def test_item_is_opened_closed_and_left_by_keyboard(page: Page) -> None:
    tile = page.locator(".explore-grid .explore-tile").nth(3)
    tile.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(tile).to_be_focused()


@needs_chromium
def test_pixel_under_the_pointer_is_read(page: Page, sample: Index) -> None:
    item = numbers(page.locator(".explore-grid"))[0]
    dialog = look_at(page, 0)
    box = dialog.locator(".explore-stage canvas").bounding_box()
    cell = box["width"] / 28
    page.mouse.move(box["x"] + 14.5 * cell, box["y"] + 10.5 * cell)
    stored = np.asarray(Image.open(BytesIO(sample.images[item])))[10, 14]
    expect(dialog.locator(".explore-readout")).to_have_text(f"column 14, row 10: {stored}")
    dialog.get_by_role("button", name="What the model receives").click()
    expect(dialog.locator(".explore-hint")).to_contain_text("(value / 255 − 0.286) / 0.353", timeout=PATIENCE)
    page.mouse.move(box["x"] + 14.4 * cell, box["y"] + 10.4 * cell)
    received = f"{(stored / 255 - 0.286) / 0.353:.2f}".replace("-", "−")
    expect(dialog.locator(".explore-readout")).to_have_text(f"column 14, row 10: {received}")


@needs_chromium
def test_part_of_an_image_is_moved_by_keys_and_by_hand(page: Page) -> None:
    dialog = look_at(page, 0)
    stage = dialog.locator(".explore-stage canvas")
    dialog.get_by_role("button", name="Zoom in").click()
    described = lambda: stage.get_attribute("aria-label").split(": ")[1]  # noqa: E731
    assert described().startswith("columns 7 to 20, rows 7 to 20")
    expect(dialog.locator(".explore-where")).to_be_visible()
    stage.press("Shift+ArrowRight")
    assert described().startswith("columns 8 to 21, rows 7 to 20")
    box = stage.bounding_box()
    x, y, cell = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"] / 14
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 3 * cell, y + 20 * cell, steps=3)
    page.mouse.up()
    assert described().startswith("columns 5 to 18, rows 0 to 13")


@needs_chromium
def test_neighbor_is_opened_and_searched_with(page: Page, sample: Index) -> None:
    item = numbers(page.locator(".explore-grid"))[0]
    dialog = look_at(page, 0)
    near = answer(sample, query_item(sample, item), 10).neighbors[1].item
    dialog.locator(".explore-strip .explore-tile").nth(1).click()
    expect(dialog.locator("dd").first).to_have_text(str(near))
    dialog.get_by_role("button", name="Search with this").click()
    expect(page.get_by_role("tab", name="Search")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".results-query")).to_contain_text(f"item {near}", timeout=PATIENCE)
