"""Takes the README's pictures of the app on the bundled sample, in the system's Chromium.

python -m assets.make_screenshots
"""

import math
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser_fixtures import CHROMIUM, OPTIONS
from tests.server import running_app

FOLDER = Path(__file__).resolve().parent / "screenshots"
DRAWN = "performance.getEntriesByName('map-drawn').length"


def main() -> None:
    """Writes sketch.png, quality.png and phone-dark.png."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_app(log=Path(folder) / "log") as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        take_sketch(browser, url)
        take_quality(browser, url)
        take_phone(browser, url)
        browser.close()


def take_sketch(browser: Browser, url: str) -> None:
    page = opened(browser, f"{url}?__theme=light", width=1280, height=800)
    page.get_by_role("tab", name="Sketch").click()
    draw_three(page)
    page.get_by_text("Your sketch").wait_for()
    shoot(page, "sketch.png")


def take_quality(browser: Browser, url: str) -> None:
    page = opened(browser, f"{url}?__theme=light", width=1280, height=960)
    page.get_by_role("tab", name="Quality").click()
    page.get_by_text("Most frequent mistakes").wait_for()
    shoot(page, "quality.png")


def take_phone(browser: Browser, url: str) -> None:
    page = opened(browser, f"{url}?__theme=dark", width=390, height=844)
    shoot(page, "phone-dark.png")


def opened(browser: Browser, url: str, width: int, height: int) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(url)
    page.wait_for_function(DRAWN, timeout=60_000)
    page.wait_for_function("!document.querySelector('.page-notice p')?.textContent", timeout=60_000)
    return page


def draw_three(page: Page) -> None:
    """A three, in one stroke of two arcs."""
    box = page.locator(".sketch canvas").bounding_box()
    left, top, side = box["x"], box["y"], box["width"]
    page.mouse.move(left + 0.34 * side, top + 0.24 * side)
    page.mouse.down()
    for middle in (0.32, 0.64):
        for step in range(13):
            angle = math.radians(-140 + 280 * step / 12)
            x, y = 0.46 + 0.19 * math.cos(angle), middle + 0.16 * math.sin(angle)
            page.mouse.move(left + x * side, top + y * side)
    page.mouse.up()


def shoot(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.wait_for_timeout(800)  # until bars and points have come to rest
    page.screenshot(path=FOLDER / name)
    page.close()


if __name__ == "__main__":
    main()
