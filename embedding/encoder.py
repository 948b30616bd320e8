"""Images become unit vectors: the embeddings of a DINOv2 model."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from embedding.fetch import MODEL_FILES, ModelError, fetch_snapshot
from embedding.models import model_id

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
    """A DINOv2 model from a folder: L2-normalised embeddings of square images."""

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        pooling: Pooling = "cls",
        untrained_seed: int | None = None,
    ) -> None:
        """Loads the model, which takes seconds; with an `untrained_seed` its weights are random instead.

        Raises ModelError if the folder holds no DINOv2 model.
        """
        # slow imports (3 to 20 s), kept out of every start that needs no model
        import torch
        from transformers import AutoImageProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()  # loading takes a second; the bars that matter are the build's own

        self._torch = torch
        self.device = choose_device(device)
        try:
            # backend="pil": the same pixels on machines with and without torchvision
            self._processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
            model = _load_model(folder) if untrained_seed is None else _untrained(folder, untrained_seed)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"The model in {folder} cannot be loaded: {_first_line(error)}") from None
        if not model.config.model_type.startswith("dinov2"):
            raise ModelError(
                f"The model in {folder} is a {model.config.model_type}, expected a DINOv2 model."
            )
        self._model = model.eval().to(self.device)
        self._side = _input_side(self._processor, model.config.image_size)
        self._pooling = pooling
        self._patches_from = 1 + getattr(model.config, "num_register_tokens", 0)
        self.dimension: int = model.config.hidden_size * (2 if pooling == "both" else 1)

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embeddings of shape (n, dimension), float32 unit rows, of square images of any size and mode."""
        if not images:
            return np.empty((0, self.dimension), np.float32)
        pixels = self._torch.from_numpy(self._pixels(images)).to(self.device)
        with self._torch.inference_mode():
            hidden = self._model(pixel_values=pixels).last_hidden_state
            cls = hidden[:, 0].float().cpu().numpy()  # (n, d), after the last LayerNorm
            mean = hidden[:, self._patches_from :].mean(1).float().cpu().numpy()
        parts = {"cls": [cls], "mean": [mean], "both": [cls, mean]}[self._pooling]
        return _unit(np.hstack([_unit(part) for part in parts]))

    def received(self, image: Image.Image) -> NDArray[np.float32]:
        """What the network is fed for an image: (3, side, side), resized and normalized."""
        return self._pixels([image])[0]

    def _pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """The images as the network's input, (n, 3, side, side)."""
        inputs = self._processor(
            [image.convert("RGB") for image in images],
            size={"height": self._side, "width": self._side},
            do_center_crop=False,  # the default crop cuts 12.5 % off every side, where sleeves and toes are
            return_tensors="np",
        )
        return inputs["pixel_values"]


def encode_batches(
    encoder: Encoder, images: Iterable[Image.Image], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """The embeddings of `images` in order, one array of at most `batch_size` rows at a time."""
    remaining = iter(images)
    while batch := list(islice(remaining, batch_size)):
        yield encoder.encode(batch)


def choose_device(device: str) -> str:
    """The torch device to use: "auto" takes CUDA, then Apple's MPS, then the CPU. Raises ModelError."""
    import torch  # slow import: 3 s

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, present in available.items() if present)
    if not available.get(device.split(":")[0], False):
        raise ModelError(f"The device {device} is not available here: use auto or cpu.")
    return device


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _load_model(folder: Path) -> object:
    import torch  # slow imports, as above
    from transformers import AutoModel

    return AutoModel.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )


def _untrained(folder: Path, seed: int) -> object:
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


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
