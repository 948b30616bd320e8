"""The plain ground that an object was photographed or drawn on, and what stands out from it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

TOLERANCE = 13  # 5 % of 255: how far a pixel may be from the ground and still belong to it
SHADING = 110  # corners that differ by more are not one shaded ground but have something on them
FITS = 3
THINNED = 7  # a surface of six numbers needs no more than every seventh pixel


def ground_level(gray: NDArray[np.float32]) -> float:
    """The grey level of the ground: the median over the corners, each a small patch."""
    return float(np.median(_corners(gray)))


def ink_of(gray: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """How far each pixel of `gray` stands out from the ground, 0 to 255, and which do so beyond noise.

    On a light ground ink is dark, on a dark one light; the ground itself becomes 0, its shading with it.
    """
    field = _ground_field(gray)
    light = ground_level(gray) > 127
    ink = 255 * ((field - gray) / field if light else (gray - field) / (255 - field)).clip(0, 1)
    noise = _noise(gray - field)
    if noise < 1:
        return ink, ink > TOLERANCE
    smooth = Image.fromarray(ink.astype(np.uint8)).filter(ImageFilter.MedianFilter(3))
    return ink, np.asarray(smooth) > max(TOLERANCE, 3 * noise)


def _corners(gray: NDArray[np.float32]) -> NDArray[np.float64]:
    """The median levels of the corners: upper left, upper right, lower left, lower right."""
    edge = max(1, min(gray.shape) // 28)
    ends = (slice(None, edge), slice(-edge, None))
    return np.array([np.median(gray[rows, columns]) for rows in ends for columns in ends])


def _ground_field(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """The ground's level at every pixel: one level, or a smooth surface where the corners differ."""
    corners = _corners(gray)
    level = np.float32(np.median(corners))
    if (
        np.sort(np.abs(corners - level))[2] <= 2
    ):  # three corners agree: drawn, scanned, or cut out by a program
        return np.full_like(gray, level)
    y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in gray.shape)
    x, y = np.meshgrid(x, y)
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    start = corners if np.ptp(corners) <= SHADING else np.full(4, level)
    field = (terms[..., :4] @ _bilinear(start)).astype(np.float32)
    for _ in range(FITS):
        ground = np.abs(gray - field) <= max(TOLERANCE, 3 * _noise(gray - field))
        if ground.sum() < 0.1 * gray.size:
            break
        factors, *_ = np.linalg.lstsq(terms[ground][::THINNED], gray[ground][::THINNED], rcond=None)
        field = terms @ factors
    return field.clip(1, 254)


def _bilinear(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factors of 1, x, y, xy for the surface through the corners (-1, -1), (1, -1), (-1, 1), (1, 1)."""
    signs = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]])
    return signs @ corners / 4


def _noise(rest: NDArray[np.float32]) -> float:
    """The standard deviation, robustly, of what is left of the corners without their ground."""
    edge = max(1, min(rest.shape) // 14)
    ends = (slice(None, edge), slice(-edge, None))
    spreads = [np.median(np.abs(rest[rows, columns])) for rows in ends for columns in ends]
    return 1.4826 * float(np.median(spreads))
