"""The app keeps answering: without its index, without its model, and when they come."""

# ruff: noqa: F811  (fixtures come in by import)

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gradio_client import Client as AppClient
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, Page, expect

from embedding.encoder import ModelRef
from index.manifest import fingerprint
from index.store import Index, load_manifest, save_index
from tests.browser_fixtures import browser, needs_chromium, opened, playwright  # noqa: F401
from tests.conftest import MODEL
from tests.hub_fixtures import Client, client, hub  # noqa: F401
from tests.hub_server import HubServer
from tests.pictures import file_of, seven
from tests.server import running_app
from tests.test_store import lists, small

ID = "tester/digits"
MODEL_ID = "tester/dinov2"
COUNT = 60


def files_of(folder: Path) -> dict[str, bytes]:
    names = ["manifest.json", *load_manifest(folder).files]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def saved(sample: Index, tmp_path: Path) -> Path:
    save_index(small(sample, COUNT), lists(COUNT), tmp_path / "index")
    return tmp_path / "index"


def until(condition: Callable[[], bool], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def explored(page: Page, count: int) -> Page:
    """The page with the tab Explore on top, once that shows an index of so many items."""
    page.get_by_role("tab", name="Explore").click()
    expect(page.locator(".explore-range").first).to_have_text(f"1 to 48 of {count:,}", timeout=60_000)
    return page


def about(app: AppClient) -> dict:
    return app.predict(api_name="/about")


def test_sample_stands_in_until_the_hub_comes_back(
    client: Client, hub: HubServer, saved: Path, tmp_path: Path
) -> None:
    revision = hub.put(ID, files_of(saved))
    hub.stop()
    with running_app("--index", ID, log=tmp_path / "log", **client.environment()) as url:
        app = AppClient(url, verbose=False)
        first = about(app)
        assert first["sample"] is True
        assert first["asked"]["index"] == ID
        assert first["asked"]["problem"] == f"The Hub ({hub.url}) cannot be reached: check the network."
        assert first["counts"]["items"] == 5000
        assert app.predict(4999, api_name="/query_item")["query"]["item"] == 4999
        hub.start()
        until(lambda: about(app)["sample"] is False)
        last = about(app)
        assert last["asked"]["problem"] is None
        assert last["revision"] == revision
        assert last["counts"]["items"] == COUNT
        with pytest.raises(AppError, match="There is no item 4999"):
            app.predict(4999, api_name="/query_item")
        image = tmp_path / "seven.png"
        image.write_bytes(file_of(seven()).getvalue())
        found = app.predict(handle_file(str(image)), 5, api_name="/query_sketch")
        assert max(row["item"] for row in found["neighbors"]) < COUNT


@needs_chromium
def test_open_page_follows_when_the_index_comes(
    client: Client, hub: HubServer, saved: Path, tmp_path: Path, browser: Browser
) -> None:
    with running_app("--index", ID, log=tmp_path / "log", **client.environment()) as url:
        page = opened(browser.new_page(), url)
        expect(page.locator(".page-banner p")).to_contain_text(f"{ID} is not here yet")
        expect(page.locator(".page-banner p")).to_contain_text(f"There is no {ID} here or on the Hub")
        expect(page.locator(".map-count")).to_have_text("5,000 of 5,000 points")
        exploring = explored(opened(browser.new_page(), url), 5000)
        hub.put(ID, files_of(saved))
        expect(page.locator(".map-count")).to_have_text(f"{COUNT} of {COUNT} points", timeout=60_000)
        expect(page.locator(".page-banner p")).to_be_hidden()
        expect(page.locator(".page-head").first).to_contain_text(f"{COUNT} items")
        expect(page.locator(".page-head").first).not_to_contain_text("bundled sample")
        expect(page.locator(".map-marks circle")).to_have_count(10)
        assert all(int(tile.get_attribute("data-item")) < COUNT for tile in page.locator(".tile").all())
        expect(exploring.locator(".explore-range").first).to_have_text(f"1 to 48 of {COUNT}")
        page.locator(".tile").nth(3).click()
        expect(page.locator(".results-query p").first).to_contain_text("item ")
        box = page.locator(".map-plot").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert [fault for fault in page.faults if "server responded" not in fault] == []
        explored(page, COUNT)
        fresh = opened(browser.new_page(), url)
        expect(fresh.locator(".map-count")).to_have_text(f"{COUNT} of {COUNT} points")
        exploring.close()
        page.close()
        fresh.close()


def test_cached_index_is_said_to_be_cached(
    client: Client, hub: HubServer, saved: Path, tmp_path: Path
) -> None:
    revision = hub.put(ID, files_of(saved))
    assert client.run("-c", f"from index.hub import fetch_index; fetch_index('{ID}')").returncode == 0
    hub.stop()
    with running_app("--index", ID, log=tmp_path / "log", **client.environment()) as url:
        found = about(AppClient(url, verbose=False))
        assert (found["sample"], found["revision"]) == (False, revision)
        assert "cannot be reached" in found["cached"]


def test_unsound_index_on_the_hub_leaves_the_sample(client: Client, hub: HubServer, tmp_path: Path) -> None:
    hub.put(ID, {"manifest.json": b'{"format_version": 99}'})
    with running_app("--index", ID, log=tmp_path / "log", **client.environment()) as url:
        found = about(AppClient(url, verbose=False))
        assert found["sample"] is True
        assert "format_version" in found["asked"]["problem"]
        assert str(tmp_path) not in found["asked"]["problem"]


def test_uploads_work_as_soon_as_the_model_comes(
    client: Client, hub: HubServer, sample: Index, tmp_path: Path
) -> None:
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    revision = hub.put(MODEL_ID, {name: (MODEL / name).read_bytes() for name in names}, kind="models")
    index = small(sample, COUNT)
    model = ModelRef(MODEL_ID, revision)
    manifest = replace(
        index.manifest, model=model, fingerprint=fingerprint(model, index.manifest.preparation)
    )
    save_index(replace(index, manifest=manifest), lists(COUNT), tmp_path / "index")
    image = tmp_path / "seven.png"
    image.write_bytes(file_of(seven()).getvalue())
    hub.stop()
    with running_app("--index", tmp_path / "index", log=tmp_path / "log", **client.environment()) as url:
        app = AppClient(url, verbose=False)
        assert len(app.predict(3, 5, api_name="/query_item")["neighbors"]) == 5
        with pytest.raises(
            AppError, match=f"cannot be answered now. The model {MODEL_ID} is not in the cache"
        ):
            app.predict(handle_file(str(image)), 5, api_name="/query_image")
        hub.start()
        until(lambda: about(app)["live"]["state"] == "ready")
        assert len(app.predict(handle_file(str(image)), 5, api_name="/query_image")["neighbors"]) == 5
