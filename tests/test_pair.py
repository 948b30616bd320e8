"""Two indexes of the same items in one app: a switch between them, and one query put to both."""

# ruff: noqa: F811  (fixtures come in by import)

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from index.compare import disagreements
from index.query import answer, query_item
from index.store import Index, load_index, save_index
from tests.browser_fixtures import PATIENCE, browser, needs_chromium, opened, playwright  # noqa: F401
from tests.conftest import SAMPLE
from tests.server import running_app
from tests.test_store import lists

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def noisy(sample: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as a worse model would see it: its embeddings with noise on them."""
    noise = np.random.default_rng(0).normal(0, 0.06, sample.embeddings.shape)
    embeddings = sample.embeddings + noise
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    manifest = replace(sample.manifest, title="Noisy digits")
    folder = tmp_path_factory.mktemp("indexes") / "noisy"
    save_index(replace(sample, embeddings=embeddings, manifest=manifest), lists(manifest.count), folder)
    return folder


@pytest.fixture(scope="module")
def address(noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("app") / "log"
    with running_app("--index", SAMPLE, "--index", noisy, log=log) as url:
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    page = opened(browser.new_page(viewport={"width": 1280, "height": 900}), f"{address}?item=42")
    expect(page.locator(".results-query")).to_contain_text("item 42", timeout=PATIENCE)
    yield page
    assert page.faults == []
    page.close()


def items(page: Page, place: int) -> list[int]:
    """The neighbors that a list of results shows: of the search, of the left index, of the right one."""
    return items_of(page.locator(".results").nth(place))


def items_of(results: Locator) -> list[int]:
    return results.locator(".tile").evaluate_all("tiles => tiles.map(tile => Number(tile.dataset.item))")


def neighbors(index: Index, item: int) -> list[int]:
    return [neighbor.item for neighbor in answer(index, query_item(index, item), 10).neighbors]


def test_switch_keeps_the_query(page: Page, noisy: Path, sample: Index) -> None:
    assert items(page, 0) == neighbors(sample, 42)
    page.get_by_label("Noisy digits").check()
    expect(page.locator(".page-head").first).to_contain_text("Noisy digits", timeout=PATIENCE)
    expect(page.locator(".results-query")).to_contain_text("item 42")
    assert items(page, 0) == neighbors(load_index(noisy), 42)


def test_one_query_is_answered_by_both(page: Page, noisy: Path, sample: Index) -> None:
    page.get_by_role("tab", name="Compare").click()
    verdict = page.locator(".compare-verdict")
    expect(verdict).to_be_visible(timeout=PATIENCE)
    due = [neighbors(index, 42) for index in (sample, load_index(noisy))]
    expect(verdict).to_contain_text(f"overlap@10: {len(set(due[0]) & set(due[1]))} of 10")
    shown = page.locator(".compare-pair")
    assert [items_of(shown.locator(".results").nth(side)) for side in range(2)] == due
    expect(page.locator(".compare-figures")).to_contain_text("5,000 common items", timeout=PATIENCE)
    with page.expect_download() as download:
        page.locator(".compare-figures [data-export=csv]").first.click()
    assert pd.read_csv(download.value.path())["name"].tolist() == ["left", "right"]
    expect(shown.locator(".map-marks path")).to_have_count(2, timeout=PATIENCE)  # a star on either map


def test_items_that_only_one_judges_right_are_shown(page: Page, noisy: Path, sample: Index) -> None:
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator(".compare-verdict")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Only one right").click()
    first = disagreements(sample, load_index(noisy))[0][0]
    queries = page.locator(".compare-pair .results-query")
    for side in range(2):
        expect(queries.nth(side)).to_contain_text(f"item {first}", timeout=PATIENCE)


def test_index_is_not_compared_with_itself(page: Page) -> None:
    page.get_by_label("Noisy digits").check()
    expect(page.locator(".page-head").first).to_contain_text("Noisy digits", timeout=PATIENCE)
    page.get_by_role("tab", name="Compare").click()
    expect(page.get_by_text("These are the same index").first).to_be_visible(timeout=PATIENCE)
