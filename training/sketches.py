"""Sketches of images, made in other ways than the drawings that the student sees, to be asked with.

All functions take uint8 images (n, 28, 28), a light object on black, and return such: light lines on black.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Images = NDArray[np.uint8]
GROUND = 30  # gray levels up to this are ground
SCALE = 8  # lines are drawn this much larger and reduced
PEN = 10  # pixels of the enlarged picture
CORNERS = 16
SHAKE = 0.5  # pixels that a corner is off, standard deviation
STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # clockwise from the right


def outlines(images: Images) -> Images:
    """The contour of the enlarged, smoothed object, as a line of 1.25 pixels just inside of it."""
    enlarged = F.interpolate(torch.from_numpy(images)[:, None].float(), scale_factor=4, mode="bicubic")
    shape = (F.avg_pool2d(enlarged, 3, 1, 1) > GROUND).float()
    inner = -F.max_pool2d(-F.pad(shape, (5, 5, 5, 5)), 11, 1)
    lines = F.avg_pool2d(shape - inner, 4)[:, 0]
    return (255 * lines).round().to(torch.uint8).numpy()


def polygons(images: Images) -> Images:
    """The contour as a closed line through a few of its points, each put down with a shaking hand."""
    rng = np.random.default_rng(0)
    return np.stack([_polygon(image, rng) for image in images])


def edges(images: Images) -> Images:
    """Canny's edges, one pixel wide: outer and inner ones."""
    smooth = ndimage.gaussian_filter(images.astype(np.float32), (0, 1, 1), mode="constant")
    down, right = np.gradient(smooth, axis=(1, 2))
    strength = np.hypot(down, right)
    ridge = strength * _is_crest(strength, np.arctan2(down, right))
    high = 0.25 * strength.max((1, 2), keepdims=True)
    plane = np.zeros((3, 3, 3), bool)
    plane[1] = True  # edges go on within an image only
    return (255 * ndimage.binary_propagation(ridge > high, plane, mask=ridge > high / 2)).astype(np.uint8)


KINDS: dict[str, Callable[[Images], Images]] = {"outline": outlines, "polygon": polygons, "edges": edges}


def _is_crest(strength: NDArray[np.float32], angle: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the gradient is stronger than on both sides, looking along it in steps of 45 degrees."""
    sector = np.round(angle / (np.pi / 4)).astype(int) % 4
    crest = np.zeros(strength.shape, bool)
    for number, (down, right) in enumerate(STEPS[:4]):
        ahead, behind = (np.roll(strength, (sign * down, sign * right), (1, 2)) for sign in (-1, 1))
        crest |= (sector == number) & (strength >= ahead) & (strength > behind)
    return crest


def _polygon(image: Images, rng: np.random.Generator) -> Images:
    contour = _contour(image > GROUND)  # (m, 2) row, column
    start = rng.uniform(0, len(contour))
    corners = contour[
        (start + np.linspace(0, len(contour), CORNERS, endpoint=False)).astype(int) % len(contour)
    ]
    points = (corners + 0.5 + rng.normal(0, SHAKE, corners.shape)) * SCALE
    page = Image.new("L", (image.shape[1] * SCALE, image.shape[0] * SCALE))
    line = [(float(x), float(y)) for y, x in (*points, points[0], points[1])]
    ImageDraw.Draw(page).line(line, fill=255, width=PEN, joint="curve")
    return np.asarray(page.reduce(SCALE))


def _contour(shape: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The outer border of the largest connected part, walked clockwise to its start: (m, 2) row, column."""
    parts, count = ndimage.label(shape, np.ones((3, 3)))
    if count == 0:
        return np.array([[shape.shape[0] // 2, shape.shape[1] // 2]])
    part = np.pad(parts == 1 + np.argmax(np.bincount(parts.flat)[1:]), 1)
    start = tuple(int(at) for at in np.argwhere(part)[0])
    first = heading = _turn(part, start, 0)
    place, border = start, []
    while heading is not None:  # of a single pixel there is nowhere to go
        border.append(place)
        place = (place[0] + STEPS[heading][0], place[1] + STEPS[heading][1])
        heading = _turn(part, place, heading)
        if place == start and heading == first:
            break
    return np.array([*border, start]) - 1


def _turn(part: NDArray[np.bool_], place: tuple[int, int], heading: int) -> int | None:
    """The step to the next border pixel: the leftmost one, so that the ground stays to the left."""
    for turn in range(-3, 5):
        down, right = STEPS[(heading + turn) % 8]
        if part[place[0] + down, place[1] + right]:
            return (heading + turn) % 8
    return None
