"""A Hub dataset, a folder of Parquet or a folder of images becomes images with labels."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from index.manifest import Source

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"}
UNLABELED = "(no label)"
ONE_CLASS = "images"
HUB_SECONDS = 20  # after which the Hub counts as out of reach
DISPLAY_NAMES = {"T - shirt / top": "T-shirt/top"}  # how the Hub's Fashion-MNIST spells it -> how people do


class SourceError(Exception):
    """A source cannot be read; the message is one sentence."""


@dataclass(frozen=True)
class Preset:
    """A well-known data set on the Hub; its classes are those of its label column."""

    id: str
    title: str
    image_column: str
    label_column: str
    license: str


PRESETS = {
    "fashion-mnist": Preset("zalando-datasets/fashion_mnist", "Fashion-MNIST", "image", "label", "mit"),
    "mnist": Preset("ylecun/mnist", "MNIST", "image", "label", "mit"),
    "cifar10": Preset("uoft-cs/cifar10", "CIFAR-10", "img", "label", "unknown"),
}


@dataclass(frozen=True)
class SourceItem:
    """One row of a source: an encoded image file and its class number."""

    row: int
    label: int
    data: bytes
    name: str


@dataclass(frozen=True)
class Selection:
    """The rows of a source that were drawn for an index; `read` gives the items of some, one at a time."""

    title: str
    source: Source
    classes: tuple[str, ...]
    rows: tuple[int, ...]
    read: Callable[[Sequence[int]], Iterator[SourceItem]]


@dataclass(frozen=True)
class SourceRequest:
    """What to read: `source` is a preset, a Hub id or a folder; a `limit` of 0 takes every row.

    `revision` is a commit, tag or branch of a Hub dataset; None is the newest.
    """

    source: str
    split: str = "train"
    image_column: str | None = None
    label_column: str | None = None
    limit: int = 5000
    seed: int = 42
    revision: str | None = None


def read_source(request: SourceRequest) -> Selection:
    """A sample of the source's rows, drawn with the seed without replacement. Raises SourceError."""
    folder = Path(request.source).expanduser()
    if request.source and request.source not in PRESETS and folder.is_dir():
        if request.revision:
            raise SourceError(
                f"{request.source} is a folder and has no revisions: leave --source-revision out."
            )
        if any(folder.rglob("*.parquet")):
            return _read_dataset(request, str(folder), None)
        return _read_image_folder(request, folder)
    if request.source not in PRESETS and not re.fullmatch(r"[\w.-]+/[\w.-]+", request.source):
        raise SourceError(
            f"There is no folder {request.source}: give a folder, a Hub id such as owner/name, "
            f"or one of {', '.join(PRESETS)}."
        )
    preset = PRESETS.get(request.source)
    return _read_dataset(request, preset.id if preset else request.source, preset)


def sample_rows(count: int, limit: int, seed: int) -> tuple[int, ...]:
    """At most `limit` of `count` row numbers, ascending, drawn with the seed; all of them if `limit` is 0."""
    if limit == 0 or limit >= count:
        return tuple(range(count))
    return tuple(sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist()))


def _read_dataset(request: SourceRequest, location: str, preset: Preset | None) -> Selection:
    import datasets  # slow import: 2 s, needed only where a dataset is read

    is_folder = Path(location).is_dir()
    hub = None if is_folder else _hub_source(location, request.revision)
    table = _load(datasets, location, request.split, hub and hub.revision)
    image_column = _image_column(table, datasets, request.image_column or (preset and preset.image_column))
    label_column = _label_column(table, datasets, request.label_column or (preset and preset.label_column))
    classes, labels = _classes(table, datasets, label_column)
    rows = sample_rows(len(table), request.limit, request.seed)
    if not rows:
        raise SourceError(f"The split {request.split} of {location} has no images.")
    card = _card(Path(location)) if is_folder else {}
    pictures = table.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    source = Source(
        id=Path(location).resolve().name if is_folder else location,
        revision=hub and hub.revision,
        split=request.split,
        rows=len(table),
        image_column=image_column,
        label_column=label_column,
        limit=request.limit,
        labeled=_is_labeled(classes, [labels[row] for row in rows]),
        license=preset.license if preset else hub.license if hub else _license(card),
        note=str(card["source_note"]) if card.get("source_note") else None,
    )
    folder = Path(location).resolve() if is_folder else None
    read = partial(_dataset_items, pictures, image_column, labels, folder)
    title = preset.title if preset else str(card.get("pretty_name") or source.id)
    return Selection(title, source, classes, rows, read)


def _load(datasets: object, location: str, split: str, revision: str | None) -> object:
    try:
        return datasets.load_dataset(location, split=split, revision=revision)
    except datasets.exceptions.DatasetNotFoundError:
        raise SourceError(
            f"The Hub has no dataset {location}, or it is private (then: hf auth login)."
        ) from None
    except (ConnectionError, OSError) as error:
        if isinstance(error, PermissionError) or getattr(error, "errno", None) == 28:
            raise
        raise SourceError(f"{location} cannot be read: {_first_line(error)}") from None
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(f"{location} cannot be read: {_first_line(error)}") from None


@dataclass(frozen=True)
class _HubSource:
    """A Hub dataset's license, and the commit that was asked for: what the index was made of exactly."""

    revision: str
    license: str | None


def _hub_source(dataset: str, revision: str | None) -> _HubSource:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().dataset_info(dataset, revision=revision, timeout=HUB_SECONDS)
    except RevisionNotFoundError:
        raise SourceError(
            f"{dataset} has no revision {revision} on the Hub: its page lists those it has."
        ) from None
    except RepositoryNotFoundError:
        missing = f"The Hub has no dataset {dataset}, or it is private (then: hf auth login)."
        raise SourceError(missing) from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        reason = f"the Hub cannot be reached: check the network ({_first_line(error)})"
        raise SourceError(f"{dataset} cannot be read, {reason}.") from None
    return _HubSource(str(info.sha), _license(info.card_data.to_dict() if info.card_data else {}))


def _license(card: dict) -> str | None:
    """The license that a card's front matter names, the first where it names several."""
    named = card.get("license")
    first = named[0] if isinstance(named, list) and named else named
    return str(first) if first else None


def _image_column(table: object, datasets: object, wanted: str | None) -> str:
    images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if wanted in images or (wanted is None and images):
        return wanted or images[0]
    found = f"its image columns are {', '.join(images)}" if images else "it has no image column"
    raise SourceError(f"The source has no image column {wanted or ''}".rstrip() + f": {found}.")


def _label_column(table: object, datasets: object, wanted: str | None) -> str | None:
    features = table.features
    if wanted is not None:
        if wanted not in features:
            raise SourceError(f"The source has no column {wanted}: its columns are {', '.join(features)}.")
        if not (isinstance(features[wanted], datasets.ClassLabel) or _is_plain(features[wanted])):
            raise SourceError(f"The column {wanted} holds no classes: expected names or whole numbers.")
        return wanted
    named = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [name for name in ("label", "labels", "class") if name in features and _is_plain(features[name])]
    return next(iter(named + plain), None)


def _classes(table: object, datasets: object, column: str | None) -> tuple[tuple[str, ...], list[int]]:
    """The class names and every row's class number; rows without a label get a class of their own."""
    if column is None:
        return (ONE_CLASS,), [0] * len(table)
    values = table[column][:]
    feature = table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        names = [DISPLAY_NAMES.get(name, name) for name in feature.names]
        numbers = [value if value is not None and value >= 0 else len(names) for value in values]
    else:
        texts = ["" if value is None else str(value).strip() for value in values]
        names = sorted(set(texts) - {""})
        number_of = {name: number for number, name in enumerate(names)}
        numbers = [number_of.get(text, len(names)) for text in texts]
    return tuple(names + [UNLABELED] * (len(names) in numbers)), numbers


def _is_plain(feature: object) -> bool:
    """Whether a column holds one text, whole number or truth value a row, which can name a class."""
    kind = getattr(feature, "dtype", "")
    return isinstance(kind, str) and (kind in ("string", "large_string", "bool") or "int" in kind)


def _is_labeled(classes: tuple[str, ...], labels: Sequence[int]) -> bool:
    """Whether there are two classes at least among the labels, a missing label not counted."""
    return len({classes[label] for label in set(labels)} - {UNLABELED}) > 1


def _dataset_items(
    pictures: object, column: str, labels: list[int], folder: Path | None, rows: Sequence[int]
) -> Iterator[SourceItem]:
    for row, record in zip(rows, pictures.select(rows), strict=True):
        picture = record[column] or {"bytes": b"", "path": None}
        data = picture["bytes"] or b""
        if not data and picture["path"] and folder and Path(picture["path"]).resolve().is_relative_to(folder):
            data = _read_bytes(Path(picture["path"]))  # a path from elsewhere is not followed
        yield SourceItem(row, labels[row], data, f"row {row}")


def _read_image_folder(request: SourceRequest, folder: Path) -> Selection:
    split = folder / request.split
    if split.is_dir() and any(
        child.is_dir() for child in split.iterdir()
    ):  # folder/train/<class>/..., as ImageNet's
        folder = split
    files = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    files = [
        file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise SourceError(
            f"There are no images in {folder}: expected {', '.join(sorted(IMAGE_SUFFIXES))} files."
        )
    names = [
        _printable(file.relative_to(folder).parts[0]) if file.parent != folder else UNLABELED
        for file in files
    ]
    classes = tuple(sorted(set(names)))
    if len(classes) == 1:
        classes, names = (ONE_CLASS,), [ONE_CLASS] * len(files)
    number_of = {name: number for number, name in enumerate(classes)}
    labels = [number_of[name] for name in names]
    rows = sample_rows(len(files), request.limit, request.seed)
    source = Source(
        id=folder.resolve().name,
        split=request.split if folder == split else "all",
        rows=len(files),
        limit=request.limit,
        labeled=_is_labeled(classes, [labels[row] for row in rows]),
    )
    return Selection(source.id, source, classes, rows, partial(_folder_items, folder, files, labels))


def _folder_items(
    folder: Path, files: list[Path], labels: list[int], rows: Sequence[int]
) -> Iterator[SourceItem]:
    for row in rows:
        name = _printable(files[row].relative_to(folder).as_posix())
        yield SourceItem(row, labels[row], _read_bytes(files[row]), name)


def _printable(name: str) -> str:
    """A file name as text, whatever encoding an old archive left it in."""
    return os.fsencode(name).decode("utf-8", "replace")


def _read_bytes(file: Path) -> bytes:
    """The file's bytes, none if it cannot be read: then it counts as a corrupt image."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _card(folder: Path) -> dict:
    """The front matter of a folder's README.md, as on the Hub's cards; empty where there is none."""
    readme = folder / "README.md"
    match = (
        re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.S)
        if readme.is_file()
        else None
    )
    try:
        front = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        front = {}
    return front if isinstance(front, dict) else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
