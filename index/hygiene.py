"""What in a data set deserves a second look: labels, outliers, near-duplicates, leaks; each with a reason."""

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.pixels import gray_pixels, lookalikes
from index.search import VOTE_TEMPERATURE
from index.store import HELD_OUT, Index, NeighborLists, read_held_out

LISTED = 500  # rows of each kind at most
RARE = 1  # percent of the items that are called outliers
USUAL = 10.0  # how fast a margin counts less, the more usual it is between two classes


@dataclass(frozen=True)
class LabelSuspect:
    """An item whose neighbors vote for another class; margin: that class's share less its own class's.

    score: the margin, less where items of its class get many votes for that other class anyway.
    """

    item: int
    label: int
    suggested: int
    margin: float
    score: float
    reason: str


@dataclass(frozen=True)
class Outlier:
    """An item far from all others; similarity: to its nearest items, on average."""

    item: int
    label: int
    similarity: float
    reason: str


@dataclass(frozen=True)
class Duplicate:
    """Two items with the same picture; difference: 0 for a copy, below 0.2 of what is usual around them."""

    item: int
    other: int
    similarity: float
    difference: float
    exact: bool
    reason: str


@dataclass(frozen=True)
class Duplicates:
    """Pairs with the same picture, the most alike first, and the groups of items that they form."""

    pairs: tuple[Duplicate, ...]
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Leak:
    """A held-out item whose picture is in the index, too, or nearly."""

    source_row: int
    label: int
    item: int
    similarity: float
    reason: str


@dataclass(frozen=True)
class Hygiene:
    """All that deserves a second look."""

    suspects: tuple[LabelSuspect, ...]
    outliers: tuple[Outlier, ...]
    duplicates: Duplicates
    leaks: tuple[Leak, ...]


def inspect(
    index: Index, neighbors: NeighborLists, folder: Path, say: Callable[[str], None] = lambda _: None
) -> Hygiene:
    """Everything at once, leaks from the evaluation stored in `folder`; `say` hears what comes next.

    Raises FormatError.
    """
    say("labels")
    suspects = label_suspects(index, neighbors)
    say("outliers")
    far = outliers(index, neighbors)
    say("near-duplicates")
    duplicates = near_duplicates(index, neighbors)
    say("leaks")
    return Hygiene(suspects, far, duplicates, leaks(index, folder))


def label_suspects(index: Index, neighbors: NeighborLists, limit: int = LISTED) -> tuple[LabelSuspect, ...]:
    """Items whose neighbors outvote their label, the most surprising first; none without classes.

    The vote is weighted by exp(similarity / 0.07). A shirt among T-shirts is common and a bag among trousers
    is not: ranked by the margin alone, wrong labels drown in classes that look alike.
    """
    if not index.manifest.source.labeled or neighbors.ids.shape[1] == 0:
        return ()
    weights = _vote_weights(neighbors)
    own, rival, rivals = _rival_shares(index.labels, neighbors, weights)
    margins = rival - own
    scores = margins / (1 + USUAL * _usual_shares(index.labels, neighbors, weights, rivals))
    order = np.lexsort((neighbors.distances.mean(1), -scores.round(6)))
    return tuple(
        LabelSuspect(
            item=item,
            label=int(index.labels[item]),
            suggested=int(rivals[item]),
            margin=float(margins[item]),
            score=float(scores[item]),
            reason=_suspect_reason(index, neighbors, item, int(rivals[item])),
        )
        for item in order[margins[order] > 0][:limit].tolist()
    )


def outliers(index: Index, neighbors: NeighborLists, limit: int = LISTED) -> tuple[Outlier, ...]:
    """The 1 % of the items that are least similar to their nearest, on average; the farthest first."""
    if neighbors.ids.shape[1] == 0:
        return ()
    means = 1 - neighbors.distances.mean(1, dtype=np.float64)
    usual = float(np.median(means))
    order = np.argsort(means, kind="stable")[: min(limit, -(-len(means) * RARE // 100))]
    k = neighbors.ids.shape[1]
    return tuple(
        Outlier(
            item=int(item),
            label=int(index.labels[item]),
            similarity=float(means[item]),
            reason=f"Its {k} nearest are similar by {means[item]:.2f} on average; {usual:.2f} is usual.",
        )
        for item in order
    )


def near_duplicates(index: Index, neighbors: NeighborLists) -> Duplicates:
    """Items with the same picture, but for a small shift or turn, brightness, noise or compression.

    Candidates are the items nearest to the model and nearest in their pixels; what decides is how little of
    one picture the other leaves over, relative to what the other candidates leave.
    """
    copies = _copies(index.images)
    grays = gray_pixels(index.images)
    found = lookalikes(grays, grays, neighbors.ids, same=True)
    differences = dict.fromkeys(copies, 0.0)
    for one, other, difference in zip(found.queries, found.items, found.differences, strict=True):
        pair = (int(min(one, other)), int(max(one, other)))
        differences[pair] = min(float(difference), differences.get(pair, np.inf))
    pairs = [_duplicate(index, pair, difference, pair in copies) for pair, difference in differences.items()]
    pairs.sort(key=lambda pair: (not pair.exact, pair.difference, pair.item, pair.other))
    return Duplicates(tuple(pairs), _groups(list(differences)))


def find_leaks(index: Index, images: list[bytes], nearest: NDArray[np.int32]) -> dict[int, tuple[int, bool]]:
    """Which held-out images have their picture in the index: {image: (item, whether its pixels are equal)}.

    nearest: (m, k), the items most similar to each image.
    """
    grays = gray_pixels(index.images)
    found = lookalikes(gray_pixels(images, grays.shape[1]), grays, nearest)
    best: dict[int, tuple[int, bool]] = {}
    for at in np.argsort(-found.differences, kind="stable"):
        best[int(found.queries[at])] = (int(found.items[at]), False)
    best |= {row: (item, True) for row, item in copies_of(index, images).items()}
    return dict(sorted(best.items()))


def copies_of(index: Index, images: list[bytes]) -> dict[int, int]:
    """Which images have exactly the pixels of an indexed one: {image: the first such item}."""
    first = {_pixel_hash(data): item for item, data in reversed(list(enumerate(index.images)))}
    hashes = [_pixel_hash(data) for data in images]
    return {row: first[digest] for row, digest in enumerate(hashes) if digest in first}


def leaks(index: Index, folder: Path) -> tuple[Leak, ...]:
    """The duplicates of indexed items that the evaluation stored in `folder` met; none without one."""
    if HELD_OUT not in index.manifest.files:
        return ()
    rows = read_held_out(folder, index.manifest)
    return tuple(
        Leak(
            source_row=row.source_row,
            label=row.label,
            item=row.leak,
            similarity=row.similarity,
            reason=f"It is the picture of item {row.leak}, or nearly, which votes on it.",
        )
        for row in rows
        if row.leak is not None
    )


def write_tables(hygiene: Hygiene, index: Index, out: Path) -> list[Path]:
    """Writes a CSV file of each kind into the folder `out`: the rows with class names and source rows."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "label_suspects.csv": (LabelSuspect, hygiene.suspects),
        "outliers.csv": (Outlier, hygiene.outliers),
        "near_duplicates.csv": (Duplicate, hygiene.duplicates.pairs),
        "leaks.csv": (Leak, hygiene.leaks),
    }
    for name, (kind, rows) in tables.items():
        _write_csv(out / name, kind, rows, index)
    return [out / name for name in tables]


def _vote_weights(neighbors: NeighborLists) -> NDArray[np.float64]:
    """What each neighbor's vote weighs (n, k); rows sum to 1."""
    weights = np.exp((neighbors.distances[:, :1] - neighbors.distances) / VOTE_TEMPERATURE).astype(float)
    return weights / weights.sum(1, keepdims=True)


def _rival_shares(
    labels: NDArray[np.int32], neighbors: NeighborLists, weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
    """Of every vote: the own class's share, the best other class's share, and that class; (n,) each."""
    voters = labels[neighbors.ids]
    is_own = voters == labels[:, None]
    others = np.where(is_own, 0, weights)
    rival, rivals = np.zeros(len(labels)), labels.copy()
    for place in range(voters.shape[1]):  # over k, not over classes, of which there may be thousands
        share = (others * (voters == voters[:, place : place + 1])).sum(1)
        better = share > rival
        rival[better], rivals[better] = share[better], voters[better, place]
    return (weights * is_own).sum(1), rival, rivals


def _usual_shares(
    labels: NDArray[np.int32],
    neighbors: NeighborLists,
    weights: NDArray[np.float64],
    rivals: NDArray[np.int32],
) -> NDArray[np.float64]:
    """What share (n,) of the vote items of a class give to the rival class on average."""
    classes = int(labels.max()) + 1
    pairs = labels[:, None].astype(np.int64) * classes + labels[neighbors.ids]
    kinds, places = np.unique(pairs, return_inverse=True)
    totals = np.bincount(places.ravel(), weights.ravel())
    wanted = labels.astype(np.int64) * classes + rivals
    found = np.minimum(np.searchsorted(kinds, wanted), len(kinds) - 1)
    sums = np.where(kinds[found] == wanted, totals[found], 0)
    return sums / np.bincount(labels, minlength=classes)[labels]


def _suspect_reason(index: Index, neighbors: NeighborLists, item: int, rival: int) -> str:
    voters, label = index.labels[neighbors.ids[item]], index.labels[item]
    classes = index.manifest.classes
    against, agreeing = int((voters == rival).sum()), int((voters == label).sum())
    return (
        f"{against} of its {len(voters)} nearest {'is' if against == 1 else 'are'} {classes[rival]}, "
        f"{agreeing or 'none'} {'is' if agreeing == 1 else 'are'} {classes[label]}, as it is labeled."
    )


def _duplicate(index: Index, pair: tuple[int, int], difference: float, exact: bool) -> Duplicate:
    one, other = pair
    similarity = float(np.dot(index.embeddings[one].astype(float), index.embeddings[other]))
    what = f"Its pixels are those of item {other}" if exact else f"It is item {other}, slightly changed"
    same = index.labels[one] == index.labels[other]
    classes = "" if same else f", yet one is {index.class_of(one)} and the other {index.class_of(other)}"
    return Duplicate(one, other, similarity, difference, exact, f"{what}{classes}.")


def _copies(images: list[bytes]) -> set[tuple[int, int]]:
    """Pairs of items whose pixels are equal: each with the first of its kind."""
    first: dict[bytes, int] = {}
    pairs = set()
    for item, data in enumerate(images):
        kept = first.setdefault(_pixel_hash(data), item)
        if kept != item:
            pairs.add((kept, item))
    return pairs


def _pixel_hash(data: bytes) -> bytes:
    picture = Image.open(BytesIO(data))
    return hashlib.sha256(f"{picture.mode} {picture.size} ".encode() + picture.tobytes()).digest()


def _groups(pairs: list[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """The items that pairs tie together, the largest group first, items ascending."""
    group_of: dict[int, set[int]] = {}
    for one, other in pairs:
        joined = group_of.get(one, {one}) | group_of.get(other, {other})
        for item in joined:
            group_of[item] = joined
    groups = {tuple(sorted(group)) for group in group_of.values()}
    return tuple(sorted(groups, key=lambda group: (-len(group), group)))


def named_rows(rows: Sequence[object], index: Index) -> list[dict[str, object]]:
    """Rows of one kind for a file: class numbers become names, items get their source rows beside them."""
    named = []
    for row in rows:
        values = asdict(row)
        for name in {"label", "suggested"} & set(values):
            values[name] = index.manifest.classes[values[name]]
        for name in _items_of(values):
            values[f"{name}_source_row"] = int(index.source_rows[values[name]])
        named.append(values)
    return named


def _items_of(names: Iterable[str]) -> list[str]:
    """Which of a row's fields are item numbers."""
    return [name for name in names if name in ("item", "other")]


def _write_csv(file: Path, kind: type, rows: Sequence[object], index: Index) -> None:
    names = [field.name for field in fields(kind)]
    header = names + [f"{name}_source_row" for name in _items_of(names)]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        writer.writerows(named_rows(rows, index))
