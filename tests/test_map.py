"""What browsers are told of a map, and what they may ask."""

import base64
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from index.projection import alignment
from index.query import answer, query_item
from index.store import Index
from ui.export import item_export
from ui.map import Maps, for_browsers, map_value, quantize, selected_items


@pytest.fixture
def maps(tmp_path: Path) -> Maps:
    return Maps(tmp_path)


def points_of(described: dict, count: int) -> np.ndarray:
    """The coordinates that a browser reads from the file of a layout."""
    data = Path(described["points"].removeprefix("gradio_api/file=")).read_bytes()
    steps = np.frombuffer(data[: 4 * count], "<u2").reshape(2, count).T
    return steps * described["step"] + np.array(described["origin"])


def test_points_of_a_map_are_the_coordinates(maps: Maps, sample: Index) -> None:
    described = maps.describe(maps.key(sample))
    found = points_of(described["layout"], described["count"])
    assert np.abs(found - sample.map).max() <= described["layout"]["step"]


def test_other_layouts_keep_their_shape(maps: Maps, sample: Index) -> None:
    key = maps.key(sample)
    for name in sample.coordinates:
        found = points_of(maps.layout(key, name), sample.manifest.count)
        ours, theirs = (
            np.linalg.norm(p[:500] - p[500:1000], axis=1) for p in (found, sample.coordinates[name])
        )
        assert np.corrcoef(ours, theirs)[0, 1] > 0.9999  # turned, mirrored and scaled as a whole


def test_alignment_undoes_a_turn(sample: Index) -> None:
    turned = sample.map @ np.array([[0, -3.0], [3.0, 0]]) + 7
    back = alignment(turned, sample.map).apply(turned)
    assert np.allclose(back, sample.map, atol=1e-3)


@pytest.mark.parametrize("key", ["nothing", None, 3, [], "../../etc/passwd"])
def test_unknown_maps_are_nothing(maps: Maps, key: object) -> None:
    assert maps.describe(key) is None
    assert maps.layout(key, "umap") is None
    assert maps.thumbnails(key, 0) is None


@pytest.mark.parametrize("item", [-1, 5000, "0", None, True, 1.0, [1]])
def test_unknown_items_have_no_thumbnails(maps: Maps, sample: Index, item: object) -> None:
    assert maps.thumbnails(maps.key(sample), item) is None


def test_unknown_layouts_are_nothing(maps: Maps, sample: Index) -> None:
    for name in ("x", None, 3):
        assert maps.layout(maps.key(sample), name) is None


def test_functions_for_browsers_take_their_arguments_as_a_list(maps: Maps, sample: Index) -> None:
    ask = for_browsers(maps.thumbnails)
    assert ask([maps.key(sample), 0])["items"]
    assert ask("x") is None
    assert ask([1, 2, 3]) is None


def test_indexed_query_marks_its_own_point(maps: Maps, sample: Index) -> None:
    value = map_value(maps, maps.key(sample), answer(sample, query_item(sample, 9), 4))
    assert (value["query"], len(value["neighbors"]), value["positions"]) == (9, 4, {})


@pytest.mark.parametrize(
    ("event", "due"),
    [
        ({"classes": [3]}, 500),
        ({"classes": [3, 99, "x"]}, 500),
        ({"items": [5, 5, 2, -1, 5000, "7", True]}, 2),
        ({"items": []}, 0),
        ({"items": None}, None),
        ({"items": "all"}, None),
        ({"items": [0] * 5001}, None),
    ],
)
def test_selection_holds_items_only(sample: Index, event: dict, due: int | None) -> None:
    found = selected_items(sample, SimpleNamespace(**{"classes": None, "items": None} | event))
    assert found is None if due is None else len(found) == due


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_items_are_exported_in_order(maps: Maps, sample: Index, format: str) -> None:
    file = item_export(maps)([maps.key(sample), [7, 3], [0.9, 0.8], format])
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[format]
    table = read(
        BytesIO(base64.b64decode(file["data"])), **({"dtype": {"label": str}} if format == "csv" else {})
    )
    assert table["item"].tolist() == [7, 3]
    assert table["similarity"].tolist() == [0.9, 0.8]
    assert table["label"].tolist() == [sample.class_of(7), sample.class_of(3)]


@pytest.mark.parametrize(
    ("items", "similarities", "format"),
    [([5000], None, "csv"), ("all", None, "csv"), ([1], ["x"], "csv"), ([1], None, "exe")],
)
def test_bad_exports_are_nothing(
    maps: Maps, sample: Index, items: object, similarities: object, format: str
) -> None:
    assert item_export(maps)([maps.key(sample), items, similarities, format]) is None


def test_steps_cover_the_longer_side() -> None:
    points = quantize(np.array([[0, 0], [10, 5]], np.float32))
    assert points.steps.tolist() == [[0, 0], [65535, 32768]]
