"""Images become levels: uint8 tensors, resized on any device to the values that Pillow gives."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

BICUBIC = -0.5  # the parameter that Pillow's bicubic filter has
REACH = 2.0  # of that filter, in pixels
PRECISION = 2**22  # Pillow rounds the filter's weights for 8-bit images to this fraction
LARGE = 128 * 128  # pixels from which on decoding leaves Python free for other threads


@dataclass(frozen=True)
class InputForm:
    """What a model is fed: square images of `side` pixels, (level * factor - mean) / std in each channel.

    `resample` is the number of Pillow's filter that they are resized by.
    """

    side: int
    resample: int
    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Levels:
    """Images as uint8 tensors of shape (m, channels, height, width), one for each form that occurs.

    parts[i] holds the images at the positions places[i]; channels are 1 (gray) or 3.
    """

    parts: tuple[torch.Tensor, ...]
    places: tuple[tuple[int, ...], ...]

    def pinned(self) -> "Levels":
        """The same in memory that a graphics card copies from while everything goes on."""
        return Levels(tuple(part.pin_memory() for part in self.parts), self.places)


def read_levels(images: Sequence[Image.Image], form: InputForm | None) -> Levels:
    """The decoded images, resized by Pillow to the form's squares.

    Without a form they stay as large as they are, and all cores decode large ones: a graphics card waits.
    """
    decode = partial(_decoded, form=form)
    if form is None and images and images[0].width * images[0].height >= LARGE:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(decode, images))
    else:
        found = list(map(decode, images))
    groups: dict[tuple[int, int, int], list[int]] = {}
    for place, (shape, _) in enumerate(found):
        groups.setdefault(shape, []).append(place)
    parts = (_stacked(shape, [found[place][1] for place in group]) for shape, group in groups.items())
    return Levels(tuple(parts), tuple(map(tuple, groups.values())))


def joined(parts: Sequence[torch.Tensor], places: Sequence[Sequence[int]]) -> torch.Tensor:
    """Parts of one size as one batch in the order of the places; beside color, gray gets three channels."""
    if len(parts) == 1:
        return parts[0]
    channels = max(part.shape[1] for part in parts)
    order = torch.tensor([place for group in places for place in group]).argsort()
    batch = torch.cat([part.expand(-1, channels, -1, -1) for part in parts])
    return batch[order.to(batch.device)]


def resized(levels: torch.Tensor, side: int) -> torch.Tensor:
    """Levels (n, c, h, w) as (n, c, side, side), at most one level from what Pillow's bicubic filter gives.

    As in Pillow the filter widens where an image shrinks, and rows are rounded to 8 bits before columns.
    """
    height, width = levels.shape[2:]
    if width != side:
        levels = _rounded(levels.float() @ _filter(width, side, levels.device).T)
    if height != side:
        levels = _rounded(_filter(height, side, levels.device) @ levels.float())
    return levels


def normalized(levels: torch.Tensor, form: InputForm) -> torch.Tensor:
    """Levels (n, 1 or 3, side, side) as the float32 pixel values (n, 3, side, side) of the processor."""
    scaled = (levels.double() * form.factor).float()  # in this precision, as the processor does
    mean, std = (torch.tensor(of).view(3, 1, 1).to(levels.device) for of in (form.mean, form.std))
    return (scaled - mean) / std


def bicubic_weights(size: int, side: int) -> NDArray[np.float32]:
    """The matrix (side, size) by which Pillow makes `side` pixels of a row of `size` pixels."""
    scale = size / side
    widened = max(scale, 1.0)
    centers = (np.arange(side) + 0.5) * scale
    first = np.maximum((centers - REACH * widened + 0.5).astype(int), 0)
    last = np.minimum((centers + REACH * widened + 0.5).astype(int), size)
    pixels = np.arange(size)
    weights = _bicubic((pixels - centers[:, None] + 0.5) / widened)
    weights[(pixels < first[:, None]) | (pixels >= last[:, None])] = 0
    weights /= weights.sum(1, keepdims=True)
    return (np.round(weights * PRECISION) / PRECISION).astype(np.float32)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((BICUBIC + 2) * x - (BICUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * BICUBIC
    return np.where(x < 1, near, np.where(x < REACH, far, 0.0))


@lru_cache(maxsize=256)
def _filter(size: int, side: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(bicubic_weights(size, side)).to(device)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return (values + 0.5).floor_().clamp_(0, 255).to(torch.uint8)  # halves go up, as in Pillow


def _decoded(image: Image.Image, form: InputForm | None) -> tuple[tuple[int, int, int], bytes]:
    """The shape (height, width, 1 or 3) of an image and its levels in that order.

    Bytes, for an array of each small image takes longer than a graphics card does for its embedding.
    """
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if form is not None and image.size != (form.side, form.side):
        image = image.resize((form.side, form.side), form.resample)
    return (image.height, image.width, len(image.mode)), image.tobytes()


def _stacked(shape: tuple[int, int, int], levels: list[bytes]) -> torch.Tensor:
    """Images of one shape as a tensor (n, channels, height, width)."""
    together = bytearray().join(levels)  # not bytes: torch takes no memory that it may not write to
    return torch.frombuffer(together, dtype=torch.uint8).view(-1, *shape).permute(0, 3, 1, 2)
