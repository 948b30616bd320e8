"""The Quality tab: every figure of an index, what it means, and the items behind the mistakes."""

from collections.abc import Callable
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pyarrow as pa

from index.figures import describe_evaluation, describe_metrics
from index.manifest import Calibration, Manifest
from index.projection import describe_layouts, layout_title
from index.store import Index
from ui.charts import Curve, curves_svg, legend_html, reliability_svg
from ui.export import EXPORT_BUTTONS, item_export, table_file
from ui.map import Maps, for_browsers
from ui.matrix import cell_html, confused_items, confusion_html
from ui.palette import swatch
from ui.report import (
    REPORT_SCRIPT,
    Column,
    Row,
    as_bar,
    as_count,
    as_figure,
    as_percent,
    as_seconds,
    as_text,
    note_html,
    section_html,
    table_html,
)

EVALUATE = "`python -m index evaluate DIR`"
MOST_CLASS_ROWS = 100  # the worst; the file has them all


class QualityView(gr.HTML):
    """What was measured on an index, whose map's key is the value; asked for when it is looked at.

    Its events have the `key` and `items`: `chosen` to mark on the map, `shown` to look at there; `pick` has
    the clicked `item`.
    """

    def __init__(self, maps: Maps, value: str | None = None, **layout: Any) -> None:
        super().__init__(
            value=value,
            html_template='<div class="report quality"><p role="status">One moment …</p></div>',
            js_on_load=REPORT_SCRIPT + Path(__file__).with_name("quality.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            server_functions=[*_server_functions(maps), item_export(maps)],
            **layout,
        )

    def preprocess(self, payload: object) -> None:
        """Nothing: the server says what is shown, and what a browser claims about it is dropped."""


def _server_functions(maps: Maps) -> list[Callable]:
    """What a browser may ask for, None where it is not there: the report, a cell of the matrix, a table."""

    def report(key: object) -> str | None:
        index = maps.index(key)
        return index and quality_html(index)

    def cell(key: object, label: object, predicted: object) -> dict[str, object] | None:
        index = maps.index(key)
        items = None if index is None else confused_items(index, label, predicted)
        if items is None:
            return None
        return {"items": items.tolist(), "html": cell_html(index, items, label, predicted)}

    def export_table(key: object, name: object, format: object) -> dict[str, str] | None:
        index = maps.index(key)
        rows_of = TABLES.get(name) if isinstance(name, str) else None
        rows = rows_of(index.manifest) if index and rows_of else []
        return table_file(pa.Table.from_pylist(rows), str(name), format) if rows else None

    return [for_browsers(function) for function in (report, cell, export_table)]


def quality_html(index: Index) -> str:
    """All sections; what an index cannot have, or has not yet, says so in a sentence."""
    manifest = index.manifest
    parts = [_figures_html(manifest), _layouts_html(manifest)]
    if sentence := missing_votes(manifest):
        parts.insert(1, section_html("Classes", note_html(sentence)))
    else:
        charts = f'<div class="report-pair">{_curve_section(manifest)}{_calibration_section(manifest)}</div>'
        parts[1:1] = [
            _confusion_section(manifest),
            charts,
            _classes_section(manifest),
            _baselines_section(manifest),
        ]
    return "".join(parts)


def missing_votes(manifest: Manifest) -> str | None:
    """Why there is nothing to say about classes; None if there is."""
    if not manifest.source.labeled:
        return "This data set has no classes, so there is no vote to judge and nothing to confuse."
    if len(manifest.classes) < 2:
        return "All items are of one class, so every vote is right and there is nothing to confuse."
    if manifest.quality is None and manifest.count < 3:
        return "There are too few items to judge how others vote on them."
    if manifest.quality is None:
        return (
            "This index was built before votes were judged: `python -m index build SOURCE --out DIR`, with "
            "the same source, adds what is missing here."
        )
    return None


# ---- Rows, the same on the page and in the files


def figure_rows(manifest: Manifest) -> list[Row]:
    """What describes an index as a whole: on its own items, and on held-out ones."""
    found = describe_metrics(manifest) + describe_evaluation(manifest)
    return [
        {"figure": name, "value": float(value.replace(",", "")), "meaning": meaning}
        for name, value, meaning in found
    ]


def curve_rows(manifest: Manifest) -> list[Row]:
    if manifest.quality is None:
        return []
    held_out = dict(manifest.evaluation.votes.curve) if manifest.evaluation else {}
    return [
        {"k": k, "leave_one_out": share} | ({"held_out": held_out.get(k)} if held_out else {})
        for k, share in manifest.quality.votes.curve
    ]


def confusion_rows(manifest: Manifest) -> list[Row]:
    votes = manifest.quality.votes.confusion if manifest.quality else ()
    return [
        {"class": manifest.classes[label], "voted": manifest.classes[predicted], "items": count}
        for label, predicted, count in votes
    ]


def class_rows(manifest: Manifest) -> list[Row]:
    """A row for each class, by its number: leave-one-out, silhouettes, and held-out where there are some."""
    if manifest.quality is None:
        return []
    silhouettes = {row.label: row for row in manifest.quality.silhouettes}
    held_out = {row.label: row for row in manifest.evaluation.votes.classes} if manifest.evaluation else {}
    rows = []
    for votes in manifest.quality.votes.classes:
        spread, judged = silhouettes.get(votes.label), held_out.get(votes.label)
        row = {"label": votes.label, "class": manifest.classes[votes.label], "items": votes.support}
        row |= {"precision": votes.precision, "recall": votes.recall}
        row |= {"silhouette_embedding": spread and spread.embedding, "silhouette_map": spread and spread.map}
        if held_out:
            row |= {"held_out_items": judged.support if judged else 0}
            row |= {
                "held_out_precision": judged and judged.precision,
                "held_out_recall": judged and judged.recall,
            }
        rows.append(row)
    return rows


def baseline_rows(manifest: Manifest) -> list[Row]:
    """Plainer ways to judge the same items: held-out ones or, without an evaluation, indexed ones."""
    if manifest.evaluation:
        return [asdict(baseline) for baseline in manifest.evaluation.baselines]
    found = manifest.metrics
    if found.pixel_knn_accuracy is None:
        return []
    beside = {"embedding": found.knn_accuracy, "queries": found.sample, "items": manifest.count}
    return [{"name": "raw pixels", "accuracy": found.pixel_knn_accuracy} | beside]


def reliability_rows(manifest: Manifest) -> list[Row]:
    rows = manifest.calibration.reliability if manifest.calibration else ()
    return [
        {"least": row.least, "stated": row.stated, "right": row.right / row.count, "votes": row.count}
        for row in rows
    ]


def layout_table(manifest: Manifest) -> list[Row]:
    rows, _ = describe_layouts(manifest)
    return [{"title": layout_title(row), **asdict(row)} for row in rows]


TABLES: dict[str, Callable[[Manifest], list[Row]]] = {
    "figures": figure_rows,
    "curve": curve_rows,
    "confusion": confusion_rows,
    "classes": class_rows,
    "baselines": baseline_rows,
    "reliability": reliability_rows,
    "layouts": layout_table,
}


# ---- Sections


def _figures_html(manifest: Manifest) -> str:
    """The figures of the whole index as tiles, each with what it means."""
    rows = [row for row in describe_metrics(manifest) if not row[0].startswith("raw pixels")]
    rows += [row for row in describe_evaluation(manifest) if row[0] == "held out: k-NN accuracy"]
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd><strong>{value}</strong><span>{escape(meaning)}</span></dd></div>"
        for name, value, meaning in rows
    )
    return (
        f'<section aria-label="Figures" data-table="figures"><div class="report-caption"><h3>Figures</h3>'
        f'{EXPORT_BUTTONS}</div><dl class="report-figures">{tiles}</dl></section>'
    )


def _confusion_section(manifest: Manifest) -> str:
    votes = manifest.quality.votes
    words = (
        f"A row is a class, a column what its items were voted by their {votes.k} nearest others "
        "(leave-one-out). A cell lists its items and marks them on the map."
    )
    return (
        '<section aria-label="Confusions" data-table="confusion">'
        f'<div class="report-caption"><h3>Confusions</h3>{EXPORT_BUTTONS}</div>'
        f'{note_html(words)}<div class="confusion">{confusion_html(votes, manifest.classes)}</div>'
        '<div class="cell-items" aria-live="polite"></div></section>'
    )


def _curve_section(manifest: Manifest) -> str:
    curves, evaluation = [Curve("leave-one-out", manifest.quality.votes.curve)], manifest.evaluation
    columns = [Column("k", "k", as_count), Column("leave_one_out", "Leave-one-out", as_percent)]
    if evaluation:
        votes = evaluation.votes
        curves.append(Curve("held out, 95 % interval", votes.curve, (votes.k, *evaluation.interval)))
        columns.append(Column("held_out", "Held out", as_percent))
    table = table_html("curve", "k-NN accuracy against k", columns, curve_rows(manifest))
    return section_html(
        "k-NN accuracy against k",
        note_html("Share of items that the weighted vote of k neighbors puts into their class."),
        legend_html(curves) if len(curves) > 1 else "",
        curves_svg(curves),
        _folded(table),
    )


def _calibration_section(manifest: Manifest) -> str:
    title, calibration = "Is the vote as sure as it says?", manifest.calibration
    if calibration is None:
        least = "There are too few items to learn how often votes are right: 100 are needed."
        return section_html(title, note_html(least))
    columns = [
        Column("least", "Winner's share from", as_percent),
        Column("stated", "Said to be right", as_percent),
        Column("right", "Were right", as_percent),
        Column("votes", "Votes", as_count),
    ]
    table = table_html(
        "reliability", "Votes by the share of the winning class", columns, reliability_rows(manifest)
    )
    return section_html(
        title,
        note_html(_calibration_words(calibration), _familiarity_words(manifest)),
        reliability_svg(calibration.reliability),
        _folded(table),
    )


def _calibration_words(found: Calibration) -> str:
    held_out = f"from {found.items:,} held-out items"
    own = (
        f"from {found.items:,} indexed items, each left out of its own vote ({EVALUATE} takes held-out ones)"
    )
    return (
        f"Votes of {found.reliability_k} neighbors: a circle on the line came true as often as was said. "
        f"How often votes are right was learnt {held_out if found.held_out else own}; here each fifth "
        "of them is judged by what the others teach."
    )


def _familiarity_words(manifest: Manifest) -> str:
    known = manifest.familiarity
    if known is None:
        return ""
    return (
        f"An image less similar than {known.similarity:.3f} to its nearest item is called unlike anything in "
        "this index: 99 % of known items are nearer to theirs."
    )


def _classes_section(manifest: Manifest) -> str:
    rows = sorted(class_rows(manifest), key=lambda row: (row["recall"] is None, row["recall"]))
    columns = [
        Column("label", "Class", lambda label: swatch(label) + as_text(manifest.classes[label])),
        Column("items", "Items", as_count),
        Column("precision", "Precision", as_percent),
        Column("recall", "Recall", as_percent),
        Column("silhouette_embedding", "Silhouette, embedding", as_bar),
        Column("silhouette_map", "Silhouette, map", as_bar),
    ]
    if manifest.evaluation:
        columns.append(Column("held_out_items", "Held out", as_count))
        columns.append(Column("held_out_precision", "Precision, held out", as_percent))
        columns.append(Column("held_out_recall", "Recall, held out", as_percent))
    words = (
        "Precision: of the items voted into a class, how many are of it. Recall: of a class's items, how "
        "many were voted into it. Silhouette: -1 to 1, above 0 where items are nearer to their own class "
        "than to the next one (embedding: cosine; map: euclidean). The lowest recall comes first."
    )
    more = len(rows) - MOST_CLASS_ROWS
    cut = f"{more:,} classes with a higher recall are in the file." if more > 0 else ""
    table = table_html("classes", "Class by class, leave-one-out", columns, rows[:MOST_CLASS_ROWS])
    return section_html("Classes", note_html(words), table, note_html(cut))


def _baselines_section(manifest: Manifest) -> str:
    columns = [
        Column("name", "Judged by", as_text),
        Column("accuracy", "Accuracy", as_percent),
        Column("embedding", "This embedding, same items", as_percent),
        Column("queries", "Items judged", as_count),
        Column("items", "Items voting", as_count),
    ]
    rows, missing = baseline_rows(manifest), ""
    if manifest.evaluation is None:
        missing = (
            f"{EVALUATE} judges held-out items, and adds PCA of pixels, the network at random and chance."
        )
    table = table_html("baselines", "k-NN accuracy of plainer embeddings", columns, rows) if rows else ""
    words = "What something plainer reaches on the same items: an embedding is worth what it adds."
    return section_html("Baselines", note_html(words, missing), table)


def _layouts_html(manifest: Manifest) -> str:
    columns = [
        Column("title", "Layout", as_text),
        Column("trustworthiness", "Trustworthiness", as_figure),
        Column("recall_at_15", "Recall@15", as_figure),
        Column("silhouette", "Silhouette, map", as_figure),
        Column("knn_accuracy", "k-NN accuracy on the map", as_percent),
        Column("seconds", "Seconds", as_seconds),
    ]
    if len(manifest.projections) < 2:
        add = (
            "There is one layout, so nothing to compare it with: `python -m index build ... --projections` "
            "lays an index out in eleven ways, `python -m index project DIR --method tsne` adds one."
        )
        return section_html("Layouts", note_html(add))
    _, sentences = describe_layouts(manifest)
    table = table_html("layouts", "The stored layouts", columns, layout_table(manifest))
    return section_html("Layouts", note_html(*sentences), table)


def _folded(table: str) -> str:
    return f"<details><summary>The values as a table</summary>{table}</details>"
