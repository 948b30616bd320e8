"""Images compared pixel by pixel: is one the other but for a shift, a turn, its brightness, noise or JPEG.

An image's tangents tell how its pixels change where it is shifted or turned a little; what remains of another
image after the best combination of them is no such change (Simard, LeCun and Denker, 1993).
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32  # larger images, and those of mixed sizes, are reduced to this
CANDIDATES = 15  # by likeness of pixels, beside those that look alike to the model
TYPICAL = 10  # an image's candidate at this place tells how alike different images are, there
ALIKE = 0.2  # of that: what remains of a copy at most
REMAINS = 0.012  # of a copy, whatever is typical: where images are simple all of them are much alike
WORTHWHILE = 0.4  # of that, before shifts of whole pixels are tried
TRIED = 4  # candidates of an image for which they are tried
CHUNK = 256

_SHIFTS = tuple((down, right) for down in range(3) for right in range(3))


@dataclass(frozen=True)
class Lookalikes:
    """Pairs of a query and an item that agree in their pixels; difference: 0 for a copy, below 0.2."""

    queries: NDArray[np.int64]
    items: NDArray[np.int64]
    differences: NDArray[np.float32]


def gray_pixels(images: list[bytes], side: int | None = None) -> NDArray[np.float32]:
    """The images as grays (n, side, side), of an even side: their own up to 32, or 32."""
    pictures = [Image.open(BytesIO(data)) for data in images]
    side = side or _common_side([picture.size for picture in pictures])
    return np.stack([_gray(picture, side) for picture in pictures])


def lookalikes(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    candidates: NDArray[np.int32],
    same: bool = False,
) -> Lookalikes:
    """Which of each query's `candidates` (m, c), and of those with like pixels, are the same picture.

    queries (m, s, s) and items (n, s, s) are grays; with `same` they are one set, and no item is its own.
    """
    reduced_items, thumbs = _reduced(items), _thumbs(items)
    found = []
    for start in range(0, len(queries), CHUNK):
        chunk = slice(start, start + CHUNK)
        own = np.arange(start, min(start + CHUNK, len(queries))) if same else None
        near = np.hstack([candidates[chunk], _alike(_thumbs(queries[chunk]), thumbs, own)])
        found.append(_same_pictures(queries[chunk], items, reduced_items, near, start))
    rows, others, differences = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Lookalikes(rows, others, differences)


def _common_side(sizes: list[tuple[int, int]]) -> int:
    width, height = sizes[0]
    if set(sizes) == {(width, width)} and width == height <= SIDE and width % 4 == 0:
        return width
    return SIDE


def _gray(picture: Image.Image, side: int) -> NDArray[np.float32]:
    gray = picture.convert("L")
    if gray.size != (side, side):
        gray = gray.resize((side, side), Image.Resampling.BOX)
    return np.asarray(gray, np.float32)


def _reduced(grays: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half the side, smoothed: without noise, and so that a shift by a pixel is a small change."""
    n, side, _ = grays.shape
    half = grays.reshape(n, side // 2, 2, side // 2, 2).mean((2, 4))
    for axis in (1, 2):
        ends = [(1, 1) if axis == at else (0, 0) for at in range(3)]
        padded = np.pad(half, ends, mode="edge")
        before, here, after = (np.take(padded, np.arange(at, at + side // 2), axis=axis) for at in range(3))
        half = (before + 2 * here + after) / 4
    return half


def _thumbs(grays: NDArray[np.float32]) -> NDArray[np.float32]:
    """A quarter of the side as unit rows (n, s * s / 16), without their mean: brightness does not count."""
    n, side, _ = grays.shape
    thumbs = _reduced(grays).reshape(n, side // 4, 2, side // 4, 2).mean((2, 4)).reshape(n, -1)
    thumbs -= thumbs.mean(1, keepdims=True)
    return thumbs / np.maximum(np.linalg.norm(thumbs, axis=1, keepdims=True), 1e-6)


def _alike(
    queries: NDArray[np.float32], items: NDArray[np.float32], own: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """The items (m, at most 15) whose thumbs are most like the queries', in any order."""
    scores = queries @ items.T
    if own is not None:
        scores[np.arange(len(own)), own] = -2
    k = min(CANDIDATES, len(items) - (own is not None))
    return np.argpartition(scores, len(items) - k, axis=1)[:, len(items) - k :] if k > 0 else scores[:, :0]


def _same_pictures(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    reduced_items: NDArray[np.float32],
    near: NDArray[np.int64],
    start: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The pairs among queries (m, s, s) and their candidates `near` (m, c) that are the same picture."""
    near = near.astype(np.int64)
    if near.shape[1] == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    tangents = _tangents(_reduced(queries))
    remains = _remains(tangents, reduced_items[near])  # (m, c)
    remains[_repeated(near)] = np.inf
    order = remains.argsort(axis=1)
    last = np.minimum(TYPICAL, np.isfinite(remains).sum(1)) - 1
    typical = np.take_along_axis(remains, order[np.arange(len(near)), last][:, None], 1)[:, 0]
    rows = np.repeat(np.arange(len(near)), min(TRIED, near.shape[1]))
    columns = order[:, :TRIED].ravel()
    worthwhile = remains[rows, columns] < WORTHWHILE * typical[rows]
    rows, columns = rows[worthwhile], columns[worthwhile]
    others = near[rows, columns]
    left = _shifted_remains(tangents[rows], items[others])
    differences = left / np.maximum(typical[rows], 1e-9)
    same = (differences < ALIKE) & (left < REMAINS)
    return start + rows[same], others[same], differences[same]


def _repeated(near: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a row of (m, c) names an item that it has named before."""
    order = near.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(near, order, 1)
    again = np.zeros(near.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return again


def _tangents(reduced: NDArray[np.float32]) -> NDArray[np.float32]:
    """An orthonormal basis (m, p, 5) of an image, its brightness, its shifts and turn, without its rim.

    Beyond the rim lies what a shift brings in, which no image knows.
    """
    middle = np.arange(reduced.shape[1], dtype=np.float32) - (reduced.shape[1] - 1) / 2
    down, right = np.gradient(reduced, axis=(1, 2))
    turned = middle[:, None] * right - middle[None, :] * down
    changes = np.stack([np.ones_like(reduced), reduced, down, right, turned], axis=-1)
    inner = changes[:, 1:-1, 1:-1].reshape(len(reduced), -1, 5)
    return np.linalg.qr(inner)[0].astype(np.float32)


def _remains(tangents: NDArray[np.float32], reduced: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share (m, c) of images (m, c, h, h) that changes of the m images with these tangents leave over."""
    inner = reduced[..., 1:-1, 1:-1].reshape(*reduced.shape[:2], -1)
    means = inner.mean(-1, keepdims=True)
    energy = ((inner - means) ** 2).sum(-1)
    explained = (np.matmul(inner - means, tangents) ** 2).sum(-1)
    return np.maximum(energy - explained, 0) / np.maximum(energy, 1e-6)


def _shifted_remains(tangents: NDArray[np.float32], grays: NDArray[np.float32]) -> NDArray[np.float32]:
    """What remains (m,) of grays (m, s, s) at the best shift by whole pixels."""
    if len(grays) == 0:
        return np.empty(0, np.float32)
    side = grays.shape[1]
    padded = np.pad(grays, ((0, 0), (1, 1), (1, 1)), mode="edge")
    shifted = [_reduced(padded[:, down : down + side, right : right + side]) for down, right in _SHIFTS]
    return _remains(tangents, np.stack(shifted, axis=1)).min(1)
