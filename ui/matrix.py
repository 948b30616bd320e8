"""What was taken for what: the confusion matrix as a table of buttons, and the items of one of its cells."""

from html import escape

import numpy as np
from numpy.typing import NDArray

from index.manifest import Votes
from index.store import Index
from ui.export import EXPORT_BUTTONS
from ui.selection import SHOWN, item_tile

MOST_CLASSES = 40  # more make a matrix that nobody can read
WORST = 5  # mistakes listed beside a matrix
WORST_ALONE = 40  # and in place of one
DEEPEST = 60  # percent of color in a cell: words on it can still be read


def confusion_html(votes: Votes, classes: tuple[str, ...]) -> str:
    """The matrix and the most frequent mistakes; only these where there are many classes."""
    if len(votes.classes) > MOST_CLASSES:
        return _mistakes_html(votes, classes, WORST_ALONE)
    return f"{_matrix_html(votes, classes)}{_mistakes_html(votes, classes, WORST)}"


def confused_items(index: Index, label: object, predicted: object) -> NDArray[np.int64] | None:
    """The items of one class that the others vote into a class; None for what is not two class numbers."""
    numbers = range(len(index.manifest.classes))
    if index.predicted is None or type(label) is not int or type(predicted) is not int:  # True is an int
        return None
    if label not in numbers or predicted not in numbers:
        return None
    return np.flatnonzero((index.labels == label) & (index.predicted == predicted))


def cell_html(index: Index, items: NDArray[np.int64], label: int, predicted: int) -> str:
    """The first items of a cell, and what can be done with all of them."""
    name, other = (escape(index.manifest.classes[number]) for number in (label, predicted))
    what = f"{name}, voted {other}: {len(items):,} item{'' if len(items) == 1 else 's'}"
    tiles = "".join(item_tile(index, item) for item in items[:SHOWN].tolist())
    more = f'<p class="report-note">The first {SHOWN} are shown.</p>' if len(items) > SHOWN else ""
    return (
        f'<div class="report-caption"><strong>{what}</strong>'
        f'<button type="button" class="link" data-show>Show on map</button>{EXPORT_BUTTONS}</div>'
        f'<div class="selection-strip">{tiles}</div>{more}'
    )


def _matrix_html(votes: Votes, classes: tuple[str, ...]) -> str:
    counts = {(label, predicted): count for label, predicted, count in votes.confusion}
    shown = [row.label for row in votes.classes]
    head = "".join(f'<th scope="col"><span>{escape(classes[label])}</span></th>' for label in shown)
    rows = "".join(
        f'<tr><th scope="row">{escape(classes[row.label])}</th>'
        + "".join(_cell_html(counts, row.label, other, row.support, classes) for other in shown)
        + "</tr>"
        for row in votes.classes
    )
    return (
        '<div class="report-scroll matrix" tabindex="0" role="region" aria-label="Confusion matrix"><table>'
        f'<thead><tr><td class="matrix-corner">class ↓ vote →</td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell_html(
    counts: dict[tuple[int, int], int], label: int, predicted: int, support: int, classes: tuple[str, ...]
) -> str:
    count = counts.get((label, predicted), 0)
    if not count:
        return "<td></td>"
    depth = min(100 * (count / support) ** 0.5, DEEPEST)  # the root shows mistakes, which are few
    kind = "right" if label == predicted else "wrong"
    words = escape(f"{count:,} of {support:,} {classes[label]} were voted {classes[predicted]}")
    return (
        f'<td class="{kind}" style="--depth:{depth:.0f}%">'
        f'<button type="button" data-cell="{label} {predicted}" aria-pressed="false" '
        f'title="{words}" aria-label="{words}: show them">{count:,}</button></td>'
    )


def _mistakes_html(votes: Votes, classes: tuple[str, ...], limit: int) -> str:
    support = {row.label: row.support for row in votes.classes}
    wrong = [(count, label, other) for label, other, count in votes.confusion if label != other]
    worst = sorted(wrong, key=lambda row: (-row[0], row[1:]))[:limit]
    if not worst:
        return '<p class="report-note">Every item was voted into its own class.</p>'
    rows = "".join(
        f'<li><button type="button" class="link" data-cell="{label} {other}" aria-pressed="false">'
        f"{escape(classes[label])} taken for {escape(classes[other])}: {count:,} of {support[label]:,}"
        "</button></li>"
        for count, label, other in worst
    )
    return f'<div class="mistakes"><h4>Most frequent mistakes</h4><ol>{rows}</ol></div>'
