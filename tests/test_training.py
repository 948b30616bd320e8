"""The training script: what the student sees, a run at toy scale, figures that scikit-learn agrees with."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from transformers import AutoModel

from embedding.encoder import Dinov2Encoder
from tests.conftest import SAMPLE
from training import evaluate, sketches, views
from training.data import read_images, read_labels
from training.losses import draw_masks, plan_masks, sinkhorn
from training.train import Losses, Recipe, Trainer, knobs_at, save_model, train, training_images

TOY = Recipe(
    **{"steps": 12, "batch": 8, "width": 16, "depth": 1, "heads": 1},
    **{"head_hidden": 16, "head_bottleneck": 8, "prototypes": 16},
)


@pytest.fixture(autouse=True)
def own_randomness() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return read_images(SAMPLE, "train")[::50]  # 100 images, ten a class


@pytest.fixture(scope="module")
def digit_labels() -> np.ndarray:
    return read_labels(SAMPLE, "train")[::50]


def toy_trainer(digits: np.ndarray, recipe: Recipe = TOY) -> Trainer:
    return Trainer(recipe, torch.from_numpy(digits), torch.zeros(len(digits), dtype=torch.bool), "cpu")


def test_views_have_the_networks_shapes_and_range(digits: np.ndarray) -> None:
    made = views.make_views(torch.from_numpy(digits[:6]), torch.ones(6, dtype=torch.bool))
    assert [tuple(crop.shape) for crop in made] == [(12, 3, 28, 28), (12, 3, 28, 28), (36, 3, 16, 16)]
    low, high = -views.MEAN / views.STD, (1 - views.MEAN) / views.STD
    for crop in made:
        assert crop.min() >= low - 1e-5
        assert crop.max() <= high + 1e-5


def test_only_flippable_images_are_mirrored() -> None:
    images = torch.zeros(64, 28, 28, dtype=torch.uint8)
    images[:, 4:24, 4:12] = 255  # the left is bright
    left = lambda crops: crops[..., :14].mean((1, 2, 3)) > crops[..., 14:].mean((1, 2, 3))  # noqa: E731
    assert left(views.make_views(images, torch.zeros(64, dtype=torch.bool)).teacher).all()
    share = left(views.make_views(images, torch.ones(64, dtype=torch.bool)).teacher).float().mean()
    assert 0.3 < share < 0.7


def test_teacher_and_student_see_the_same_crop_unless_it_is_redrawn(digits: np.ndarray) -> None:
    made = views.make_views(torch.from_numpy(digits), torch.zeros(100, dtype=torch.bool))
    same = (made.teacher == made.student).flatten(1).all(1).float().mean()
    expected = (1 - views.DRAWN) * (1 - views.REMAPPED)
    assert abs(same - expected) < 0.12


def test_drawings_are_lines(digits: np.ndarray) -> None:
    photos = torch.from_numpy(digits)[:, None].float() / 255
    drawn = views.draw(photos)
    assert drawn.shape == photos.shape
    assert 0.02 < (drawn > 0.5).float().mean() < 0.5


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_enlarging_is_torchs_interpolation(mode: str) -> None:
    knots = torch.randn(3, 2, 5, 5)
    due = torch.nn.functional.interpolate(knots, (28, 28), mode=mode, align_corners=True)
    assert torch.allclose(views.enlarge(knots, 28, mode), due, atol=1e-5)


def test_straight_shapes_are_nearly_the_shapes() -> None:
    shape = torch.zeros(64, 1, 56, 56)
    shape[:, :, 12:44, 16:40] = 1
    straight = views.straighten(shape)
    assert set(straight.unique().tolist()) == {0, 1}
    shared = (straight * shape).sum((1, 2, 3)) / torch.maximum(straight, shape).sum((1, 2, 3))
    assert shared.min() > 0.5
    assert shared.mean() > 0.75
    assert len(straight.unique(dim=0)) > 32  # each by a hand of its own


def test_traces_are_thin_and_on_the_edge() -> None:
    photo = torch.zeros(16, 1, 28, 28)
    photo[:, :, 6:22, 8:20] = 0.8
    lines = views.trace(photo)
    assert lines[:, :, 10:18, 12:16].max() == 0  # the flat middle
    assert lines[:, :, :4].max() == 0  # the ground
    assert (lines[:, 0, 14].sum(1) == 2).all()  # across: left side, right side, a pixel each


def test_masks_hide_as_many_patches_as_planned() -> None:
    masks = plan_masks(8, 7, "cpu")
    masked, hidden = draw_masks(masks)
    counts = masked.sum(1)
    assert (counts[1::2] == 0).all()
    assert counts[0] == 4  # 10 % of 49
    assert counts[6] == 24  # 50 %
    assert sorted(hidden.tolist()) == masked.flatten().nonzero().flatten().tolist()
    assert masks.weights.sum() == pytest.approx(1)


def test_sinkhorn_uses_all_prototypes_alike() -> None:
    shares = sinkhorn(torch.rand(64, 8) * 2 - 1, torch.tensor(0.1), rounds=50)
    assert torch.allclose(shares.sum(1), torch.ones(64), atol=1e-4)
    assert torch.allclose(shares.sum(0), torch.full((8,), 8.0), atol=0.05)


def test_schedule_rises_and_falls() -> None:
    recipe = Recipe(steps=1000)
    rates = [knobs_at(recipe, step).rate for step in range(1000)]
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=0.01)
    assert rates[0] < rates[25] < rates[50] > rates[500] > rates[999] > 0
    assert knobs_at(recipe, 0).prototypes_learn == 0
    assert knobs_at(recipe, 10).prototypes_learn == 1
    assert knobs_at(recipe, 999).momentum == pytest.approx(1, abs=1e-4)


def test_losses_are_finite_and_fall(digits: np.ndarray, tmp_path: Path) -> None:
    history = train(toy_trainer(digits, replace(TOY, steps=40)), tmp_path, every=4)
    assert np.isfinite([losses[2:] for losses in history]).all()
    total = [losses.dino + losses.ibot + losses.koleo for losses in history]
    assert np.mean(total[-3:]) < np.mean(total[:3]) - 0.1
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == len(history) == 10


def test_interrupted_run_ends_as_if_it_had_not_been(digits: np.ndarray, tmp_path: Path) -> None:
    def interrupt(losses: Losses) -> None:
        if losses.step == 12:
            raise KeyboardInterrupt

    whole = toy_trainer(digits)
    expected = train(whole, tmp_path / "whole", every=4)
    with pytest.raises(KeyboardInterrupt):
        train(toy_trainer(digits), tmp_path / "broken", 4, interrupt)  # its last checkpoint is of step 8
    resumed = toy_trainer(digits)
    history = train(resumed, tmp_path / "broken", every=4)
    assert [losses._replace(seconds=0) for losses in history] == [
        losses._replace(seconds=0) for losses in expected
    ]
    for network in ("student", "teacher"):
        ours, theirs = resumed.state()[network], whole.state()[network]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_another_seed_is_another_run(digits: np.ndarray, tmp_path: Path) -> None:
    first = train(toy_trainer(digits, replace(TOY, steps=2)), tmp_path / "0", every=2)
    second = train(toy_trainer(digits, replace(TOY, steps=2, seed=1)), tmp_path / "1", every=2)
    assert first[-1].dino != second[-1].dino


def test_checkpoint_of_another_recipe_is_refused(digits: np.ndarray, tmp_path: Path) -> None:
    train(toy_trainer(digits, replace(TOY, steps=1)), tmp_path, every=1)
    with pytest.raises(ValueError, match="another recipe"):
        train(toy_trainer(digits, replace(TOY, steps=2)), tmp_path, every=1)


def test_training_needs_no_labels(tmp_path: Path) -> None:
    (source,) = (SAMPLE / "data").glob("*.parquet")
    pq.write_table(pq.read_table(source, columns=["image"]).slice(0, 20), tmp_path / "train-0.parquet")
    images, flippable = training_images(tmp_path, tmp_path)
    assert images.shape == (40, 28, 28)
    assert flippable.tolist() == [True] * 20 + [False] * 20


def test_knn_accuracy_is_scikit_learns(digits: np.ndarray, digit_labels: np.ndarray) -> None:
    units = evaluate.pixels("cpu")(digits)
    labels = torch.from_numpy(digit_labels)
    asked, indexed = slice(0, None, 3), slice(1, None, 3)
    ours = evaluate.knn_accuracy(units[asked], labels[asked], units[indexed], labels[indexed], 5)
    weights = ("uniform", lambda distances: np.exp(-distances / evaluate.TEMPERATURE))
    for accuracy, weight in zip(ours, weights, strict=True):
        classifier = KNeighborsClassifier(5, weights=weight, metric="cosine", algorithm="brute")
        classifier.fit(units[indexed].numpy(), digit_labels[indexed])
        assert accuracy == pytest.approx(classifier.score(units[asked].numpy(), digit_labels[asked]))


def test_cross_validation_is_scikit_learns(digits: np.ndarray, digit_labels: np.ndarray) -> None:
    units = evaluate.pixels("cpu")(digits)
    folds = StratifiedKFold(10, shuffle=True, random_state=42)
    classifier = KNeighborsClassifier(5, metric="cosine", algorithm="brute")
    expected = cross_val_score(classifier, units.numpy(), digit_labels, cv=folds).mean()
    assert evaluate.cross_validated(units, torch.from_numpy(digit_labels), 5) == pytest.approx(expected)


def test_precision_counts_others_only() -> None:
    units = torch.nn.functional.normalize(torch.tensor([[1, 0], [1, 0.1], [0, 1], [0.1, 1.0]]), dim=1)
    assert evaluate.precision(units, torch.tensor([0, 0, 1, 1]), 1) == 1
    assert evaluate.precision(units, torch.tensor([0, 1, 0, 1]), 1) == 0


def test_saved_model_loads_and_agrees_with_the_apps_encoder(digits: np.ndarray, tmp_path: Path) -> None:
    save_model(toy_trainer(digits), tmp_path)
    ours = evaluate.embedder(AutoModel.from_pretrained(tmp_path, dtype=torch.float32), "cpu")(digits[:10])
    theirs = Dinov2Encoder(tmp_path, "cpu").encode([Image.fromarray(image) for image in digits[:10]])
    assert (ours.numpy() * theirs).sum(1).min() > 0.9999


@pytest.mark.parametrize("kind", sketches.KINDS)
def test_sketches_are_light_lines_on_black(kind: str, digits: np.ndarray) -> None:
    made = sketches.KINDS[kind](digits)
    assert made.shape == digits.shape
    assert made.dtype == np.uint8
    assert ((made > 127).mean((1, 2)) < 0.4).all()
    assert (made.max((1, 2)) > 127).all()


@pytest.mark.parametrize("kind", sketches.KINDS)
def test_sketching_nothing_or_a_dot_ends(kind: str) -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 5, 5] = 255
    assert sketches.KINDS[kind](images).shape == images.shape
