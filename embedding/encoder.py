"""Images become unit vectors: the embeddings of a DINOv2 model."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from embedding.ahead import ahead
from embedding.fetch import MODEL_FILES, ModelError, fetch_snapshot
from embedding.models import Precision, model_id

if TYPE_CHECKING:  # slow imports
    import torch

    from embedding.forward import Forward, Launched
    from embedding.levels import InputForm, Levels

ROOT = Path(__file__).resolve().parent.parent

Pooling = Literal["cls", "mean", "both"]


@dataclass(frozen=True)
class ModelRef:
    """Which model made an index: `id` is a Hub id or a folder, `revision` a hash of the commit or folder.

    In a published index a folder outside the project is only its name: its path is nobody else's affair.
    `pooling` says what becomes the embedding: the CLS token, the mean of the patches, or both.
    """

    id: str
    revision: str
    pooling: Pooling = "cls"

    @property
    def name(self) -> str:
        """The id, of a folder outside the project only its last part: what visitors are told."""
        return Path(self.id).name if Path(self.id).is_absolute() else self.id


class Encoder(Protocol):
    """Turns images into embeddings of shape (n, dimension): float32 unit rows."""

    dimension: int

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]: ...

    def received(self, image: Image.Image) -> NDArray[np.float32]:
        """What the network is fed for an image: (3, side, side), resized and normalized."""
        ...


def fetch_model(model: str, revision: str | None = None) -> tuple[ModelRef, Path]:
    """The model's pinned reference and the folder with its files; a Hub id is downloaded, or cached already.

    A folder is looked for as given and then under the project's own folder; a short name of
    embedding/models.py stands for a Hub id. Raises ModelError.
    """
    for folder in (Path(model).expanduser(), ROOT / model):
        if (folder / "config.json").is_file():
            return ModelRef(_folder_id(folder), _folder_revision(folder)), folder
    model = model_id(model)
    folder = fetch_snapshot(model, revision)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ModelError(f"{model} has no config.json with safetensors weights, so it cannot be loaded.")
    return ModelRef(model, folder.name), folder


class Dinov2Encoder:
    """A DINOv2 model from a folder: L2-normalised embeddings of square images of any size and mode.

    `precision` is what it calculates in, "float32" or "bfloat16".
    """

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        pooling: Pooling = "cls",
        untrained_seed: int | None = None,
        precision: Precision = "auto",
        full_batch: int | None = None,
    ) -> None:
        """Loads the model, which takes seconds; with an `untrained_seed` its weights are random instead.

        A graphics card runs batches of `full_batch` images compiled; by default, of as many as the first
        large one has. Precision "auto" is bfloat16 where that is fast and gives the same embeddings, to a
        cosine of 0.9995.
        Raises ModelError if the folder holds no DINOv2 model, or it does not keep to "bfloat16".
        """
        # slow imports (3 to 20 s), kept out of every start that needs no model
        from embedding.precision import choose_precision
        from embedding.vit import PlainVit, fast_vit

        self.device = choose_device(device)
        model, self._form = _load(folder, untrained_seed)
        self._kinds: tuple[str, ...] = ("cls", "mean") if pooling == "both" else (pooling,)
        self._full_batch = full_batch
        self._on_card = self.device.startswith("cuda") and self._form.resample == Image.Resampling.BICUBIC
        self.dimension: int = model.config.hidden_size * len(self._kinds)
        fast = None
        if choose_precision(precision, self.device, model.config.hidden_size) == "bfloat16":
            fast = fast_vit(model, self._form, cls_only=pooling == "cls")
        self.precision: Precision = "float32"
        self._forward = self._on_device(PlainVit(model, self._form))
        if fast is None and precision == "bfloat16":
            raise ModelError(f"The model in {folder} cannot calculate in bfloat16: use float32.")
        if fast is not None:
            self._try(fast, insist=precision == "bfloat16")

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embeddings of shape (n, dimension), float32 unit rows."""
        if not images:
            return np.empty((0, self.dimension), np.float32)
        return self.collect(self.launch(self.read(images)))

    def read(self, images: Sequence[Image.Image]) -> "Levels":
        """The first third of `encode`, for a thread beside the model's: images are decoded and made alike."""
        from embedding.levels import read_levels  # slow import: torch

        if self._on_card:
            return read_levels(images, None).pinned()
        return read_levels(images, self._form)

    def launch(self, levels: "Levels") -> "Launched":
        """The second third: the model runs, on a graphics card while the caller goes on."""
        return self._forward.launch(levels)

    def collect(self, launched: "Launched") -> NDArray[np.float32]:
        """The last third: the embeddings, waited for."""
        rows = launched.collect()  # (n, kinds, d)
        return _unit(np.hstack([_unit(rows[:, kind]) for kind in range(rows.shape[1])]))

    def received(self, image: Image.Image) -> NDArray[np.float32]:
        """What the network is fed for an image: (3, side, side), resized and normalized."""
        from embedding.levels import normalized, read_levels  # slow import: torch

        return normalized(read_levels([image], self._form).parts[0], self._form)[0].numpy()

    def _on_device(self, network: object) -> "Forward":
        from embedding.forward import Forward  # slow import: torch

        return Forward(network, self.device, self._form.side, self._kinds, self._full_batch)

    def _try(self, fast: object, insist: bool) -> None:
        """Goes over to the fast network if it gives the same embeddings. Raises ModelError if it has to."""
        from embedding.precision import BOUND, probes  # slow import: torch

        images = probes(self._form.side)
        due = self.encode(images)
        plain, self._forward = self._forward, self._on_device(fast)
        cosine = float((self.encode(images) * due).sum(1).min())
        if cosine >= BOUND:
            self.precision = "bfloat16"
        elif insist:
            raise ModelError(
                f"In bfloat16 this model's embeddings differ (cosine {cosine:.4f}): use float32."
            )
        else:
            self._forward = plain


def encode_batches(
    encoder: Encoder, images: Iterable[Image.Image], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """The embeddings of `images` in order, one array of at most `batch_size` rows at a time.

    Images are decoded and made alike while the model is at earlier ones; a graphics card is kept one batch
    ahead of what was taken from it.
    """
    batches = _batches(iter(images), batch_size)
    if not isinstance(encoder, Dinov2Encoder):
        yield from map(encoder.encode, batches)
        return
    launched = None
    for levels in ahead(map(encoder.read, batches)):
        earlier, launched = launched, encoder.launch(levels)
        if earlier is not None:
            yield encoder.collect(earlier)
    if launched is not None:
        yield encoder.collect(launched)


def _batches(images: Iterator[Image.Image], batch_size: int) -> Iterator[list[Image.Image]]:
    while batch := list(islice(images, batch_size)):
        yield batch


def choose_device(device: str) -> str:
    """The torch device to use: "auto" takes CUDA, then Apple's MPS, then the CPU. Raises ModelError."""
    import torch  # slow import: 3 s

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, present in available.items() if present)
    if not available.get(device.split(":")[0], False):
        raise ModelError(f"The device {device} is not available here: use auto or cpu.")
    return device


def choose_batch_size(device: str) -> int:
    """How many images a batch holds: a graphics card is busy with many only."""
    return 512 if device.startswith("cuda") else 64


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _load(folder: Path, untrained_seed: int | None) -> tuple["torch.nn.Module", "InputForm"]:
    """The model in `folder` and the form of its input. Raises ModelError."""
    from transformers import AutoImageProcessor  # slow import, as above
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; the bars that matter are the build's own
    try:
        # backend="pil": it says the same about its steps with and without torchvision
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        model = _trained(folder) if untrained_seed is None else _untrained(folder, untrained_seed)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"The model in {folder} cannot be loaded: {_first_line(error)}") from None
    if not model.config.model_type.startswith("dinov2"):
        raise ModelError(f"The model in {folder} is a {model.config.model_type}, expected a DINOv2 model.")
    return model.eval(), _input_form(processor, model.config.image_size)


def _trained(folder: Path) -> "torch.nn.Module":
    import torch  # slow imports, as above
    from transformers import AutoModel

    return AutoModel.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )


def _untrained(folder: Path, seed: int) -> "torch.nn.Module":
    """The architecture of the model in `folder` with the random weights that training starts from."""
    import torch  # slow imports, as above
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModel.from_config(config, dtype=torch.float32)


def _folder_id(folder: Path) -> str:
    """The folder relative to the project where it lies inside, so that an index opens in every checkout."""
    resolved = folder.resolve()
    return resolved.relative_to(ROOT).as_posix() if resolved.is_relative_to(ROOT) else resolved.as_posix()


def _folder_revision(folder: Path) -> str:
    """A hash of the model's files, 40 hexadecimal digits as a commit has."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)}):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:40]


def _input_side(processor: object, image_size: int) -> int:
    """The side in pixels that the model is fed: its crop, or its size where it does not crop."""
    for size in (getattr(processor, "crop_size", None), getattr(processor, "size", None)):
        if size and (side := size.get("height") or size.get("shortest_edge")):
            return int(side)
    return image_size


def _input_form(processor: object, image_size: int) -> "InputForm":
    """The processor's steps but its center crop, which cuts off 12.5 % of every side: sleeves and toes."""
    from embedding.levels import InputForm  # slow import: torch

    normalizes = getattr(processor, "do_normalize", True)
    return InputForm(
        side=_input_side(processor, image_size),
        resample=int(processor.resample),
        factor=processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0,
        mean=tuple(processor.image_mean) if normalizes else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if normalizes else (1.0, 1.0, 1.0),
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
