"""What the tabs of figures and lists share: tables as HTML, saved as files, and the way to the map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ui.export import EXPORT_BUTTONS, EXPORT_SCRIPT

Row = dict[str, Any]


# For js_on_load: `go(selector)` takes eyes and keyboard to what the search tab shows, as soon as it does
REPORT_SCRIPT = (
    EXPORT_SCRIPT
    + """
const go = (selector) => {
  const end = performance.now() + 5000;
  const look = () => {
    const target = document.querySelector(selector);
    if (target?.offsetParent) {
      if (target.tabIndex < 0) target.tabIndex = -1;
      target.focus({ preventScroll: true });
      target.scrollIntoView({ block: "nearest" });
    } else if (performance.now() < end) requestAnimationFrame(look);
  };
  look();
};
"""
)


@dataclass(frozen=True)
class Column:
    """A column of rows that hold its values under `name`; `show` makes HTML of a value."""

    name: str
    title: str
    show: Callable[[Any], str]


def table_html(name: str, caption: str, columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Rows as a table that scrolls sideways where it must; browsers ask for it as a file by its `name`."""
    head = "".join(f'<th scope="col">{escape(column.title)}</th>' for column in columns)
    body = "".join(f"<tr>{_cells_html(columns, row)}</tr>" for row in rows)
    return (
        f'<div class="report-table" data-table="{name}">'
        f'<div class="report-caption"><span>{escape(caption)}</span>{EXPORT_BUTTONS}</div>'
        f'<div class="report-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def section_html(title: str, *parts: str) -> str:
    return f'<section aria-label="{escape(title)}"><h3>{escape(title)}</h3>{"".join(parts)}</section>'


def note_html(*sentences: str) -> str:
    """Sentences in which a command stands between backticks."""
    pieces = escape(" ".join(sentences)).split("`")
    words = "".join(f"<code>{piece}</code>" if at % 2 else piece for at, piece in enumerate(pieces))
    return f'<p class="report-note">{words}</p>' if words else ""


def as_text(value: object) -> str:
    return escape(str(value))


def as_count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def as_figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def as_seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def as_percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def as_bar(value: float | None) -> str:
    """A figure from -1 to 1 beside a bar that grows to the right of its middle, or to the left below 0."""
    if value is None:
        return ""
    width = 50 * min(abs(value), 1)
    left = 50 - width if value < 0 else 50
    sign = ' class="below"' if value < 0 else ""
    place = f"left:{left:.1f}%;width:{width:.1f}%"
    bar = f'<span class="report-bar" aria-hidden="true"><i{sign} style="{place}"></i></span>'
    return f"{bar}{value:.3f}"


def _cells_html(columns: Sequence[Column], row: Row) -> str:
    first, *others = (column.show(row.get(column.name)) for column in columns)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)
