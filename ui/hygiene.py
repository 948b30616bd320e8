"""The Data hygiene tab: what deserves a second look, with the evidence; found in the background."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import gradio as gr
import pyarrow as pa

from index.hygiene import Duplicate, Hygiene, LabelSuspect, Leak, Outlier, inspect, named_rows
from index.live import without_folders
from index.manifest import FormatError
from index.standby import Opened
from index.store import Index, NeighborLists, read_held_out, read_neighbors
from ui.desk import Desk
from ui.export import EXPORT_BUTTONS, table_file
from ui.map import for_browsers
from ui.palette import swatch
from ui.report import REPORT_SCRIPT, note_html
from ui.results import crisp, item_picture, thumbnail

PAGE = 20
EVIDENCE = 6  # neighbors beside a finding
MEMBERS = 12  # items of a group that are shown
KINDS = {
    "suspects": "Label suspects",
    "outliers": "Outliers",
    "duplicates": "Near-duplicate pairs",
    "groups": "Groups",
    "leaks": "Leaks",
}
STEPS = ("labels", "outliers", "near-duplicates", "leaks")  # what `inspect` says, in its order


class HygieneView(gr.HTML):
    """Lists of what was found in an index, whose map's key is the value; looked for when they are looked at.

    Its event `shown` has the `key` and `items` to look at on the map, its event `pick` the clicked `item`.
    """

    def __init__(self, desk: Desk, value: str | None = None, **layout: Any) -> None:
        super().__init__(
            value=value,
            html_template='<div class="report hygiene"><p role="status">One moment …</p></div>',
            js_on_load=REPORT_SCRIPT + Path(__file__).with_name("hygiene.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            server_functions=_server_functions(desk, Inspections()),
            **layout,
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what is shown, and what a browser claims about it is dropped."""


@dataclass(frozen=True)
class Inspection:
    """What was found in an index, and what shows it: neighbors, and held-out images by their source rows."""

    index: Index
    neighbors: NeighborLists
    hygiene: Hygiene
    held_out: dict[int, bytes]

    def rows(self, kind: str) -> Sequence[Any]:
        found = self.hygiene
        return {
            "suspects": found.suspects,
            "outliers": found.outliers,
            "duplicates": found.duplicates.pairs,
            "groups": found.duplicates.groups,
            "leaks": found.leaks,
        }[kind]


@dataclass
class Work:
    """An inspection under way: how many `STEPS` are behind it, then what came of it."""

    step: int = 0
    done: Inspection | None = None
    problem: str | None = None


class Inspections:
    """Indexes are looked through once each, one at a time, in threads of their own: visitors only look on."""

    def __init__(self) -> None:
        self._begun: dict[str, Work] = {}
        self._lock = Lock()
        self._turn = Lock()

    def of(self, key: str, opened: Opened) -> Work:
        """The work on an index with this key, begun if it is not yet; what failed begins again next time."""
        with self._lock:
            work = self._begun.get(key)
            if work is None:
                work = self._begun[key] = Work()
                Thread(target=self._run, args=(work, opened), name="hygiene", daemon=True).start()
            elif work.problem:
                del self._begun[key]
            return work

    def known(self, key: object) -> Work | None:
        return self._begun.get(key) if isinstance(key, str) else None

    def _run(self, work: Work, opened: Opened) -> None:
        def note(step: str) -> None:
            work.step = STEPS.index(step)

        try:
            with self._turn:
                work.done = examine(opened, note)
        except FormatError as error:
            work.problem = without_folders(str(error))
        finally:
            if work.done is None:  # anything unforeseen keeps its traceback
                work.problem = work.problem or "The server could not finish it."


def examine(opened: Opened, say: Callable[[str], None] = lambda _: None) -> Inspection:
    """Looks through an index and its folder. Raises FormatError."""
    neighbors = read_neighbors(opened.folder)
    hygiene = inspect(opened.index, neighbors, opened.folder, say)
    held_out = read_held_out(opened.folder, opened.index.manifest)
    pictures = {row.source_row: row.image for row in held_out if row.image is not None}
    return Inspection(opened.index, neighbors, hygiene, pictures)


def _server_functions(desk: Desk, inspections: Inspections) -> list[Callable]:
    """What a browser may ask for, None where it is not there: a page of findings, all of a kind as a file."""

    def findings(key: object, kind: object, page: object) -> dict[str, object] | None:
        opened = desk.find(key)
        work = inspections.of(key, opened) if opened else inspections.known(key)
        if work is None or not isinstance(kind, str) or kind not in KINDS or type(page) is not int:
            return None
        return work_value(work, kind, page)

    def export_findings(key: object, kind: object, format: object) -> dict[str, str] | None:
        work = inspections.known(key)
        if work is None or work.done is None or not isinstance(kind, str) or kind not in KINDS:
            return None
        rows = finding_table(work.done, kind)
        return table_file(pa.Table.from_pylist(rows), kind, format) if rows else None

    return [for_browsers(findings), for_browsers(export_findings)]


def work_value(work: Work, kind: str, page: int) -> dict[str, object]:
    """A page of what was found or, until there is something, what is being looked for."""
    if work.problem:
        words = f"{work.problem.rstrip('.')}. Reload the page to try again."
        return {"waiting": False, "html": f'<p role="status">This could not be computed: {escape(words)}</p>'}
    if work.done is None:
        return {"waiting": True, "html": _progress_html(work.step)}
    return {"waiting": False, "html": findings_html(work.done, kind, page)}


def finding_table(found: Inspection, kind: str) -> list[dict[str, object]]:
    """All findings of a kind as rows of a file: of groups, a row for each item."""
    if kind != "groups":
        return named_rows(found.rows(kind), found.index)
    return [
        {"group": number, "item": item, "label": found.index.class_of(item), "source_row": int(source_row)}
        for number, group in enumerate(found.rows(kind), 1)
        for item, source_row in zip(group, found.index.source_rows[list(group)], strict=True)
    ]


# ---- Findings: rows of every kind, alike


@dataclass(frozen=True)
class Finding:
    """One row: picture and title in HTML, why it is listed, what is beside it, to show, and to ask with."""

    picture: str
    title: str
    reason: str
    beside: Sequence[int]
    items: Sequence[int]
    search: int


def finding(found: Inspection, row: LabelSuspect | Outlier | Duplicate | Leak | tuple[int, ...]) -> Finding:
    """A row of any kind in the form that all are shown in."""
    index = found.index
    if isinstance(row, tuple):
        reason = f"{len(row)} items are the same picture, or nearly, each as another of them."
        return Finding(item_picture(index, row[0]), f"{len(row)} items", reason, row, row, row[0])
    if isinstance(row, Duplicate):
        title = f"{_name(index, row.item)} and {_number(row.other)}"
        both = (row.item, row.other)
        return Finding(item_picture(index, row.item), title, row.reason, (row.other,), both, row.item)
    if isinstance(row, Leak):
        title = f"{_class(index, row.label)} <small>held-out row {row.source_row}</small>"
        picture = _file_picture(index, found.held_out.get(row.source_row))
        return Finding(picture, title, row.reason, (row.item,), (row.item,), row.item)
    title = _name(index, row.item)
    if isinstance(row, LabelSuspect):
        title = f"{_class(index, row.label)} → {_class(index, row.suggested)} {_number(row.item)}"
    beside = found.neighbors.ids[row.item][:EVIDENCE].tolist()
    return Finding(item_picture(index, row.item), title, row.reason, beside, (row.item,), row.item)


def findings_html(found: Inspection, kind: str, page: int) -> str:
    """The kinds to choose from, and a page of one of them; a page that is not there is the nearest one."""
    rows = found.rows(kind)
    last = max(0, (len(rows) - 1) // PAGE)
    page = min(max(page, 0), last)
    shown = rows[page * PAGE : (page + 1) * PAGE]
    if not rows:
        return _kinds_html(found, kind) + note_html(_intro(kind), nothing_found(found, kind))
    items = "".join(_finding_html(found.index, finding(found, row)) for row in shown)
    pager = _pager_html(page, last, len(rows)) if last else ""
    head = f'<div class="report-caption">{note_html(_intro(kind))}{EXPORT_BUTTONS}</div>'
    return f'{_kinds_html(found, kind)}{head}<ol class="findings">{items}</ol>{pager}'


def nothing_found(found: Inspection, kind: str) -> str:
    """Why a list is empty, and how to fill it if that can be done."""
    manifest = found.index.manifest
    if kind == "suspects" and not manifest.source.labeled:
        return "This data set has no classes, so no label can be wrong."
    if kind == "leaks" and manifest.evaluation is None:
        return "No held-out items are known: `python -m index evaluate DIR` judges some, and finds leaks."
    if kind in ("suspects", "outliers") and not found.neighbors.ids.size:
        return "A single item has no neighbors to compare it with."
    return "None were found."


def _intro(kind: str) -> str:
    return {
        "suspects": "Items whose neighbors vote for another class, the most surprising first.",
        "outliers": "The 1 % of the items that are least similar to their nearest ones.",
        "duplicates": "Pairs with the same picture but for a small shift, turn, noise or compression.",
        "groups": "Items that such pairs tie together, the largest group first.",
        "leaks": "Held-out items whose picture is in the index, too: they are judged by themselves.",
    }[kind]


def _progress_html(step: int) -> str:
    words = f"Being computed, in the background: {STEPS[step]} ({step + 1} of {len(STEPS)})."
    return (
        f'<div class="working" role="status"><p>{words} This is done once for an index.</p>'
        f'<progress max="{len(STEPS)}" value="{step + 0.5}" aria-label="Progress"></progress></div>'
    )


def _kinds_html(found: Inspection, kind: str) -> str:
    chips = "".join(
        f'<button type="button" class="chip" data-kind="{name}" aria-pressed="{str(name == kind).lower()}">'
        f"<span>{title}</span> {len(found.rows(name)):,}</button>"
        for name, title in KINDS.items()
    )
    return f'<div class="kinds" role="group" aria-label="What to list">{chips}</div>'


def _pager_html(page: int, last: int, total: int) -> str:
    first, end = page * PAGE + 1, min((page + 1) * PAGE, total)
    back, on = (" disabled" if at_end else "" for at_end in (page == 0, page == last))
    return (
        f'<div class="pager"><button type="button" class="quiet" data-page="{page - 1}"{back}>Back</button>'
        f'<span aria-live="polite">{first:,} to {end:,} of {total:,}</span>'
        f'<button type="button" class="quiet" data-page="{page + 1}"{on}>Next</button></div>'
    )


def _finding_html(index: Index, row: Finding) -> str:
    beside = "".join(_evidence_html(index, item) for item in row.beside[:MEMBERS])
    more = len(row.beside) - MEMBERS
    rest = f'<span class="report-note">{more:,} more</span>' if more > 0 else ""
    items = " ".join(map(str, row.items))
    return (
        f'<li class="finding">{row.picture}<div class="finding-words"><h4>{row.title}</h4>'
        f"<p>{escape(row.reason)}</p>"
        f'<p><button type="button" class="link" data-show="{items}">Show on map</button>'
        f'<button type="button" class="link" data-item="{row.search}">Search with it</button></p></div>'
        f'<div class="evidence">{beside}{rest}</div></li>'
    )


def _evidence_html(index: Index, item: int) -> str:
    mark = swatch(int(index.labels[item])) if index.manifest.source.labeled else ""
    words = f"{index.class_of(item)}, item {item}" if mark else f"Item {item}"
    return (
        f'<button type="button" class="tile" data-item="{item}" title="{escape(words)}: search with it" '
        f'aria-label="{escape(words)}: search with it">{item_picture(index, item)}{mark}</button>'
    )


def _file_picture(index: Index, file: bytes | None) -> str:
    if file is None:
        return '<span class="picture"></span>'
    return f'<img class="picture{crisp(index.manifest.preparation.size)}" src="{thumbnail(file)}" alt="">'


def _name(index: Index, item: int) -> str:
    return f"{_class(index, int(index.labels[item]))} {_number(item)}"


def _number(item: int) -> str:
    return f"<small>item {item}</small>"


def _class(index: Index, label: int) -> str:
    """A class with its mark; nothing where there are no classes."""
    return f"{swatch(label)}{escape(index.manifest.classes[label])}" if index.manifest.source.labeled else ""
