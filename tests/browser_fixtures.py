"""Chromium for tests, with software WebGL."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
]
PATIENCE = 30_000  # milliseconds; on a busy machine software WebGL is slow

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
    yield browser
    browser.close()


def opened(page: Page, address: str) -> Page:
    """The page once its map is drawn; `page.faults` collects what goes wrong, `page.hosts` who is asked."""
    page.set_default_timeout(PATIENCE)
    page.faults, page.hosts = [], set()
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.faults.append(message.text))
    page.on(
        "request",
        lambda request: page.hosts.add(request.url.split("/")[2] if "://" in request.url else "data"),
    )
    page.goto(address)
    page.wait_for_function("performance.getEntriesByName('map-drawn').length")
    return page
