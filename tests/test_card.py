"""The card says what the manifest says, in the form that the Hub takes."""

import shlex
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from index.__main__ import _parser
from index.card import PICTURE_COLORS, draw_map, make_card, size_category, write_card
from index.manifest import Manifest
from index.store import Index, save_index
from tests.conftest import SAMPLE
from tests.hub_server import card_errors
from tests.test_store import lists, small


def with_source(manifest: Manifest, **changes) -> Manifest:
    return replace(manifest, source=replace(manifest.source, **changes))


def front_of(manifest: Manifest) -> dict:
    card = make_card(manifest)
    assert list(card_errors(card, "dataset")) == []
    return DatasetCard(card).data.to_dict()


def test_front_matter_is_what_the_hub_expects(sample: Index) -> None:
    front = front_of(sample.manifest)
    assert front["license"] == "cc-by-sa-3.0"
    assert front["size_categories"] == ["1K<n<10K"]
    assert front["task_categories"] == ["image-feature-extraction"]
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert "source_datasets" not in front


def test_front_matter_survives_the_hubs_own_classes(sample: Index) -> None:
    card = DatasetCard(make_card(sample.manifest))
    again = DatasetCard(f"---\n{card.data.to_yaml()}\n---\n{card.text}")
    assert again.data.to_dict() == card.data.to_dict()
    assert again.data.pretty_name == "MNIST digits, embedded with DINOv2"


def test_source_on_the_hub_is_named_and_linked(sample: Index) -> None:
    manifest = with_source(sample.manifest, id="owner/name", revision="a" * 40)
    assert front_of(manifest)["source_datasets"] == ["owner/name"]
    assert f"https://huggingface.co/datasets/owner/name/tree/{'a' * 40}" in make_card(manifest)


@pytest.mark.parametrize(
    ("license", "front"),
    [
        (None, {"license": "unknown"}),
        ("MIT", {"license": "mit"}),
        ("Our Own License, v2", {"license": "other", "license_name": "our-own-license-v2"}),
    ],
)
def test_license_is_one_that_the_hub_knows(sample: Index, license: str | None, front: dict) -> None:
    assert front.items() <= front_of(with_source(sample.manifest, license=license)).items()


def test_title_with_signs_of_yaml_is_kept(sample: Index) -> None:
    manifest = replace(sample.manifest, title='Shoes: "best" & $worst # 1')
    assert front_of(manifest)["pretty_name"] == 'Shoes: "best" & $worst # 1, embedded with DINOv2'


@pytest.mark.parametrize(
    ("count", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (60_000, "10K<n<100K"), (10**6, "1M<n<10M")],
)
def test_size_category_is_the_hubs(count: int, category: str) -> None:
    assert size_category(count) == category


def test_card_names_columns_model_and_metrics(sample: Index) -> None:
    card, manifest = make_card(sample.manifest, "you/digits", "v1"), sample.manifest
    for column in ("image", "label", "source_row", "embedding", "neighbors"):
        assert f"| `{column}` |" in card
    assert f"revision `{manifest.model.revision}`" in card
    assert f"| k-NN accuracy | {manifest.metrics.knn_accuracy:.4f} | leave-one-out" in card
    assert 'load_dataset("you/digits", split="train", revision="v1")' in card


def test_second_projection_has_a_line_of_its_own(sample: Index) -> None:
    assert "| `pca_x`, `pca_y` |" in make_card(small(sample).manifest)


def test_command_of_the_card_is_one_that_build_takes(sample: Index) -> None:
    command = make_card(sample.manifest).split("```sh\n")[1].split("```")[0]
    words = shlex.split(command.replace("\\\n", " "))
    options = _parser().parse_args(words[3:])
    assert (options.limit, options.seed, options.title) == (0, 42, "MNIST digits")
    assert (options.revision, options.n_neighbors) == (sample.manifest.model.revision, 15)


def test_picture_shows_every_class_in_its_color() -> None:
    picture = Image.open(BytesIO(draw_map(SAMPLE))).convert("RGB")
    colors = {"#{:02x}{:02x}{:02x}".format(*color) for _, color in picture.getcolors()}
    assert set(PICTURE_COLORS) <= colors
    assert picture.size == (800, 600)


def test_picture_is_the_same_every_time_and_small() -> None:
    assert draw_map(SAMPLE) == draw_map(SAMPLE)
    assert len(draw_map(SAMPLE)) < 100_000


def test_picture_of_one_item_is_drawn(sample: Index, tmp_path: Path) -> None:
    save_index(small(sample, 1), replace(lists(1), ids=np.zeros((1, 0), np.int32)), tmp_path / "one")
    write_card(small(sample, 1).manifest, tmp_path / "one")
    assert (tmp_path / "one/map.png").is_file()
    assert "the 0 nearest" in (tmp_path / "one/README.md").read_text(encoding="utf-8")
