"""What teacher and student get to see of a batch: crops and drawings, made on the images' own device.

Every function takes and returns float images of shape (n, channels, height, width) in 0 to 1, a light object
on a dark ground, and draws from torch's generator of that device. Shapes depend on the batch's size alone, so
that all of it can be recorded in a CUDA graph. Nothing is compiled: that took over a minute for few kernels.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = 0.286, 0.353  # of Fashion-MNIST's training images
GLOBALS, LOCALS = 2, 6  # crops an image
SIDE, LOCAL_SIDE = 28, 16  # pixels
AREA, LOCAL_AREA = (0.7, 1.0), (0.32, 0.65)  # of the image; what makes a class is the shape of the whole
ASPECT = 1.2
ROTATION = math.radians(8)
WOBBLE = 0.03  # of half the image's side: a smooth displacement on a grid of
KNOTS = 4  # points a side
DRAWN = 0.35  # share of the student's crops that are drawings
DRAWN_FILLED = 0.12  # of the outlines: a filled shape, no line
STRAIGHT = 0.35  # of the outlines: through few corners
COARSE = (7, 10)  # points a side of the grids that these corners lie on
TRACED = 0.25  # of the drawings: thin lines wherever the photo has edges
REMAPPED, DRAWN_REMAPPED = 0.25, 0.7  # share of photos and of drawings whose gray levels change
INVERTED = 0.6  # of those: dark on light


class Views(NamedTuple):
    """Normalized crops with three equal channels, crop by crop: row i of crop c is row c * batch + i."""

    teacher: Tensor  # (2 * batch, 3, 28, 28): clean
    student: Tensor  # (2 * batch, 3, 28, 28): the same crops, some of them drawings or remapped
    local: Tensor  # (6 * batch, 3, 16, 16)


def make_views(images: Tensor, flippable: Tensor) -> Views:
    """The views of a batch of uint8 images (n, 28, 28); only `flippable` ones (n,) may be mirrored."""
    photos = (images[:, None].float() / 255).repeat(GLOBALS, 1, 1, 1)
    pairs = torch.cat([photos, draw(photos)], 1)  # each photo with as many drawings as there are global crops
    flippable = flippable.repeat(GLOBALS)
    clean, student = crops(pairs, flippable, SIDE, AREA)
    share = LOCALS // GLOBALS
    _, local = crops(pairs.repeat(share, 1, 1, 1), flippable.repeat(share), LOCAL_SIDE, LOCAL_AREA)
    return Views(normalize(clean), normalize(student), normalize(local))


def crops(pairs: Tensor, flippable: Tensor, side: int, area: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """A crop of each photo and its drawing (n, 2, 28, 28): the clean photo, and what the student sees."""
    both = warp(pairs, flippable, side, area)
    photo, drawing = retouch(both[:, :1]), soften(both[:, 1:])
    drawn = chance(photo, DRAWN)
    share = REMAPPED + (DRAWN_REMAPPED - REMAPPED) * drawn.float()
    return photo, remap(torch.where(drawn, drawing, photo), share)


def warp(images: Tensor, flippable: Tensor, side: int, area: tuple[float, float]) -> Tensor:
    """A random crop of each image, mirrored, turned and gently bent, by one bicubic sampling."""
    n = len(images)
    share, stretch = uniform(images, *area), torch.exp(uniform(images, -1, 1) * math.log(ASPECT))
    width, height = (share * stretch).sqrt().clamp(max=1), (share / stretch).sqrt().clamp(max=1)
    left, top = uniform(images, -1, 1) * (1 - width), uniform(images, -1, 1) * (1 - height)
    mirror = 1 - 2 * (chance(images, 0.5) & flippable.view(-1, 1, 1, 1)).float()
    angle = uniform(images, -1, 1) * ROTATION
    rows = [mirror * width * angle.cos(), -mirror * height * angle.sin(), left]
    rows += [width * angle.sin(), height * angle.cos(), top]
    grid = F.affine_grid(torch.cat(rows, 1).view(n, 2, 3), [n, 1, side, side], align_corners=False)
    grid = grid + bend(images, side, WOBBLE)
    return F.grid_sample(images, grid, mode="bicubic", align_corners=False).clamp(0, 1)


def draw(photos: Tensor) -> Tensor:
    """A line drawing of each photo: of its outline, or of all its edges."""
    return torch.where(chance(photos, TRACED), trace(photos), outline(photos))


def outline(photos: Tensor) -> Tensor:
    """The outline by pens of 0.5 to 2 pixels, some straightened, some with inner edges, gaps or fill.

    Drawn at twice the size and averaged down, since a pen of one pixel has jagged lines.
    """
    n, side = len(photos), 2 * SIDE
    still = torch.eye(2, 3, device=photos.device).expand(n, 2, 3)
    grid = F.affine_grid(still, [n, 1, side, side], align_corners=False) + bend(photos, side, 2 * WOBBLE)
    fine = F.grid_sample(photos, grid, mode="bilinear", align_corners=False)
    fine = torch.lerp(fine, blur(blur(fine)), uniform(photos, 0, 1))  # a hand leaves small features out
    shape = (fine > uniform(photos, 0.04, 0.3)).float()
    shape = torch.where(chance(photos, STRAIGHT), straighten(shape), shape)
    grown, shrunk = grow(shape), shrink(shape)
    outside = torch.where(chance(photos, 0.35), grow(grown), torch.where(chance(photos, 0.5), grown, shape))
    lines = outside - torch.where(chance(photos, 0.4), shrink(shrunk), shrunk)
    steep = grow(fine) - torch.where(chance(photos, 0.5), shrink(fine), fine)  # two or one pixel wide
    edges = (steep > uniform(photos, 0.1, 0.5)).float()
    lines = torch.where(chance(photos, 0.35), torch.maximum(lines, edges), lines)
    lines = lines * with_gaps(photos, side)
    return F.avg_pool2d(torch.where(chance(photos, DRAWN_FILLED), shape, lines), 2)


def straighten(shapes: Tensor) -> Tensor:
    """Shapes (n, 1, side, side) of 0 and 1 with straight sides: known at a few shaken points only."""
    softened, side = blur(blur(shapes)), shapes.shape[-1]
    level = uniform(shapes, 0.25, 0.5)
    found = [(enlarge(look(softened, knots), side, "bilinear") > level).float() for knots in COARSE]
    return torch.where(chance(shapes, 0.5), *found)


def look(images: Tensor, knots: int) -> Tensor:
    """The values at a grid of points (n, 1, knots, knots), each off by about a seventh of their distance."""
    still = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
    points = F.affine_grid(still, [len(images), 1, knots, knots], align_corners=True)
    points = points + torch.randn_like(points) * 0.15 * 2 / (knots - 1)
    return F.grid_sample(images, points, mode="bilinear", align_corners=True, padding_mode="border")


def trace(photos: Tensor) -> Tensor:
    """Lines of one pixel where a photo is steep: the inner rim of what is lighter than its surroundings."""
    smooth = torch.lerp(photos, blur(photos), uniform(photos, 0.3, 1))
    lighter = (smooth > blur(smooth) + 0.004).float()
    steepness = grow(smooth) - shrink(smooth)
    steep = steepness > uniform(photos, 0.08, 0.4) * steepness.amax((2, 3), keepdim=True)
    return (lighter - shrink(lighter)) * steep


def with_gaps(photos: Tensor, side: int) -> Tensor:
    """A mask that lifts the pen here and there: in up to a seventh of the drawing."""
    where = F.interpolate(torch.rand(len(photos), 1, 7, 7, device=photos.device), (side, side))
    return (where > uniform(photos, -0.3, 0.15)).float()


def bend(images: Tensor, side: int, size: float) -> Tensor:
    """A smooth random displacement (n, side, side, 2), each image's of its own strength up to `size`."""
    knots = torch.randn(len(images), 2, KNOTS, KNOTS, device=images.device) * size * uniform(images, 0, 1)
    return enlarge(knots, side, "bicubic").permute(0, 2, 3, 1)


def enlarge(knots: Tensor, side: int, mode: str) -> Tensor:
    """Few numbers (n, channels, k, k) as (n, channels, side, side), the corners staying in the corners.

    Two matrix products, since F.interpolate has a thread a pixel walk over the whole batch.
    """
    matrix = between(knots.shape[-1], side, mode, knots.device)
    return matrix @ knots @ matrix.T


@lru_cache
def between(knots: int, side: int, mode: str, device: torch.device) -> Tensor:
    """The matrix (side, knots) by which F.interpolate makes `side` numbers of a row of knots."""
    rows = F.interpolate(torch.eye(knots)[:, None, :, None], (side, 1), mode=mode, align_corners=True)
    return rows[:, 0, :, 0].T.contiguous().to(device)


def retouch(photos: Tensor) -> Tensor:
    """Photos sharpened or blurred, with another gamma and brightness."""
    photos = torch.lerp(photos, blur(photos), uniform(photos, -0.45, 0.65)).clamp(0, 1)
    gamma, gain = torch.exp(uniform(photos, -0.4, 0.4)), uniform(photos, 0.65, 1.2)
    return (photos.clamp_min(1e-4) ** gamma * gain).clamp(0, 1)


def soften(drawings: Tensor) -> Tensor:
    """Drawings by softer or harder pencils."""
    return (
        torch.lerp(drawings, blur(drawings), uniform(drawings, 0, 0.5)) * uniform(drawings, 0.8, 2)
    ).clamp(0, 1)


def remap(images: Tensor, share: Tensor) -> Tensor:
    """A `share` of the images with their gray levels on another range, often upside down."""
    low, high = uniform(images, 0, 0.25), uniform(images, 0.75, 1)
    upright, inverted = low + (high - low) * images, high - (high - low) * images
    levels = torch.where(chance(images, INVERTED), inverted, upright)
    return torch.where(chance(images, share), levels, images)


def normalize(images: Tensor) -> Tensor:
    """One channel in 0 to 1 becomes the three that the network expects."""
    return ((images - MEAN) / STD).expand(-1, 3, -1, -1)


def grow(images: Tensor) -> Tensor:
    """Light areas one pixel larger on every side."""
    return F.max_pool2d(images, 3, 1, 1)


def shrink(images: Tensor) -> Tensor:
    """Light areas one pixel smaller; beyond the image it is dark."""
    return -F.max_pool2d(-F.pad(images, (1, 1, 1, 1)), 3, 1)


def blur(images: Tensor) -> Tensor:
    """A triangular blur over five pixels: two box averages, which a GPU does faster than a convolution."""
    return F.avg_pool2d(F.avg_pool2d(images, 3, 1, 1), 3, 1, 1)


def uniform(images: Tensor, low: float, high: float) -> Tensor:
    """A random number an image, of shape (n, 1, 1, 1)."""
    return torch.rand(len(images), 1, 1, 1, device=images.device) * (high - low) + low


def chance(images: Tensor, share: float | Tensor) -> Tensor:
    """True for a random `share` of the images, of shape (n, 1, 1, 1)."""
    return torch.rand(len(images), 1, 1, 1, device=images.device) < share
