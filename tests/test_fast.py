"""The fast ways to embed give what the plain way gives, in order, and survive what goes wrong."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, Thread

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from embedding.ahead import ahead
from embedding.batcher import Batcher
from embedding.encoder import Dinov2Encoder, ModelError, Pooling, encode_batches
from embedding.forward import Forward
from embedding.levels import InputForm, joined, normalized, read_levels, resized
from embedding.precision import BOUND, choose_precision, probes
from embedding.vit import FastVit, PlainVit, fast_vit, linear_gelu
from tests.conftest import MODEL
from tests.pictures import noise, seven

FORM = InputForm(28, Image.Resampling.BICUBIC, 1 / 255, (0.286,) * 3, (0.353,) * 3)


@pytest.fixture(scope="module")
def plain() -> Dinov2Encoder:
    return Dinov2Encoder(MODEL, "cpu", precision="float32")


def pictures() -> list[Image.Image]:
    """Images of several sizes and modes, among them two of one kind that do not stand together."""
    rng = np.random.default_rng(5)
    rgba = Image.fromarray(rng.integers(0, 256, (40, 40, 4), np.uint8))
    return [
        seven(),
        noise(28, 28),
        noise(300, 300).convert("RGB"),
        noise(13, 13),
        noise(50, 50).convert("1"),
        noise(64, 64).quantize(16),
        rgba,
        seven().rotate(90),
    ]


# --- preparation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [14, 28, 224])
@pytest.mark.parametrize("size", [(28, 28), (14, 14), (1, 1), (3, 200), (100, 61), (224, 224), (640, 479)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_device_resizes_as_pillow_does_within_one_level(side: int, size: tuple[int, int], mode: str) -> None:
    rng = np.random.default_rng(1)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    hard = np.where(rng.random(shape) < 0.5, rng.integers(0, 256, shape), 255 * rng.integers(0, 2, shape))
    image = Image.fromarray(hard.astype(np.uint8))
    found = resized(read_levels([image], None).parts[0], side)[0].permute(1, 2, 0).numpy().astype(int)
    due = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), int).reshape(found.shape)
    assert np.abs(found - due).max() <= 1


def test_levels_become_the_processors_pixel_values() -> None:
    processor = AutoImageProcessor.from_pretrained(MODEL, backend="pil")
    images = pictures()
    due = processor(
        [image.convert("RGB") for image in images],
        size={"height": 28, "width": 28},
        do_center_crop=False,
        return_tensors="pt",
    )["pixel_values"]
    read = read_levels(images, FORM)
    assert torch.equal(normalized(joined(read.parts, read.places), FORM).expand(-1, 3, -1, -1), due)
    raw = read_levels(images, None)  # as on a graphics card: resized there
    made = joined([resized(part, 28) for part in raw.parts], raw.places)
    assert (normalized(made, FORM) - due).abs().max() <= 1.001 / 255 / 0.353


# --- the model ---------------------------------------------------------------------------------------------


def tiny(kind: str) -> torch.nn.Module:
    """A small model with weights that are nothing special anywhere."""
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 7}
    config, model = {
        "gelu": (Dinov2Config, Dinov2Model),
        "gated": (Dinov2Config, Dinov2Model),
        "registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
    }[kind]
    torch.manual_seed(0)
    made = model(config(image_size=42, use_swiglu_ffn=kind == "gated", qkv_bias=kind != "gated", **common))
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return made.eval()


@pytest.mark.parametrize("kind", ["gelu", "gated", "registers"])
@pytest.mark.parametrize("channels", [1, 3])
def test_fast_network_is_the_models_own_function(kind: str, channels: int) -> None:
    model = tiny(kind)
    levels = torch.randint(0, 256, (3, channels, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        due = PlainVit(model, FORM)(levels)
        whole = FastVit(model, FORM, cls_only=False, dtype=torch.float32)
        assert torch.allclose(whole(levels), due, atol=1e-4)
        assert whole.leading == PlainVit(model, FORM).leading
        first = FastVit(model, FORM, cls_only=True, dtype=torch.float32)(levels)
    assert torch.allclose(first, due[:, :1], atol=1e-4)


def test_gelu_inside_the_product_is_gelu_after_it() -> None:
    tokens, weight, bias = (torch.randn(shape) for shape in ((2, 5, 16), (24, 16), (24,)))
    due = torch.nn.functional.gelu(torch.nn.functional.linear(tokens, weight, bias))
    assert torch.allclose(linear_gelu(tokens, weight, bias), due, atol=1e-3)
    with torch._subclasses.FakeTensorMode() as fake:
        shapes = [fake.from_tensor(tensor) for tensor in (tokens, weight, bias)]
        assert linear_gelu(*shapes).shape == due.shape


@pytest.mark.parametrize("pooling", ["cls", "mean", "both"])
def test_bfloat16_keeps_the_embeddings(pooling: Pooling) -> None:
    images = pictures()
    due = Dinov2Encoder(MODEL, "cpu", pooling, precision="float32").encode(images)
    fast = Dinov2Encoder(MODEL, "cpu", pooling, precision="bfloat16")
    assert fast.precision == "bfloat16"
    assert (fast.encode(images) * due).sum(1).min() > 0.999


def test_float32_is_transformers_own_model(plain: Dinov2Encoder) -> None:
    processor = AutoImageProcessor.from_pretrained(MODEL, backend="pil")
    model = AutoModel.from_pretrained(MODEL, dtype=torch.float32).eval()
    images = [image.convert("RGB") for image in pictures()]
    square = {"size": {"height": 28, "width": 28}, "do_center_crop": False, "return_tensors": "pt"}
    with torch.inference_mode():
        due = model(**processor(images, **square)).last_hidden_state[:, 0].numpy()
    for _ in range(2):
        due /= np.linalg.norm(due, axis=1, keepdims=True)
    assert np.array_equal(plain.encode(images), due)


@pytest.fixture
def delicate(tmp_path: Path) -> Path:
    """A model whose tokens share an offset that eats up the digits which bfloat16 has."""
    model = AutoModel.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        model.embeddings.position_embeddings.add_(1e4)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((MODEL / "preprocessor_config.json").read_bytes())
    return tmp_path


def test_model_that_bfloat16_would_change_stays_in_float32(
    delicate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"In bfloat16 .* use float32\."):
        Dinov2Encoder(delicate, "cpu", precision="bfloat16")
    monkeypatch.setattr("embedding.precision.choose_precision", lambda *asked: "bfloat16")
    encoder = Dinov2Encoder(delicate, "cpu", precision="auto")
    assert encoder.precision == "float32"
    due = Dinov2Encoder(delicate, "cpu", precision="float32")
    assert np.array_equal(encoder.encode(probes(28)), due.encode(probes(28)))


def test_bundled_model_calculates_in_float32_on_a_processor() -> None:
    assert choose_precision("auto", "cpu", 192) == "float32"
    assert choose_precision("auto", "mps", 768) == "float32"
    assert choose_precision("bfloat16", "cpu", 192) == "bfloat16"
    assert BOUND > 0.999  # what an index asks for when it is opened elsewhere


def test_weights_of_unknown_names_are_left_to_transformers() -> None:
    model = tiny("gelu")
    model.layernorm = torch.nn.Sequential(model.layernorm)
    assert fast_vit(model, FORM, cls_only=True) is None


def test_received_pixels_are_what_the_network_sees(plain: Dinov2Encoder) -> None:
    read = read_levels([noise(50, 50)], FORM)
    assert np.array_equal(Batcher(plain).received(noise(50, 50)), normalized(read.parts[0], FORM)[0])
    assert plain.received(seven()).shape == (3, 28, 28)


# --- out of memory -----------------------------------------------------------------------------------------


class Cramped(torch.nn.Module):
    """A network with memory for three images; it notes how many it was asked for."""

    leading = 1

    def __init__(self, network: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.network, self.room, self.asked = network, room, []

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(levels))
        if len(levels) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return self.network(levels)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    plain = PlainVit(AutoModel.from_pretrained(MODEL, dtype=torch.float32), FORM)
    levels = read_levels([noise(28, 28).rotate(20 * turn) for turn in range(10)], FORM)
    due = Forward(plain, "cpu", 28, ("cls",))(levels)
    cramped = Cramped(plain, room=3)
    forward = Forward(cramped, "cpu", 28, ("cls",))
    assert np.allclose(forward(levels), due, atol=1e-5)
    assert cramped.asked == [10, 5, 2, 2, 2, 2, 2]
    forward(levels)  # it has learnt
    assert max(cramped.asked[7:]) == 2


def test_out_of_memory_for_a_single_image_is_an_error() -> None:
    plain = PlainVit(AutoModel.from_pretrained(MODEL, dtype=torch.float32), FORM)
    with pytest.raises(torch.OutOfMemoryError):
        Forward(Cramped(plain, room=0), "cpu", 28, ("cls",))(read_levels([seven(), seven()], FORM))


# --- ahead of the model ------------------------------------------------------------------------------------


def test_batches_come_in_order_from_another_thread(plain: Dinov2Encoder) -> None:
    threads = set()

    def opened() -> Iterator[Image.Image]:
        for turn in range(11):
            threads.add(threading.current_thread())
            yield noise(28, 28).rotate(7 * turn)

    parts = list(encode_batches(plain, opened(), 4))
    assert [len(part) for part in parts] == [4, 4, 3]
    due = plain.encode([noise(28, 28).rotate(7 * turn) for turn in range(11)])
    assert np.allclose(np.concatenate(parts), due, atol=1e-5)
    assert threading.main_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_no_images_are_no_batches(plain: Dinov2Encoder) -> None:
    assert list(encode_batches(plain, iter([]), 4)) == []


def test_error_ahead_is_raised_where_the_items_are_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("broken image")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="broken image"):
        next(found)


def test_no_more_is_made_ahead_than_asked_for() -> None:
    made: list[int] = []
    third = Event()

    def items() -> Iterator[int]:
        for item in range(100):
            made.append(item)
            if item == 2:
                third.set()
            yield item

    found = ahead(items(), most=2)
    assert next(found) == 0
    assert third.wait(10)
    found.close()  # the thread has ended when this returns
    assert len(made) <= 3


def test_interrupt_ends_the_consumer_and_its_thread() -> None:
    makers = []

    def items() -> Iterator[int]:
        makers.append(threading.current_thread())
        yield 1
        os.kill(os.getpid(), signal.SIGINT)
        yield from range(10**9)

    with pytest.raises(KeyboardInterrupt):
        for _ in ahead(items()):
            pass
    makers[0].join(10)
    assert not makers[0].is_alive()


# --- bursts ------------------------------------------------------------------------------------------------


class Gated:
    """The real encoder behind a gate, so that calls pile up; it notes batches, and refuses one size."""

    def __init__(self, encoder: Dinov2Encoder) -> None:
        self.dimension = encoder.dimension
        self.batches: list[int] = []
        self.entered, self.gate = Event(), Event()
        self._encoder = encoder

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        self.entered.set()
        assert self.gate.wait(30)
        if any(image.size == (1, 1) for image in images):
            raise ValueError("too small")
        return self._encoder.encode(images)


def in_threads(batcher: Batcher, gated: Gated, calls: list[list[Image.Image]]) -> list[object]:
    """What each call gives or raises: the first is inside the encoder before the others begin."""
    results: list[object] = [None] * len(calls)

    def call(number: int) -> None:
        try:
            results[number] = batcher.encode(calls[number])
        except ValueError as error:
            results[number] = error

    threads = [Thread(target=call, args=(number,)) for number in range(len(calls))]
    threads[0].start()
    assert gated.entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    while len(batcher._waiting) < len(calls) - 1:
        pass
    gated.gate.set()
    for thread in threads:
        thread.join(60)
    return results


def test_burst_of_uploads_shares_a_forward_pass(plain: Dinov2Encoder) -> None:
    gated = Gated(plain)
    calls = [[noise(28, 28).rotate(10 * turn)] for turn in range(9)]
    results = in_threads(Batcher(gated), gated, calls)
    assert gated.batches == [1, 8]
    for images, rows in zip(calls, results, strict=True):
        assert np.allclose(rows, plain.encode(images), atol=1e-5)


def test_lone_query_runs_at_once(plain: Dinov2Encoder) -> None:
    gated = Gated(plain)
    gated.gate.set()
    assert Batcher(gated).encode([seven()]).shape == (1, 192)
    assert gated.batches == [1]


def test_error_of_one_upload_fails_no_other(plain: Dinov2Encoder) -> None:
    gated = Gated(plain)
    calls = [[seven()], [noise(28, 28)], [Image.new("L", (1, 1))], [seven(), noise(28, 28)]]
    results = in_threads(Batcher(gated), gated, calls)
    assert isinstance(results[2], ValueError)
    for place in (0, 1, 3):
        assert np.allclose(results[place], plain.encode(calls[place]), atol=1e-5)


def test_many_threads_each_get_their_own(plain: Dinov2Encoder) -> None:
    batcher, start = Batcher(plain), Barrier(12)
    faults: list[str] = []

    def visit(number: int) -> None:
        images = [noise(28, 28).rotate(5 * number + turn) for turn in range(1 + number % 3)]
        due = plain.encode(images)
        start.wait()
        for _ in range(4):
            if not np.allclose(batcher.encode(images), due, atol=1e-5):
                faults.append(f"thread {number}")

    threads = [Thread(target=visit, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert faults == []


def test_form_is_the_processors_without_its_crop(plain: Dinov2Encoder) -> None:
    assert replace(plain._form, factor=1 / 255) == FORM
