"""The bundled model is the model it was, and any DINOv2 model loads the same way."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedding.encoder import Dinov2Encoder, ModelError, choose_device, encode_batches, fetch_model
from index.store import Index
from tests.conftest import MODEL
from tests.pictures import noise, seven

# item 0 of the sample, embedded with torch 2.13.0 on a CPU: its first eight numbers
RECORDED = np.array([-0.06493, 0.0196, 0.11389, -0.27885, -0.0529, 0.03688, -0.17354, 0.01107], np.float32)


def images_of(index: Index, items: list[int]) -> list[Image.Image]:
    return [Image.open(BytesIO(index.images[item])) for item in items]


def test_bundled_model_gives_the_recorded_numbers(encoder: Dinov2Encoder, sample: Index) -> None:
    embedding = encoder.encode(images_of(sample, [0]))[0]
    assert embedding.shape == (192,)
    assert np.allclose(embedding[:8], RECORDED, atol=2e-4)


def test_bundled_model_made_the_bundled_sample(encoder: Dinov2Encoder, sample: Index) -> None:
    items = list(range(0, 5000, 500))
    again = encoder.encode(images_of(sample, items))
    assert (again * sample.embeddings[items]).sum(1).min() > 0.9999


def test_embeddings_are_float32_unit_rows(encoder: Dinov2Encoder) -> None:
    embeddings = encoder.encode([seven(), noise(28, 28), noise(300, 300)])
    assert embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_batching_does_not_change_an_embedding(encoder: Dinov2Encoder, sample: Index) -> None:
    images = images_of(sample, list(range(10)))
    parts = list(encode_batches(encoder, iter(images), 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert np.allclose(np.concatenate(parts), encoder.encode(images), atol=1e-5)
    assert encoder.encode([]).shape == (0, 192)


def test_nothing_is_cropped_away(encoder: Dinov2Encoder) -> None:
    plain = Image.new("L", (280, 280), 0)
    framed = plain.copy()
    framed.paste(255, (0, 0, 280, 12))  # only within the margin that a center crop would cut off
    first, second = encoder.encode([plain, framed])
    assert first @ second < 0.99


def test_model_is_pinned_by_its_content(tmp_path: Path) -> None:
    reference, folder = fetch_model(str(MODEL))
    assert reference.id == "assets/model"
    assert len(reference.revision) == 40
    assert fetch_model("assets/model")[0] == reference
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert fetch_model(str(tmp_path))[0].revision == reference.revision
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    assert fetch_model(str(tmp_path))[0].revision != reference.revision


@pytest.mark.parametrize("model", ["no/such/folder/here", "nobody/has-this-model", "../x"])
def test_missing_model_is_said_in_a_sentence(model: str) -> None:
    with pytest.raises(ModelError, match=r"model .*\.$"):
        fetch_model(model)


def test_damaged_model_is_said_in_a_sentence(tmp_path: Path) -> None:
    for file in MODEL.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        Dinov2Encoder(tmp_path)


def test_other_architecture_is_refused(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28
    )
    ViTModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((MODEL / "preprocessor_config.json").read_bytes())
    with pytest.raises(ModelError, match="expected a DINOv2 model"):
        Dinov2Encoder(tmp_path)


@pytest.mark.slow
def test_full_size_model_runs_at_224_pixels(tmp_path: Path) -> None:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    Dinov2Model(Dinov2Config(image_size=518, patch_size=14)).save_pretrained(tmp_path)
    BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, do_convert_rgb=True
    ).save_pretrained(tmp_path)
    encoder = Dinov2Encoder(tmp_path, "cpu")
    assert encoder.dimension == 768
    assert encoder.encode([seven(), noise(500, 500)]).shape == (2, 768)


def test_absent_device_is_said_in_a_sentence() -> None:
    with pytest.raises(ModelError, match="not available here"):
        choose_device("tpu")
    assert choose_device("cpu") == "cpu"
