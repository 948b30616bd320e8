"""Published models go by short names, and what becomes the embedding can be chosen."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from embedding.encoder import Dinov2Encoder, ModelError, ModelRef, fetch_model
from embedding.image import Preparation
from embedding.models import MODELS, model_id
from index.build import BuildRequest, build_index
from index.check import check_index
from index.live import load_agreeing
from index.manifest import fingerprint
from index.source import SourceRequest
from index.store import Index, load_index
from tests.conftest import MODEL
from tests.pictures import noise, seven

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def with_registers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised model of two layers with four register tokens."""
    folder = tmp_path_factory.mktemp("registers")
    torch.manual_seed(1)
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**TINY, num_register_tokens=4)).save_pretrained(folder)
    _save_processor(folder)
    return folder


@pytest.fixture(scope="module")
def without_registers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(1)
    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(folder)
    _save_processor(folder)
    return folder


def _save_processor(folder: Path) -> None:
    size = {"height": 28, "width": 28}
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=size).save_pretrained(folder)


def last_tokens(folder: Path, images: list[Image.Image]) -> np.ndarray:
    """All tokens after the last LayerNorm, from transformers itself, apart from the encoder's pooling."""
    encoder = Dinov2Encoder(folder, "cpu")
    pixels = torch.from_numpy(np.stack([encoder.received(image) for image in images]))
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder)(pixel_values=pixels).last_hidden_state.numpy()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("kind", "first"), [("with_registers", 5), ("without_registers", 1)])
def test_patches_start_after_cls_and_registers(kind: str, first: int, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    images = [noise(28, 28, number) for number in range(3)]
    tokens = last_tokens(folder, images)
    assert tokens.shape == (3, first + 4, 24)  # a 28 x 28 image is four patches
    patches = unit(tokens[:, first:].mean(1))
    cls = unit(tokens[:, 0])
    found = {name: Dinov2Encoder(folder, "cpu", name).encode(images) for name in ("cls", "mean", "both")}
    assert np.allclose(found["cls"], cls, atol=1e-6)
    assert np.allclose(found["mean"], patches, atol=1e-6)
    assert np.allclose(found["both"], np.hstack([cls, patches]) / np.sqrt(2), atol=1e-6)


@pytest.mark.parametrize(("pooling", "dimension"), [("cls", 192), ("mean", 192), ("both", 384)])
def test_every_pooling_gives_unit_rows(pooling: str, dimension: int) -> None:
    encoder = Dinov2Encoder(MODEL, "cpu", pooling)
    embeddings = encoder.encode([seven(), noise(28, 28)])
    assert embeddings.shape == (2, dimension) == (2, encoder.dimension)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_index_remembers_its_pooling(sample: Index, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for item in range(40):
        (tmp_path / "set" / f"{item}.png").write_bytes(sample.images[item])
    request = BuildRequest(SourceRequest(str(tmp_path / "set"), limit=0), str(MODEL), pooling="both")
    build_index(request, tmp_path / "index")
    index = load_index(tmp_path / "index")
    assert (index.manifest.model.pooling, index.manifest.dimension) == ("both", 384)
    assert len(list(check_index(tmp_path / "index"))) == 9
    assert load_agreeing(index).dimension == 384
    assert "--pooling both" in (tmp_path / "index/README.md").read_text(encoding="utf-8")
    as_cls = replace(
        index, manifest=replace(index.manifest, model=replace(index.manifest.model, pooling="cls"))
    )
    with pytest.raises(ModelError, match="disagrees"):
        load_agreeing(as_cls)


def test_pooling_changes_the_fingerprint_and_cls_does_not() -> None:
    plain = ModelRef("some/model", "abc")
    assert fingerprint(plain, Preparation()) == "6910122f61f90056"
    assert fingerprint(replace(plain, pooling="mean"), Preparation()) != fingerprint(plain, Preparation())


def test_untrained_network_is_the_same_for_a_seed_and_leaves_torch_alone(sample: Index) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    images = [Image.open(BytesIO(sample.images[item])) for item in range(4)]
    one, again, other = (Dinov2Encoder(MODEL, "cpu", untrained_seed=s).encode(images) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(one, again)
    assert not np.allclose(one, other, atol=1e-3)
    assert not np.allclose(one, Dinov2Encoder(MODEL, "cpu").encode(images), atol=1e-3)


def test_short_names_stand_for_published_models() -> None:
    assert model_id("base") == "facebook/dinov2-base"
    assert model_id("giant-registers") == "facebook/dinov2-with-registers-giant"
    assert model_id("someone/model") == "someone/model"
    assert len({preset.id for preset in MODELS.values()}) == 8
    assert {preset.registers for name, preset in MODELS.items() if "registers" in name} == {4}


def test_short_name_is_fetched_by_its_id() -> None:
    with pytest.raises(ModelError, match=r"facebook/dinov2-with-registers-small is not in the cache"):
        fetch_model("small-registers")
