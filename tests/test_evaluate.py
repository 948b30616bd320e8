"""Held-out items are judged against an index, none against itself, and the verdict can be computed again."""

# ruff: noqa: F811  (fixtures come in by import)

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import NearestNeighbors

from embedding.encoder import Dinov2Encoder
from index import evaluate
from index.build import pixel_rows
from index.check import check_index
from index.evaluate import EvaluationRequest, baseline_vectors, bootstrap_interval, evaluate_index
from index.figures import describe_evaluation
from index.hygiene import leaks
from index.layouts import LayoutRequest, add_layout
from index.source import SourceError
from index.store import HELD_OUT, Index, load_index, read_held_out
from tests.conftest import ROOT, plain
from tests.hub_fixtures import Client, client, hub  # noqa: F401


@pytest.fixture(scope="module")
def evaluated(laid_out: Path, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(laid_out, tmp_path_factory.mktemp("evaluated") / "index"))
    evaluate_index(folder, EvaluationRequest(source=str(digits_folder)))
    return folder


@pytest.fixture(scope="module")
def index(evaluated: Path) -> Index:
    return load_index(evaluated)


@pytest.fixture
def copy(laid_out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(laid_out, tmp_path / "index"))


def images_of(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((folder / "test").rglob("*.png"))]


def share_right(indexed: np.ndarray, queries: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy of the weighted vote of 20, by scikit-learn's neighbors."""
    distances, ids = NearestNeighbors(n_neighbors=20, metric="cosine").fit(indexed).kneighbors(queries)
    weights = np.exp((1 - distances) / 0.07)
    votes = np.stack([(weights * (labels[ids] == c)).sum(1) for c in range(10)], axis=1)
    return float((votes.argmax(1) == truth).mean())


def test_evaluated_index_keeps_its_promises(evaluated: Path) -> None:
    assert len(list(check_index(evaluated))) == 9
    assert [path.name for path in evaluated.parent.iterdir()] == ["index"]


def test_figures_are_those_of_scikit_learn(
    index: Index, digits_folder: Path, encoder: Dinov2Encoder, evaluated: Path
) -> None:
    from io import BytesIO

    from PIL import Image

    rows = read_held_out(evaluated, index.manifest)
    queries = encoder.encode([Image.open(BytesIO(data)) for data in images_of(digits_folder)])
    truth = np.array([row.label for row in rows])
    votes = index.manifest.evaluation.votes
    due = share_right(index.embeddings, queries, index.labels, truth)
    assert votes.items == len(rows) == 200
    assert votes.accuracy == pytest.approx(due, abs=1e-6)
    predicted = np.array([row.predicted for row in rows])
    assert votes.accuracy == pytest.approx((predicted == truth).mean(), abs=1e-6)
    matrix = np.zeros((10, 10), int)
    for true, guess, count in votes.confusion:
        matrix[true, guess] = count
    assert np.array_equal(matrix, confusion_matrix(truth, predicted))


def test_baselines_are_those_of_scikit_learn(index: Index, digits_folder: Path, evaluated: Path) -> None:
    truth = np.array([row.label for row in read_held_out(evaluated, index.manifest)])
    pixels = pixel_rows(index.images + images_of(digits_folder)).astype(float)
    indexed, queries = pixels[:400], pixels[400:]
    found = {row.name: row for row in index.manifest.evaluation.baselines}
    due = share_right(indexed, queries, index.labels, truth)
    assert found["raw pixels"].accuracy == pytest.approx(due, abs=1e-6)
    reduced = PCA(192, random_state=42).fit(indexed)
    due = share_right(reduced.transform(indexed), reduced.transform(queries), index.labels, truth)
    assert found["PCA of pixels, 192 components"].accuracy == pytest.approx(due, abs=0.011)
    largest = np.bincount(index.labels).argmax()
    assert found["always the largest class"].accuracy == pytest.approx((truth == largest).mean())
    assert found["any class"].accuracy == pytest.approx(0.1)
    untrained = found["the network, untrained"]
    assert untrained.accuracy < found["raw pixels"].accuracy < untrained.embedding
    assert (untrained.queries, untrained.items) == (200, 400)


def test_interval_is_that_of_resampled_items() -> None:
    right = np.arange(2000) < 1760
    rng = np.random.default_rng(1)
    drawn = [right[rng.integers(0, 2000, 2000)].mean() for _ in range(1000)]
    assert bootstrap_interval(0.88, 2000, 42) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.003)


def test_what_users_load_is_the_index_alone(evaluated: Path) -> None:
    loaded = datasets.load_dataset(str(evaluated))
    assert list(loaded) == ["train"]
    assert len(loaded["train"]) == 400
    held_out = datasets.Dataset.from_parquet(str(evaluated / HELD_OUT))
    assert held_out.features["predicted"].names == [str(digit) for digit in range(10)]
    assert len(held_out) == 200


def test_items_and_vectors_are_untouched(evaluated: Path, laid_out: Path) -> None:
    shard = "data/train-00000-of-00001.parquet"
    assert (evaluated / shard).read_bytes() == (laid_out / shard).read_bytes()


def test_calibration_is_learnt_from_held_out_items(index: Index) -> None:
    assert index.manifest.calibration.held_out
    assert index.manifest.calibration.items == 200
    assert index.manifest.familiarity.held_out


def test_card_and_table_name_what_was_judged(evaluated: Path, index: Index) -> None:
    names = [name for name, _, _ in describe_evaluation(index.manifest)]
    assert names[0] == "held out: k-NN accuracy"
    card = (evaluated / "README.md").read_text(encoding="utf-8")
    assert "200 items of test, split test, k=20" in card
    assert "held out: the network, untrained" in card


def test_layout_added_later_keeps_the_evaluation(evaluated: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(evaluated, tmp_path / "index"))
    add_layout(copy, LayoutRequest("umap", 8, 0.0))
    after, before = load_index(copy).manifest, load_index(evaluated).manifest
    assert after.evaluation == before.evaluation
    assert read_held_out(copy, after) == read_held_out(evaluated, before)
    assert len(list(check_index(copy))) == 9


def test_planted_leak_is_counted_and_kept_with_its_image(
    copy: Path, digits_folder: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(digits_folder, tmp_path / "digits"))
    planted = next((source / "train/7").glob("*.png"))
    shutil.copy(planted, source / "test/7/0000-planted.png")
    manifest = evaluate_index(copy, EvaluationRequest(source=str(source)))
    index = load_index(copy)
    rows = [row for row in read_held_out(copy, index.manifest) if row.leak is not None]
    (found,) = [row for row in rows if row.image == planted.read_bytes()]
    assert index.images[found.leak] == planted.read_bytes()
    assert found.similarity == pytest.approx(1, abs=1e-5)
    assert manifest.evaluation.leaks == len(rows) == len(leaks(index, copy))


def test_indexed_rows_of_the_same_split_are_left_out(copy: Path, digits_folder: Path) -> None:
    with pytest.raises(SourceError, match="no image is new"):
        evaluate_index(copy, EvaluationRequest("train", str(digits_folder)))


def test_images_of_the_index_under_another_name_are_refused(
    copy: Path, digits_folder: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copytree(digits_folder / "train", tmp_path / "holdout"))
    with pytest.raises(SourceError, match="400 of the 400 images are in the index already"):
        evaluate_index(copy, EvaluationRequest(source=str(again)))


def test_unknown_classes_are_left_out_and_counted(copy: Path, digits_folder: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(digits_folder, tmp_path / "digits"))
    (source / "test/9").rename(source / "test/nine")
    manifest = evaluate_index(copy, EvaluationRequest(source=str(source)))
    assert manifest.evaluation.unknown == len(list((source / "test/nine").iterdir()))
    assert manifest.evaluation.votes.items == 200 - manifest.evaluation.unknown


def test_folder_that_moved_is_asked_for(copy: Path) -> None:
    with pytest.raises(SourceError, match="say where it is with --source"):
        evaluate_index(copy, EvaluationRequest())
    assert [path.name for path in copy.parent.iterdir()] == ["index"]


def test_interrupted_evaluation_goes_on_and_leaves_the_index_whole(
    copy: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copy / "manifest.json").read_bytes()

    def pulled_plug(*_: object) -> None:
        raise KeyboardInterrupt

    request = EvaluationRequest(source=str(digits_folder))
    monkeypatch.setattr(evaluate, "swap", pulled_plug)
    with pytest.raises(KeyboardInterrupt):
        evaluate_index(copy, request)
    assert (copy / "manifest.json").read_bytes() == before
    monkeypatch.undo()
    said: list[str] = []
    evaluate_index(copy, request, said.append)
    assert "Going on: 200 of 200 images were embedded before." in said
    assert load_index(copy).manifest.evaluation


def test_index_without_classes_is_not_judged(sample: Index) -> None:
    source = replace(sample.manifest.source, labeled=False)
    plain = replace(sample, manifest=replace(sample.manifest, source=source))
    with pytest.raises(SourceError, match="has no classes"):
        evaluate.read_held_out_items(plain, EvaluationRequest())


def test_components_are_as_many_as_there_can_be(sample: Index) -> None:
    few = np.arange(30)
    index = Index(
        replace(plain(sample).manifest, count=30),
        sample.images[:30],
        sample.labels[few],
        sample.source_rows[few],
        sample.embeddings[few],
        {"umap": sample.map[few]},
    )
    held_out = evaluate.HeldOut(
        sample.manifest.source, sample.images[30:40], sample.labels[30:40], np.arange(10, dtype=np.int32), 0
    )
    names = [vectors.name for vectors in baseline_vectors(index, held_out)]
    assert names == ["raw pixels", "PCA of pixels, 29 components"]


def test_command_prints_the_verdict(copy: Path, digits_folder: Path) -> None:
    command = [sys.executable, "-m", "index", "evaluate", str(copy), "--source", str(digits_folder)]
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=True)
    assert "held out: k-NN accuracy" in done.stdout
    assert "in 95 % of resamples" in done.stdout
    stored = json.loads((copy / "manifest.json").read_text())["evaluation"]["votes"]["accuracy"]
    assert f"{stored:.4f}" in done.stdout
    assert pq.read_metadata(copy / HELD_OUT).num_rows == 200


def test_published_evaluation_comes_along(evaluated: Path, client: Client, index: Index) -> None:
    done = client.run("-m", "index", "publish", str(evaluated), "tester/judged")
    assert done.returncode == 0, done.stderr
    program = """
from datasets import load_dataset
from index.hub import fetch_index
from index.store import load_manifest, read_held_out
folder = fetch_index("tester/judged")
print(len(read_held_out(folder, load_manifest(folder))), dict(load_dataset("tester/judged").num_rows))
"""
    fetched = client.run("-c", program)
    assert fetched.stdout.strip() == "200 {'train': 400}", fetched.stderr
