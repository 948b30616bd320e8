"""Image files become pixels, and pixels become like the images of an index."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from embedding.ground import TOLERANCE, ground_level, ink_of

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
MAX_BYTES = 5 * 2**20
MAX_PIXELS = 25_000_000
PHOTO_SIDE = 256  # photos of mixed sizes are kept at most this large
WORKING_SIDE = 384  # a photo of an object is reduced to this first, which averages much of its noise away


class QueryError(ValueError):
    """What was asked cannot be answered; the message is one sentence for the person who asked."""


@dataclass(frozen=True)
class Preparation:
    """How a foreign image becomes one like the images of an index.

    `background` is the plain ground that the objects lie on, None where there is none. With one, an object is
    trimmed, scaled until its longest edge is `box` pixels, and centered by its bounding box or its mass on a
    canvas of `size` pixels. Without one, an image is shrunk to at most `size` pixels and padded to a square.
    """

    grayscale: bool = False
    background: Literal["dark", "light"] | None = None
    size: int = PHOTO_SIDE
    box: int = 0
    center: Literal["box", "mass"] = "box"


def open_image(
    file: Path | str | BinaryIO, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The first frame of an image file, upright, with 8 bits a channel, as L, RGB or RGBA.

    Pixels are counted before they are decoded. Raises QueryError for anything that is not a sound image.
    """
    _check_bytes(file, max_bytes)
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise QueryError(
            f"The image has more than {max_pixels / 1e6:.0f} million pixels: make it smaller."
        ) from None
    except Exception:  # Pillow's plugins raise struct.error, SyntaxError, ... on hostile headers
        raise QueryError("The file is not a PNG, JPEG, WebP, GIF, BMP or AVIF image.") from None
    if image.width * image.height > max_pixels:
        raise QueryError(
            f"The image has {image.width} x {image.height} pixels, more than {max_pixels / 1e6:.0f} million: "
            "make it smaller."
        )
    try:
        return _eight_bit(ImageOps.exif_transpose(image))
    except Exception:  # as above: a damaged body raises whatever its plugin trips over
        raise QueryError("The image is damaged and cannot be read.") from None


def prepare(image: Image.Image, preparation: Preparation) -> Image.Image:
    """A foreign image, made like the images of an index; its mode is L or RGB.

    An image that already has the index's size, mode and ground comes back untouched.
    """
    flat = flatten(image)
    if preparation.background is None:
        return conform(flat, preparation)
    gray = np.asarray(flat.convert("L"), np.float32)
    size = preparation.size
    if gray.shape == (size, size) and (ground_level(gray) > 127) == (preparation.background == "light"):
        return conform(flat, preparation)
    return _refit(flat, preparation)


def conform(image: Image.Image, preparation: Preparation) -> Image.Image:
    """An image of the data set itself: only its mode, squareness and upper size are seen to."""
    flat = flatten(image).convert("L" if preparation.grayscale else "RGB")
    return _padded(shrink(flat, preparation.size))


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with its longest edge at most `side` pixels, its aspect kept."""
    longest = max(image.size)
    if longest <= side:
        return image
    edges = (max(1, round(image.width * side / longest)), max(1, round(image.height * side / longest)))
    return image.resize(edges, Image.Resampling.LANCZOS, reducing_gap=3.0)


def flatten(image: Image.Image) -> Image.Image:
    """The image without transparency, as L or RGB: on white, or on black where what is visible is light."""
    if image.mode != "RGBA":
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    alpha = np.asarray(image.getchannel("A"), np.float32)
    gray = np.asarray(image.convert("RGB").convert("L"), np.float32)
    light = float((gray * alpha).sum()) > 191 * float(alpha.sum())
    ground = Image.new("RGBA", image.size, "black" if light else "white")
    ground.alpha_composite(image)
    return ground.convert("RGB")


def is_blank(image: Image.Image) -> bool:
    """Whether nothing stands out from the background by more than 5 %, or its noise."""
    gray = np.asarray(shrink(flatten(image), WORKING_SIDE).convert("L"), np.float32)
    return not ink_of(gray)[1].any()


def infer_preparation(images: Sequence[Image.Image]) -> Preparation:
    """The Preparation that these images of a data set were made by, as far as their pixels tell."""
    grayscale = all(_is_gray(image) for image in images)
    sizes = {image.size for image in images}
    side = min(PHOTO_SIDE, max(max(size) for size in sizes))
    if sizes != {(side, side)}:
        return Preparation(grayscale, size=side)
    grays = [np.asarray(flatten(image).convert("L"), np.float32) for image in images]
    background = _common_ground(grays) if grayscale else None
    if background is None:
        return Preparation(grayscale, size=side)
    inks = [_ink(gray, background) for gray in grays]
    inks = [ink for ink in inks if ink.max() > TOLERANCE]
    if not inks:
        return Preparation(grayscale, size=side)
    boxes = np.array([_box(ink > TOLERANCE) for ink in inks])
    longest = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    by_box = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - side / 2).mean()
    by_mass = np.abs(np.array([_mass(ink) for ink in inks]) - side / 2).mean()
    return Preparation(True, background, side, int(np.median(longest)), "mass" if by_mass < by_box else "box")


def _check_bytes(file: Path | str | BinaryIO, max_bytes: int) -> None:
    if isinstance(file, Path | str):
        try:
            size = Path(file).stat().st_size
        except OSError:
            raise QueryError("The image file cannot be read.") from None
    else:
        size = file.seek(0, 2)
        file.seek(0)
    if size == 0:
        raise QueryError("The file is empty.")
    if size > max_bytes:
        raise QueryError(f"The file has {size / 2**20:.1f} MB; the limit is {max_bytes / 2**20:.0f} MB.")


def _eight_bit(image: Image.Image) -> Image.Image:
    if (
        image.mode.startswith("I") or image.mode == "F"
    ):  # Pillow's convert("L") clips 16 bits instead of scaling
        values = np.asarray(image, np.float32)
        scale = 257 if image.mode.startswith("I;16") or values.max() > 255 else 1
        return Image.fromarray((values / scale).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return rgba if rgba.getchannel("A").getextrema()[0] < 255 else rgba.convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _common_ground(grays: Sequence[NDArray[np.float32]]) -> Literal["dark", "light"] | None:
    """The ground that at least nine in ten images share, None if there is none."""
    grounds = np.array([ground_level(gray) for gray in grays])
    if (grounds <= TOLERANCE).mean() >= 0.9:
        return "dark"
    return "light" if (grounds >= 255 - TOLERANCE).mean() >= 0.9 else None


def _ink(gray: NDArray[np.float32], ground: Literal["dark", "light"]) -> NDArray[np.float32]:
    return gray if ground == "dark" else 255 - gray


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is true; the whole where nothing is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _mass(ink: NDArray[np.float32]) -> tuple[float, float]:
    """x and y of the center of mass, in pixels from the upper left edge."""
    total = float(ink.sum()) or 1.0
    x = float(ink.sum(0) @ (np.arange(ink.shape[1]) + 0.5)) / total
    y = float(ink.sum(1) @ (np.arange(ink.shape[0]) + 0.5)) / total
    return x, y


def _refit(image: Image.Image, preparation: Preparation) -> Image.Image:
    """The object on `image`, trimmed, scaled to the box and centered on a canvas of the data set's ground."""
    pixels = np.asarray(shrink(image, WORKING_SIDE).convert("L"), np.float32)
    ink, mask = ink_of(pixels)
    left, top, right, bottom = _box(mask)
    cut = Image.fromarray(ink[top:bottom, left:right].round().astype(np.uint8))
    size = preparation.size
    scale = preparation.box / max(cut.size)
    edges = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    small = cut.resize(edges, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if scale < 1:
        small = small.filter(ImageFilter.UnsharpMask(radius=1, percent=50, threshold=0))
    canvas = Image.new("L", (size, size), 0)
    canvas.paste(small, _corner(small, preparation))
    if preparation.background == "light":
        canvas = ImageOps.invert(canvas)
    return canvas if preparation.grayscale else canvas.convert("RGB")


def _corner(small: Image.Image, preparation: Preparation) -> tuple[int, int]:
    """Where the upper left corner of the scaled object goes, so that it is centered and on the canvas."""
    size = preparation.size
    if preparation.center == "box":
        return (size - small.width + 1) // 2, (size - small.height + 1) // 2  # Fashion-MNIST rounds up
    x, y = _mass(np.asarray(small, np.float32))
    left, top = (
        size // 2 - int(x),
        size // 2 - int(y),
    )  # MNIST's own rounding: the mass lies in the pixel size // 2
    return min(max(left, 0), size - small.width), min(max(top, 0), size - small.height)


def _padded(image: Image.Image) -> Image.Image:
    """The image on a square, the margin in the median color of its own border."""
    if image.width == image.height:
        return image
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    color = np.median(border, axis=0).astype(np.uint8)
    side = max(image.size)
    canvas = Image.new(image.mode, (side, side), int(color) if image.mode == "L" else tuple(color.tolist()))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _is_gray(image: Image.Image) -> bool:
    if image.mode == "L":
        return True
    pixels = np.asarray(image.convert("RGB"))
    return bool((pixels.max(2) - pixels.min(2)).max() <= 2)
