"""Several layouts of one index: built, measured, compared, and one added without harm to the others."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from embedding.encoder import Dinov2Encoder
from index import layouts
from index.build import BuildRequest, build_index
from index.check import check_index
from index.layouts import LayoutRequest, add_layout
from index.manifest import Projection
from index.projection import describe_layouts, place, projection_grid, projection_name, umap_projection
from index.query import answer, query_image, query_item
from index.search import search
from index.source import SourceError, SourceRequest
from index.store import Index, load_index
from tests.conftest import MODEL, ROOT, plain
from tests.pictures import seven

GRID = {
    *("umap", "umap_5_000", "umap_5_010", "umap_5_050", "umap_15_000", "umap_15_050"),
    *("umap_50_000", "umap_50_010", "umap_50_050", "pca", "tsne"),
}


@pytest.fixture(scope="module")
def index(laid_out: Path) -> Index:
    return load_index(laid_out)


@pytest.fixture
def copy(laid_out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(laid_out, tmp_path / "index"))


def test_all_eleven_layouts_are_stored_with_figures_and_seconds(index: Index) -> None:
    assert set(index.manifest.projections) == GRID
    assert all(made.seconds is not None and made.metrics for made in index.manifest.projections.values())
    assert next(iter(index.manifest.projections)) == "umap"


def test_index_of_many_layouts_keeps_its_promises(laid_out: Path) -> None:
    assert len(list(check_index(laid_out))) == 9


@pytest.mark.parametrize("name", ["umap", "umap_50_050", "pca", "tsne"])
def test_figures_of_a_layout_are_scikit_learns_from_the_parquet(laid_out: Path, name: str) -> None:
    table = pq.read_table(laid_out / "data/train-00000-of-00001.parquet")
    prefix = "" if name == "umap" else f"{name}_"
    points = np.stack([table[f"{prefix}{axis}"].to_numpy() for axis in "xy"], axis=1)
    embeddings = np.stack(table["embedding"].to_numpy())
    labels = table["label"].to_numpy()
    found = load_index(laid_out).manifest.projections[name].metrics
    trust = trustworthiness(embeddings, points, n_neighbors=15, metric="cosine")
    assert found.trustworthiness == pytest.approx(trust, abs=1e-6)
    assert found.silhouette == pytest.approx(silhouette_score(points, labels), abs=1e-6)
    near = [
        NearestNeighbors(n_neighbors=15, metric=metric).fit(rows).kneighbors(return_distance=False)
        for rows, metric in ((embeddings, "cosine"), (points, "euclidean"))
    ]
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(*near, strict=True)])
    assert found.recall_at_15 == pytest.approx(recall, abs=1e-6)
    votes = [
        KNeighborsClassifier(20).fit(np.delete(points, i, 0), np.delete(labels, i)).predict(points[[i]])[0]
        for i in range(len(points))
    ]
    assert found.knn_accuracy == pytest.approx(np.mean(votes == labels), abs=1e-6)


def test_default_layout_is_that_of_a_plain_build(digits_folder: Path, index: Index, tmp_path: Path) -> None:
    build_index(
        BuildRequest(SourceRequest(str(digits_folder), limit=0), model=str(MODEL)), tmp_path / "plain"
    )
    plain = load_index(tmp_path / "plain")
    assert np.array_equal(plain.map, index.map)
    assert plain.manifest.metrics == index.manifest.metrics
    assert plain.manifest.projections["umap"].seconds is None


def test_query_is_placed_on_every_layout(index: Index, encoder: Dinov2Encoder) -> None:
    found = answer(index, query_image(index, seven(), encoder))
    assert set(found.positions) == GRID
    assert found.positions["umap"] == found.position
    near = np.array([neighbor.item for neighbor in search(index, found.query.embedding, 15)])
    assert found.positions["tsne"] == place(index.coordinates["tsne"], near)
    indexed = answer(index, query_item(index, 7))
    assert indexed.positions["pca"] == tuple(index.coordinates["pca"][7].tolist())


def test_sentences_say_what_the_figures_say(index: Index) -> None:
    rows, sentences = describe_layouts(index.manifest)
    assert {row.name for row in rows} == GRID
    assert len(sentences) == 2
    best = max(rows, key=lambda row: row.recall_at_15)
    assert f"{100 * best.recall_at_15:.1f} % of the 15 nearest" in sentences[1]
    spread = {}
    for near in (5, 15, 50):
        found = [row.silhouette for row in rows if row.n_neighbors == near]
        spread[near] = (max(found) - min(found), min(found), max(found))
    near, (_, low, high) = max(spread.items(), key=lambda pair: pair[1][0])
    assert sentences[0].startswith(f"With n_neighbors = {near}, ")
    assert f"{low:.3f} at min_dist" in sentences[0]
    assert f"{high:.3f} at" in sentences[0]


def test_one_layout_needs_no_comparison(sample: Index) -> None:
    assert describe_layouts(plain(sample).manifest)[1] == ()


def test_layout_is_added_and_nothing_else_changes(copy: Path, index: Index) -> None:
    assert add_layout(copy, LayoutRequest("umap", 30, 0.05)) == "umap_30_005"
    added = load_index(copy)
    assert set(added.coordinates) == GRID | {"umap_30_005"}
    assert added.manifest.projections["umap_30_005"].metrics.trustworthiness > 0.8
    assert added.embeddings.tobytes() == index.embeddings.tobytes()
    assert all(np.array_equal(added.coordinates[name], index.coordinates[name]) for name in GRID)
    assert "umap_30_005_x" in (copy / "README.md").read_text(encoding="utf-8")
    assert len(list(check_index(copy))) == 9
    assert [path.name for path in copy.parent.iterdir()] == ["index"]


def test_added_layout_is_the_one_that_a_build_makes(copy: Path, index: Index) -> None:
    table = json.loads((copy / "manifest.json").read_text())
    del table["projections"]["umap_50_010"]
    (copy / "manifest.json").write_text(json.dumps(table))
    assert add_layout(copy, LayoutRequest("umap", 50, 0.1)) == "umap_50_010"
    assert np.array_equal(load_index(copy).coordinates["umap_50_010"], index.coordinates["umap_50_010"])


def test_layout_that_is_there_is_not_added_again(copy: Path) -> None:
    with pytest.raises(SourceError, match="called tsne"):
        add_layout(copy, LayoutRequest("tsne"))
    assert [path.name for path in copy.parent.iterdir()] == ["index"]


def test_interrupted_layout_leaves_the_old_index_whole(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file: file.read_bytes() for file in copy.rglob("*.*") if file.is_file()}

    def pulled_plug(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layouts, "swap", pulled_plug)
    with pytest.raises(KeyboardInterrupt):
        add_layout(copy, LayoutRequest("umap", 8, 0.25))
    assert {file: file.read_bytes() for file in copy.rglob("*.*") if file.is_file()} == before
    monkeypatch.undo()
    laid = copy.with_name("index.partial") / "layouts/umap_8_025.npz"
    stamp = laid.stat().st_mtime_ns
    monkeypatch.setattr(layouts, "_make", pulled_plug)  # the finished part must do
    assert add_layout(copy, LayoutRequest("umap", 8, 0.25)) == "umap_8_025"
    assert stamp
    assert len(list(check_index(copy))) == 9


def test_index_cut_off_between_two_renames_comes_back(copy: Path) -> None:
    work = copy.with_name("index.partial")
    work.mkdir()
    (work / "lock").touch()
    copy.rename(work / "old")
    add_layout(copy, LayoutRequest("umap", 8, 0.5))
    assert "umap_8_050" in load_index(copy).coordinates


def test_index_of_one_layout_gets_figures_for_both(sample: Index, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for item in range(60):
        (few / f"{item}.png").write_bytes(sample.images[item])
    build_index(BuildRequest(SourceRequest(str(few), limit=0), model=str(MODEL)), tmp_path / "index")
    add_layout(tmp_path / "index", LayoutRequest("pca"))
    made = load_index(tmp_path / "index").manifest.projections
    assert (
        made["umap"].metrics.trustworthiness
        == load_index(tmp_path / "index").manifest.metrics.trustworthiness
    )
    assert made["pca"].metrics.silhouette is None  # no classes


@pytest.mark.parametrize(
    ("projection", "name"),
    [
        (umap_projection(100, 5, 0.0, 1), "umap_5_000"),
        (umap_projection(100, 50, 0.5, 1), "umap_50_050"),
        (umap_projection(100, 30, 0.125, 1), "umap_30_012p5"),
        (umap_projection(100, 30, 1.0, 1), "umap_30_100"),
        (Projection("tsne", {"perplexity": 30.0}), "tsne"),
        (Projection("tsne", {"perplexity": 7.5}), "tsne_7p5"),
        (Projection("pca"), "pca"),
    ],
)
def test_layouts_have_names_that_suit_columns(projection: Projection, name: str) -> None:
    assert projection_name(projection) == name
    assert name.isidentifier()


@pytest.mark.parametrize("count", [1, 4, 5, 12, 5000])
def test_small_sets_get_the_layouts_that_they_can_have(count: int) -> None:
    default = umap_projection(count, 15, 0.1, 42)
    grid = projection_grid(count, default, 42)
    assert default not in grid.values()
    assert len(set(map(repr, grid.values()))) == len(grid)
    near = [made.parameters["n_neighbors"] for made in grid.values() if made.method == "umap"]
    assert all(2 <= wanted < count for wanted in near)


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_handful_of_photos_can_be_laid_out_in_every_way(sample: Index, tmp_path: Path, count: int) -> None:
    (tmp_path / "few").mkdir()
    for item in range(count):
        (tmp_path / "few" / f"{item}.png").write_bytes(sample.images[item])
    request = BuildRequest(SourceRequest(str(tmp_path / "few"), limit=0), str(MODEL), projections=True)
    build_index(request, tmp_path / "out")
    assert len(list(check_index(tmp_path / "out"))) == 9


def test_command_adds_a_layout_and_prints_the_table(copy: Path) -> None:
    command = [sys.executable, "-m", "index", "project", str(copy), "--method", "tsne", "--perplexity", "10"]
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=True)
    assert "one more layout: tsne_10" in done.stdout
    assert "UMAP (50, 0.5)" in done.stdout
    again = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "it is called tsne_10" in again.stderr
