"""Indexes of the same items are held against each other; of different ones, refused."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.neighbors import NearestNeighbors

from index.build import BuildRequest, build_index
from index.compare import common_items, compare, disagreements, write_comparison
from index.manifest import FormatError
from index.projection import alignment
from index.source import SourceRequest
from index.store import Index, load_index
from tests.conftest import MODEL, ROOT


@pytest.fixture(scope="module")
def pooled(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 400 digits by the mean of their patches."""
    out = tmp_path_factory.mktemp("pooled") / "index"
    source = SourceRequest(str(digits_folder), limit=0)
    build_index(BuildRequest(source, model=str(MODEL), pooling="mean"), out)
    return out


@pytest.fixture(scope="module")
def pair(laid_out: Path, pooled: Path) -> tuple[Index, Index]:
    return load_index(laid_out), load_index(pooled)


def some(index: Index, items: np.ndarray) -> Index:
    return Index(
        replace(index.manifest, count=len(items), projections={"umap": index.manifest.projections["umap"]}),
        [index.images[item] for item in items],
        index.labels[items],
        index.source_rows[items],
        index.embeddings[items],
        {"umap": index.map[items]},
    )


def nearest(index: Index, k: int) -> np.ndarray:
    finder = NearestNeighbors(n_neighbors=k, metric="cosine").fit(index.embeddings.astype(float))
    return finder.kneighbors(return_distance=False)


def votes_right(index: Index) -> np.ndarray:
    finder = NearestNeighbors(n_neighbors=20, metric="cosine").fit(index.embeddings.astype(float))
    distances, ids = finder.kneighbors()
    weights = np.exp((1 - distances) / 0.07)
    votes = np.stack([(weights * (index.labels[ids] == c)).sum(1) for c in range(10)], axis=1)
    return votes.argmax(1) == index.labels


def test_overlap_and_right_votes_are_those_of_brute_force(pair: tuple[Index, Index]) -> None:
    found = compare(("cls", "mean"), pair).pairs[0]
    lists = [nearest(index, 10) for index in pair]
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*lists, strict=True)])
    assert found.overlap_at_10 == pytest.approx(overlap, abs=1e-6)
    one, other = (votes_right(index) for index in pair)
    assert found.both_right == (one & other).sum()
    assert found.only_one_right == (one & ~other).sum()
    assert found.only_other_right == (~one & other).sum()
    assert found.neither_right == (~one & ~other).sum()


def test_figures_of_whole_indexes_are_those_of_their_manifests(pair: tuple[Index, Index]) -> None:
    found = compare(("cls", "mean"), pair)
    for row, index in zip(found.indexes, pair, strict=True):
        assert row.knn_accuracy == pytest.approx(index.manifest.metrics.knn_accuracy)
        assert row.precision_at_5 == pytest.approx(index.manifest.metrics.precision_at_5)
        assert row.silhouette_map == index.manifest.metrics.silhouette_map
    assert [row.pooling for row in found.indexes] == ["cls", "mean"]
    assert (found.common, found.judged) == (400, 400)


def test_only_common_items_are_compared(pair: tuple[Index, Index]) -> None:
    one, other = some(pair[0], np.arange(300)), some(pair[1], np.arange(399, 99, -1))
    items = common_items([one, other])
    assert np.array_equal(one.source_rows[items[0]], other.source_rows[items[1]])
    assert len(items[0]) == 200
    found = compare(("a", "b"), (one, other))
    assert found.common == 200
    assert found.indexes[0].silhouette_map is None  # the manifest's is about other items too
    alone = compare(("a", "b"), [some(index, np.arange(100, 300)) for index in pair])
    assert found.pairs[0].overlap_at_10 == alone.pairs[0].overlap_at_10


def test_indexes_without_common_items_are_refused(pair: tuple[Index, Index], sample: Index) -> None:
    with pytest.raises(FormatError, match="share no item"):
        compare(("a", "b"), (some(pair[0], np.arange(10)), some(pair[1], np.arange(10, 20))))
    with pytest.raises(FormatError, match="not of the same items"):
        compare(("a", "b"), (pair[0], sample))


def test_disagreements_are_items_that_only_one_judges_right(pair: tuple[Index, Index]) -> None:
    right = [votes_right(index) for index in pair]
    found = disagreements(*pair)
    assert {one for one, _ in found} == set(np.flatnonzero(right[0] != right[1]).tolist())
    assert all(one == other for one, other in found)


def test_map_that_was_turned_mirrored_and_scaled_comes_back(sample: Index) -> None:
    angle = np.deg2rad(130)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (sample.map * [1, -1]) @ turn * 3.5 + [40, -7]
    assert np.allclose(alignment(moved, sample.map).apply(moved), sample.map, atol=1e-3)


def test_alignment_turns_as_scipys_procrustes_and_keeps_the_spread(pair: tuple[Index, Index]) -> None:
    fixed, moving = (index.map[:400].astype(float) for index in pair)
    aligned = alignment(moving, fixed).apply(moving)
    turn, _ = orthogonal_procrustes(moving - moving.mean(0), fixed - fixed.mean(0))
    due = (moving - moving.mean(0)) @ turn
    due *= np.sqrt(((fixed - fixed.mean(0)) ** 2).sum() / (due**2).sum())
    assert np.allclose(aligned, due + fixed.mean(0), atol=1e-3)
    point = np.ones((5, 2))
    assert np.allclose(alignment(point, fixed[:5]).apply(point), fixed[:5].mean(0), atol=1e-5)


def test_tables_are_written_as_markdown_and_csv(pair: tuple[Index, Index], tmp_path: Path) -> None:
    found = compare(("cls", "mean"), pair)
    files = write_comparison(found, tmp_path / "tables")
    assert [file.name for file in files] == ["comparison.md", "indexes.csv", "pairs.csv"]
    with files[1].open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["cls", "mean"]
    assert float(rows[0]["knn accuracy"]) == pytest.approx(found.indexes[0].knn_accuracy, abs=1e-4)
    assert "| cls | mean |" in files[0].read_text(encoding="utf-8")


def test_command_prints_both_indexes(laid_out: Path, pooled: Path) -> None:
    command = [sys.executable, "-m", "index", "compare", str(laid_out), str(pooled)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "400 common items" in done.stdout
    assert "mean" in done.stdout
    one = subprocess.run(command[:-1], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (one.returncode, one.stderr.strip()) == (2, "Name two indexes or more to compare.")
