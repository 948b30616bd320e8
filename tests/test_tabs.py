"""The Quality and Data hygiene tabs: what they show, what they answer, and how they work in a browser."""

# ruff: noqa: F811  (fixtures come in by import)

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Download, Page, expect
from sklearn.metrics import confusion_matrix

from index.figures import describe_metrics
from index.live import LiveModel
from index.manifest import Baseline, ClassVotes, Evaluation, Votes
from index.projection import describe_layouts
from index.searching import Searching
from index.standby import Opened, Standby
from index.store import Index, load_index
from tests.browser_fixtures import (  # noqa: F401
    PATIENCE,
    browser,
    needs_chromium,
    opened,
    playwright,
)
from tests.conftest import SAMPLE, plain
from tests.server import running_app
from ui.charts import share_ticks
from ui.desk import Desk
from ui.hygiene import (
    KINDS,
    PAGE,
    Inspection,
    Inspections,
    Work,
    examine,
    finding_table,
    findings_html,
    work_value,
)
from ui.hygiene import _server_functions as hygiene_functions
from ui.map import Maps
from ui.matrix import MOST_CLASSES, confused_items, confusion_html
from ui.quality import TABLES, quality_html
from ui.quality import _server_functions as quality_functions


@pytest.fixture(scope="module")
def index(laid_out: Path) -> Index:
    return load_index(laid_out)


@pytest.fixture(scope="module")
def evaluated(index: Index) -> Index:
    """The index as if 1,000 held-out items had been judged."""
    votes = replace(
        index.manifest.quality.votes, items=1000, accuracy=0.9123, curve=((1, 0.88), (20, 0.9123))
    )
    baselines = (Baseline("raw pixels", 0.7654, 0.9123, 1000, 400),)
    found = Evaluation(index.manifest.source, votes, (0.8941, 0.9302), baselines)
    return replace(index, manifest=replace(index.manifest, evaluation=found))


@pytest.fixture(scope="module")
def inspection(laid_out: Path, index: Index) -> Inspection:
    return examine(Opened(index, LiveModel(index), Searching(index, laid_out), laid_out))


def asked(functions: list[Callable], name: str, *arguments: object) -> object:
    """What a browser gets that asks the server function of this name."""
    return next(each for each in functions if each.__name__ == name)(
        list(arguments) if len(arguments) > 1 else arguments[0]
    )


def worst_cell(index: Index) -> tuple[int, int, int]:
    """The most frequent mistake: class, vote, count."""
    return max(
        (row for row in index.manifest.quality.votes.confusion if row[0] != row[1]), key=lambda row: row[2]
    )


# ---- Quality


def test_report_holds_the_figures_of_the_manifest(index: Index) -> None:
    html, manifest = quality_html(index), index.manifest
    for name, value, _ in describe_metrics(manifest):
        assert name.startswith("raw pixels") or value in html
    for k, share in manifest.quality.votes.curve:
        assert f"k = {k}: {100 * share:.2f} %" in html
    for row in manifest.quality.silhouettes:
        assert f"{row.embedding:.3f}" in html and f"{row.map:.3f}" in html
    for row in manifest.calibration.reliability:
        assert f"right {100 * row.right / row.count:.1f} % of {row.count:,} votes" in html
    rows, sentences = describe_layouts(manifest)
    assert all(f"{row.trustworthiness:.4f}" in html for row in rows)
    assert len(rows) == 11 and sentences and all(sentence in html for sentence in sentences)


def test_held_out_figures_stand_beside_those_of_the_index(index: Index, evaluated: Index) -> None:
    html = quality_html(evaluated)
    for words in ("0.9123", "95 % interval: 89.41 to 93.02 %", "Recall, held out", "76.5 %"):
        assert words in html
    assert "held out" not in quality_html(index)
    assert "python -m index evaluate DIR" in quality_html(index)


def test_cells_hold_the_items_that_scikit_learn_counts(index: Index) -> None:
    classes = range(len(index.manifest.classes))
    due = confusion_matrix(index.labels, index.predicted, labels=classes)
    cells = [[confused_items(index, label, predicted) for predicted in classes] for label in classes]
    assert np.array_equal([[len(items) for items in row] for row in cells], due)
    assert np.array_equal(
        np.sort(np.concatenate([items for row in cells for items in row])), np.arange(len(index.labels))
    )
    html = confusion_html(index.manifest.quality.votes, index.manifest.classes)
    label, predicted, count = worst_cell(index)
    assert (
        f'data-cell="{label} {predicted}"' in html
        and f"{count} of {due[label].sum()} {label} were voted {predicted}" in html
    )


@pytest.mark.parametrize("cell", [(0, 10), (-1, 0), (True, 0), ("0", 0), (0.0, 1), (None, None), ([0], {})])
def test_what_is_no_cell_is_answered_with_nothing(index: Index, tmp_path: Path, cell: tuple) -> None:
    maps = Maps(tmp_path)
    functions, key = quality_functions(maps), maps.key(index)
    assert asked(functions, "cell", key, *cell) is None
    assert asked(functions, "cell", key, 0) is None
    assert asked(functions, "cell", "unknown", 0, 0) is None
    assert asked(functions, "report", {"key": key}) is None
    for name, format in (("curve", "exe"), ("secrets", "csv"), (["curve"], "csv")):
        assert asked(functions, "export_table", key, name, format) is None


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_saved_as_csv_and_parquet(evaluated: Index, tmp_path: Path, name: str) -> None:
    maps = Maps(tmp_path)
    functions, key = quality_functions(maps), maps.key(evaluated)
    due = pd.DataFrame(TABLES[name](evaluated.manifest))
    assert f'data-table="{name}"' in quality_html(evaluated)
    for format, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        file = asked(functions, "export_table", key, name, format)
        found = read(BytesIO(base64.b64decode(file["data"])))
        assert file["name"] == f"{name}.{format}" and list(found.columns) == list(due.columns)
        for column in due.select_dtypes("number"):
            assert np.allclose(found[column], due[column], equal_nan=True)


def test_many_classes_are_told_as_pairs(index: Index) -> None:
    count = MOST_CLASSES + 1
    confusion = [(c, c, 9) for c in range(count)] + [(c, (c + 1) % count, 1 + (c == 7)) for c in range(count)]
    rows = tuple(ClassVotes(c, 10, 0.9, 0.9) for c in range(count))
    votes = Votes(10 * count, 20, 0.9, ((20, 0.9),), tuple(confusion), rows)
    html = confusion_html(votes, tuple(f"class {c}" for c in range(count)))
    assert "<table" not in html and html.count("data-cell") == 40
    assert html.index("class 7 taken for class 8: 2 of 10") < html.index("class 0 taken for class 1: 1 of 10")


def test_names_of_classes_are_only_ever_text(index: Index, inspection: Inspection) -> None:
    names = ("<script>alert(1)</script>", *index.manifest.classes[1:])
    hostile = replace(index, manifest=replace(index.manifest, classes=names))
    shown = quality_html(hostile)
    shown += "".join(findings_html(replace(inspection, index=hostile), kind, 0) for kind in KINDS)
    assert "<script" not in shown and "&lt;script&gt;" in shown


def test_what_an_index_lacks_is_said_with_what_adds_it(sample: Index, index: Index) -> None:
    old = quality_html(plain(sample))
    assert "built before votes were judged" in old and "python -m index build ... --projections" in old
    source = replace(index.manifest.source, labeled=False)
    classless = quality_html(replace(index, manifest=replace(index.manifest, source=source, quality=None)))
    assert "no classes" in classless and '<svg class="chart"' not in classless and "t-SNE" in classless
    single = quality_html(replace(index, manifest=replace(index.manifest, classes=("7",), quality=None)))
    assert "All items are of one class" in single
    few = quality_html(replace(index, manifest=replace(index.manifest, calibration=None)))
    assert "too few items to learn how often votes are right" in few


@pytest.mark.parametrize(("low", "high"), [(0.972, 0.9806), (0.5, 0.5), (0, 1), (0.1, 1.0), (1, 1)])
def test_axes_reach_around_the_shares_in_a_few_round_steps(low: float, high: float) -> None:
    ticks = share_ticks(low, high)
    assert ticks[0] <= low and high <= ticks[-1]
    assert 2 <= len(ticks) <= 7 and np.allclose(np.diff(ticks), ticks[1] - ticks[0])


# ---- Data hygiene


@pytest.mark.parametrize("kind", KINDS)
def test_pages_hold_every_finding_once(inspection: Inspection, kind: str) -> None:
    rows = inspection.rows(kind)
    pages = [findings_html(inspection, kind, page) for page in range(max(1, -(-len(rows) // PAGE)))]
    assert [html.count('<li class="finding"') for html in pages] == [
        len(rows[start : start + PAGE]) for start in range(0, max(1, len(rows)), PAGE)
    ]
    assert findings_html(inspection, kind, 10**9) == pages[-1]
    assert findings_html(inspection, kind, -5) == pages[0]
    for row in rows[:PAGE]:
        assert isinstance(row, tuple) or row.reason.replace("&", "&amp;") in pages[0]


def test_findings_are_saved_with_class_names_and_source_rows(inspection: Inspection) -> None:
    index, suspects = inspection.index, inspection.hygiene.suspects
    table = pd.DataFrame(finding_table(inspection, "suspects"))
    assert table["item"].tolist() == [row.item for row in suspects]
    assert table["suggested"].tolist() == [index.manifest.classes[row.suggested] for row in suspects]
    assert table["item_source_row"].tolist() == index.source_rows[[row.item for row in suspects]].tolist()


def test_empty_lists_say_why(inspection: Inspection) -> None:
    assert "python -m index evaluate DIR" in findings_html(inspection, "leaks", 0)
    index = inspection.index
    source = replace(index.manifest.source, labeled=False)
    unlabeled = replace(index, manifest=replace(index.manifest, source=source))
    nothing = replace(inspection, index=unlabeled, hygiene=replace(inspection.hygiene, suspects=()))
    assert "no classes, so no label can be wrong" in findings_html(nothing, "suspects", 0)


def finished(inspections: Inspections, key: str, opened: Opened) -> Work:
    deadline = time.monotonic() + 60
    work = inspections.of(key, opened)
    while work.done is None and work.problem is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return work


def test_an_index_is_looked_through_once(laid_out: Path, index: Index) -> None:
    inspections, subject = (
        Inspections(),
        Opened(index, LiveModel(index), Searching(index, laid_out), laid_out),
    )
    work = finished(inspections, "key", subject)
    assert work.done is not None and inspections.of("key", subject) is work is inspections.known("key")
    assert (
        "waiting" in work_value(Work(), "suspects", 0)
        and "(1 of 4)" in work_value(Work(), "suspects", 0)["html"]
    )


def test_a_missing_folder_is_told_without_its_path_and_tried_again(index: Index, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    inspections = Inspections()
    subject = Opened(index, LiveModel(index), Searching(index, gone), gone)
    work = finished(inspections, "key", subject)
    told = work_value(work, "suspects", 0)
    assert (
        not told["waiting"] and "could not be computed" in told["html"] and str(tmp_path) not in told["html"]
    )
    assert inspections.of("key", subject) is work  # which is told once
    assert inspections.of("key", subject) is not work


def test_what_is_no_list_is_answered_with_nothing(tmp_path: Path) -> None:
    standby = Standby(str(SAMPLE), None, SAMPLE)
    standby.open()
    desk = Desk((standby,), Maps(tmp_path))
    functions, key = hygiene_functions(desk, Inspections()), desk.key(desk.opened)
    for payload in (
        ("?", "suspects", 0),
        (key, "all", 0),
        (key, ["suspects"], 0),
        (key, "suspects", True),
        ({}, 0, 0),
    ):
        assert asked(functions, "findings", *payload) is None
    assert asked(functions, "export_findings", key, "nothing", "csv") is None
    assert asked(functions, "export_findings", [], "suspects", "csv") is None


# ---- In a browser


@pytest.fixture(scope="module")
def address(laid_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    indexes = ("--index", laid_out, "--index", SAMPLE)
    with running_app(*indexes, log=tmp_path_factory.mktemp("app") / "log") as url:
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield opened(context.new_page(), address)
    context.close()


def tab(page: Page, name: str, holds: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(holds, timeout=2 * PATIENCE)


def wait_for_colored(page: Page, items: list[int]) -> None:
    """Waits until exactly these items are selected on the map, as it draws them."""
    page.wait_for_function(
        """due => {
            const selected = document.querySelector(".map-plot").data.flatMap(
                ({ customdata, selectedpoints }) => (selectedpoints ?? []).map((place) => customdata[place]));
            return selected.sort((one, other) => one - other).join() === due.join();
        }""",
        arg=items,
    )


def saved(page: Page, button: str) -> pd.DataFrame:
    with page.expect_download() as waiting:
        page.locator(button).first.click()
    download: Download = waiting.value
    return (pd.read_csv if download.suggested_filename.endswith("csv") else pd.read_parquet)(download.path())


@needs_chromium
def test_nothing_of_a_tab_is_there_until_it_is_opened(page: Page) -> None:
    assert page.locator(".report").count() == 0
    tab(page, "Quality", ".quality section")
    assert page.locator(".hygiene").count() == 0
    assert page.faults == []


@needs_chromium
def test_clicked_cell_lists_its_items_and_marks_them_on_the_map(page: Page, index: Index) -> None:
    label, predicted, count = worst_cell(index)
    due = confused_items(index, label, predicted).tolist()
    tab(page, "Quality", ".matrix")
    cell = page.locator(f'.matrix [data-cell="{label} {predicted}"]')
    cell.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".cell-items .tile")).to_have_count(count)
    expect(cell).to_have_attribute("aria-pressed", "true")
    assert saved(page, ".cell-items [data-export=csv]")["item"].tolist() == due
    query = page.locator(".results-query p").text_content()
    page.get_by_role("button", name="Show on map").click()
    expect(page.locator(".map-count")).to_have_text(f"{count} of {index.manifest.count} points")
    expect(page.locator(".map-frame")).to_be_focused()
    wait_for_colored(page, due)
    expect(page.locator(".selection-head h4")).to_have_text(f"{count} selected")
    assert page.locator(".results-query p").text_content() == query
    assert page.faults == []


@needs_chromium
def test_finding_is_shown_on_the_map_and_searched_with(page: Page, inspection: Inspection) -> None:
    pair = inspection.hygiene.duplicates.pairs or inspection.hygiene.outliers
    kind = "duplicates" if inspection.hygiene.duplicates.pairs else "outliers"
    items = sorted({pair[0].item, getattr(pair[0], "other", pair[0].item)})
    tab(page, "Data hygiene", ".kinds")
    page.locator(f"[data-kind={kind}]").click()
    expect(page.locator(f"[data-kind={kind}]")).to_be_focused()
    page.locator(".finding [data-show]").first.click()
    expect(page.locator(".map-count")).to_contain_text(f"{len(items)} of")
    wait_for_colored(page, items)
    tab(page, "Data hygiene", ".kinds")
    page.get_by_role("button", name="Search with it").first.click()
    expect(page.locator(".results-query")).to_contain_text(f"item {pair[0].item}")
    assert page.faults == []


@needs_chromium
def test_open_tabs_follow_the_index_that_is_looked_at(page: Page, index: Index, sample: Index) -> None:
    tab(page, "Data hygiene", ".kinds")
    tab(page, "Quality", ".matrix")
    page.locator(".page-which label").nth(1).click()
    expect(page.locator(".report-figures")).to_contain_text(f"{sample.manifest.metrics.knn_accuracy:.4f}")
    expect(page.locator(".report-figures")).to_contain_text(f"{sample.manifest.metrics.trustworthiness:.4f}")
    tab(page, "Data hygiene", ".kinds")
    expect(page.locator("[data-kind=outliers]")).to_contain_text("50", timeout=2 * PATIENCE)
    assert page.faults == []


@needs_chromium
def test_tables_and_lists_are_saved_as_files(page: Page, index: Index, inspection: Inspection) -> None:
    tab(page, "Quality", ".quality section")
    layouts = saved(page, "[data-table=layouts] [data-export=parquet]")
    assert layouts["name"].tolist() == list(index.manifest.projections)
    tab(page, "Data hygiene", ".kinds")
    page.locator("[data-kind=outliers]").click()
    page.wait_for_selector("[data-kind=outliers][aria-pressed=true]")
    outliers = saved(page, ".hygiene [data-export=csv]")
    assert outliers["item"].tolist() == [row.item for row in inspection.hygiene.outliers]


@needs_chromium
def test_both_tabs_fit_a_phone(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = opened(context.new_page(), address)
    for name, holds in (("Quality", ".quality section"), ("Data hygiene", ".finding")):
        tab(page, name, holds)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
