"""A question to an index, whatever its kind, and the answer."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedding.encoder import Encoder
from embedding.image import PHOTO_SIDE, QueryError, conform, is_blank, prepare, shrink
from index.manifest import DEFAULT_PROJECTION
from index.projection import PLACED_BY, place
from index.search import ExactSearch, Neighbor, Searcher, vote_shares
from index.store import Index

MAX_K = 50
DEFAULT_K = 10

Kind = Literal["class", "item", "image", "sketch"]


@dataclass(frozen=True)
class Query:
    """What is asked, already embedded: `embedding` is a float32 unit vector (d,), `item` the row, if indexed.

    `image` is what the model sees, `original` what a new image looked like before, reduced; `milliseconds`
    says what preparing and embedding took.
    """

    kind: Kind
    image: Image.Image
    embedding: NDArray[np.float32]
    item: int | None = None
    original: Image.Image | None = None
    milliseconds: Mapping[str, float] = field(default_factory=lambda: {"prepare": 0.0, "embed": 0.0})


@dataclass(frozen=True)
class Answer:
    """A query with its neighbors, best first, the shares of their vote, and its position on the map.

    `positions` has its place on every stored layout, the default one included.
    """

    query: Query
    neighbors: tuple[Neighbor, ...]
    vote: tuple[tuple[int, float], ...]
    position: tuple[float, float]
    milliseconds: Mapping[str, float]
    positions: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def query_class(index: Index, label: object, seed: object = None) -> Query:
    """A random item of a class, the same for the same seed. Raises QueryError, which lists the classes."""
    number = find_class(index.manifest.classes, label)
    if not (index.labels == number).any():
        raise QueryError(f"No item of this index is in the class {index.manifest.classes[number]}.")
    seed = None if seed is None else _whole_number(seed, "The seed")
    if seed is not None and seed < 0:
        raise QueryError(f"The seed is {seed}, but it must be 0 or more.")
    return _random_item(index, number, seed)


def first_query(index: Index, seed: int) -> Query:
    """What to show before anything is asked: an item of the class in the middle, drawn with the seed."""
    filled = np.unique(index.labels)
    return _random_item(index, int(filled[len(filled) // 2]), seed)


def query_item(index: Index, item: object) -> Query:
    """An indexed item by its number. Raises QueryError if there is no such item."""
    number = _whole_number(item, "The item")
    if not 0 <= number < index.manifest.count:
        raise QueryError(f"There is no item {number}: items are numbered 0 to {index.manifest.count - 1}.")
    return _indexed("item", index, number)


def query_image(
    index: Index, image: Image.Image, encoder: Encoder, kind: Literal["image", "sketch"] = "image"
) -> Query:
    """A new image, prepared as the index's own images were. Raises QueryError if there is nothing on it."""
    preparation = index.manifest.preparation
    if (kind == "sketch" or preparation.background) and is_blank(image):
        raise QueryError(_BLANK[kind])
    start = perf_counter()
    prepared = prepare(image, preparation)
    between = perf_counter()
    embedding = encoder.encode([prepared])[0]
    milliseconds = {"prepare": 1e3 * (between - start), "embed": 1e3 * (perf_counter() - between)}
    return Query(kind, prepared, embedding, None, shrink(image, PHOTO_SIDE), milliseconds)


def answer(index: Index, query: Query, k: int = DEFAULT_K, searcher: Searcher | None = None) -> Answer:
    """The query's k nearest items, their vote and its place; an indexed query is not its own neighbor.

    Without a `searcher` of the index the search is exact.
    """
    start = perf_counter()
    searcher = searcher or ExactSearch(index)
    found = searcher.search(query.embedding, max(k, PLACED_BY), exclude=query.item)
    neighbors = found[:k]
    positions = {name: _position(points, query, found) for name, points in index.coordinates.items()}
    return Answer(
        query=query,
        neighbors=neighbors,
        vote=_vote(neighbors, len(index.manifest.classes)),
        position=positions[DEFAULT_PROJECTION],
        milliseconds={**query.milliseconds, "search": 1e3 * (perf_counter() - start)},
        positions=positions,
    )


def whole_k(k: object) -> int:
    """How many neighbors to show: a number cut to a whole one of 1 to 50, 10 for None. Raises QueryError."""
    if k is None:  # what clients send for an argument left out
        return DEFAULT_K
    return max(1, min(_whole_number(k, "k", cut=True), MAX_K))


def find_class(classes: tuple[str, ...], label: object) -> int:
    """The number of the class `label`, give or take case, punctuation and an ending. Raises QueryError."""
    wanted = "" if label is None else str(label)
    for key in (str, str.casefold, _letters):
        matches = [number for number, name in enumerate(classes) if key(name) == key(wanted) != ""]
        if len(matches) == 1:
            return matches[0]
    if len(letters := _letters(wanted)) >= 3:
        names = [_letters(name) for name in classes]
        matches = [
            n
            for n, name in enumerate(names)
            if name.startswith(letters) or (len(name) >= 3 and letters.startswith(name))
        ]
        if len(matches) == 1:
            return matches[0]
    shown = f"There is no class {wanted[:80]!r}" if wanted else "No class was given"
    raise QueryError(f"{shown}: the classes are {', '.join(classes)}.")


def filled_classes(index: Index) -> tuple[str, ...]:
    """The names of the classes that have items, in the order of their numbers."""
    return tuple(index.manifest.classes[label] for label in np.unique(index.labels))


def item_image(index: Index, item: int) -> Image.Image:
    """An item's image as the model sees it."""
    return conform(Image.open(BytesIO(index.images[item])), index.manifest.preparation)


_BLANK = {
    "sketch": "The sketch is blank: draw something to search for.",
    "image": "The image is one flat color: choose one that shows something.",
}


def _random_item(index: Index, number: int, seed: int | None) -> Query:
    items = np.flatnonzero(index.labels == number)
    return _indexed("class", index, int(np.random.default_rng(seed).choice(items)))


def _indexed(kind: Kind, index: Index, item: int) -> Query:
    return Query(kind, item_image(index, item), index.embeddings[item], item)


def _vote(neighbors: tuple[Neighbor, ...], classes: int) -> tuple[tuple[int, float], ...]:
    """(class number, share) of the classes that got a vote, the largest share first."""
    if not neighbors:
        return ()
    labels = np.array([[neighbor.label for neighbor in neighbors]])
    shares = vote_shares(labels, np.array([[neighbor.similarity for neighbor in neighbors]]), classes)[0]
    return tuple(
        (int(label), float(shares[label]))
        for label in np.argsort(-shares, kind="stable")
        if shares[label] > 0
    )


def _position(
    coordinates: NDArray[np.float32], query: Query, found: tuple[Neighbor, ...]
) -> tuple[float, float]:
    if query.item is not None:
        return float(coordinates[query.item, 0]), float(coordinates[query.item, 1])
    return place(coordinates, np.array([neighbor.item for neighbor in found]))


def _whole_number(value: object, name: str, cut: bool = False) -> int:
    """`value` as an int; a fraction is refused, or cut off. Raises QueryError."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
        if math.isfinite(number) and (cut or number == int(number)):
            return int(value) if isinstance(value, int) else int(number)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    raise QueryError(f"{name} must be a whole number, not {str(value)[:80]!r}.")


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())
