"""What an index is made of: everything a reader needs to reproduce it or to refuse it."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from embedding.encoder import ModelRef
from embedding.image import Preparation

FORMAT_VERSION = 1
DEFAULT_PROJECTION = "umap"

EmbeddingDtype = Literal["float32", "float16"]


class FormatError(Exception):
    """A folder is not a sound index; the message is one line for a developer."""


@dataclass(frozen=True)
class Source:
    """Where the images came from: `rows` are in the split, `skipped` of those drawn could not be read.

    `labeled` is false where the source has no classes: every item is in one class, no metric uses labels.
    """

    id: str
    split: str
    rows: int
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    limit: int = 0
    skipped: int = 0
    labeled: bool = True
    license: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class ProjectionMetrics:
    """What was measured on one map, None where it does not apply; of the items that Metrics are about.

    The silhouette is euclidean, on the map; knn_accuracy is the plain majority of the 20 nearest on the map.
    """

    trustworthiness: float | None = None
    recall_at_15: float | None = None
    silhouette: float | None = None
    knn_accuracy: float | None = None


@dataclass(frozen=True)
class Projection:
    """The method and parameters of one set of coordinates.

    Its metrics and the seconds it took are there where an index was given several layouts to compare.
    """

    method: str
    parameters: dict[str, float | int | str] = field(default_factory=dict)
    metrics: ProjectionMetrics | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Metrics:
    """What was measured, None where it does not apply. index/quality.py defines each figure.

    `sample` is the number of items, drawn with the seed, that the figures are about; all up to 5,000.
    """

    sample: int
    k: int
    silhouette_embedding: float | None = None
    silhouette_map: float | None = None
    knn_accuracy: float | None = None
    precision_at_5: float | None = None
    trustworthiness: float | None = None
    recall_at_15: float | None = None
    pixel_knn_accuracy: float | None = None
    pixel_silhouette: float | None = None


@dataclass(frozen=True)
class ClassVotes:
    """One class among judged items: `support` are in it; precision is None where none was voted into it."""

    label: int
    support: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Votes:
    """How `items` were classified by the weighted vote of indexed items, none of them voting on itself.

    curve: (k, accuracy); confusion: (true class, predicted class, count), only pairs that occur. All but the
    curve are at `k`.
    """

    items: int
    k: int
    accuracy: float
    curve: tuple[tuple[int, float], ...]
    confusion: tuple[tuple[int, int, int], ...]
    classes: tuple[ClassVotes, ...]


@dataclass(frozen=True)
class ClassSilhouette:
    """The mean silhouette of a class's `items` sampled items: in the embedding (cosine), on the map."""

    label: int
    items: int
    embedding: float
    map: float


@dataclass(frozen=True)
class Quality:
    """How well an index of several classes keeps them apart.

    `votes` are leave-one-out, of all items; `silhouettes` are of the items that Metrics are about.
    """

    votes: Votes
    silhouettes: tuple[ClassSilhouette, ...] = ()


@dataclass(frozen=True)
class ReliabilityBin:
    """Votes with a winning share of `least` or more, up to the next bin: how often they were said to be
    right, from other items than these, and how many of `count` were."""

    least: float
    stated: float
    right: int
    count: int


@dataclass(frozen=True)
class Calibration:
    """How often votes are right, by the share of the winning class; index/calibration.py reads it.

    bins[k - 1]: ((least share, right, count), ...), ascending, learnt from `items` items. They were held out
    of the index or, where it has none, left out of their own vote. `reliability` is at `reliability_k`.
    """

    held_out: bool
    items: int
    bins: tuple[tuple[tuple[float, int, int], ...], ...]
    reliability_k: int
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Familiarity:
    """All but one in a hundred of `items` items have a neighbor in the index at least this similar."""

    similarity: float
    items: int
    held_out: bool


@dataclass(frozen=True)
class Baseline:
    """The k-NN accuracy of something plainer than the embedding, and of the embedding on the same items.

    `queries` held-out items were judged by `items` indexed ones.
    """

    name: str
    accuracy: float
    embedding: float
    queries: int
    items: int


@dataclass(frozen=True)
class Evaluation:
    """How held-out items of `source` were judged against the index.

    `interval` holds the accuracy in 95 of 100 resamples of the queries. `unknown` items were left out, for
    their class is not in the index; `leaks` of the judged ones are duplicates of indexed items.
    """

    source: Source
    votes: Votes
    interval: tuple[float, float]
    baselines: tuple[Baseline, ...]
    unknown: int = 0
    leaks: int = 0


@dataclass(frozen=True)
class Approximate:
    """How the index is searched without looking at every item; index/approximate.py does it.

    Items lie in `cells`; the `probes` cells nearest to a query are looked through, which finds `recall_at_10`
    of the 10 nearest others of `queries` items, on average.
    """

    cells: int
    probes: int
    recall_at_10: float
    queries: int

    def __post_init__(self) -> None:
        if not (1 <= self.probes <= self.cells and 0 <= self.recall_at_10 <= 1 and self.queries >= 1):
            raise ValueError("no search looks through so many cells or finds so much")


@dataclass(frozen=True)
class Manifest:
    """The description of an index; `files` maps each data file to its sha256, once it is saved.

    `embedding_dtype` is what the data files hold; in memory embeddings are float32 always.
    """

    title: str
    classes: tuple[str, ...]
    model: ModelRef
    preparation: Preparation
    source: Source
    projections: dict[str, Projection]
    metrics: Metrics
    seed: int
    count: int
    dimension: int
    versions: dict[str, str]
    quality: Quality | None = None
    evaluation: Evaluation | None = None
    calibration: Calibration | None = None
    familiarity: Familiarity | None = None
    approximate: Approximate | None = None
    fingerprint: str = ""
    embedding_dtype: EmbeddingDtype = "float32"
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def fingerprint(model: ModelRef, preparation: Preparation) -> str:
    """A hash of what turns an image into an embedding; indexes that share it share their queries."""
    made_by = asdict(model)
    if model.pooling == "cls":  # what every index was before there was a choice: their hashes stay
        del made_by["pooling"]
    text = json.dumps([made_by, asdict(preparation)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def for_others(manifest: Manifest) -> Manifest:
    """The manifest to publish: of a model in a folder of one's own it names no more than the last part."""
    model = replace(manifest.model, id=manifest.model.name)
    return replace(manifest, model=model, fingerprint=fingerprint(model, manifest.preparation))


def manifest_to_json(manifest: Manifest) -> str:
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    return _NUMBERS.sub(lambda found: " ".join(found[0].split()), text)  # a row of numbers on one line


_NUMBERS = re.compile(r"\[\n[\s\d.,eE+-]+\]")


def manifest_from_json(text: str) -> Manifest:
    """The manifest in `text`. Raises FormatError where it is incomplete, wrong or of another format."""
    try:
        version = json.loads(text)["format_version"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise FormatError("manifest.json is not a manifest: it is damaged or has no format_version") from None
    if version != FORMAT_VERSION:
        raise FormatError(f"manifest.json has format_version {version}, this program reads {FORMAT_VERSION}")
    try:
        manifest = TypeAdapter(Manifest).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"manifest.json is wrong at {where}: {first['msg']}") from None
    if manifest.fingerprint != fingerprint(manifest.model, manifest.preparation):
        raise FormatError(
            "manifest.json names another model or preparation than the one that made the embeddings"
        )
    if manifest.count < 1 or DEFAULT_PROJECTION not in manifest.projections:
        raise FormatError(f"manifest.json promises no items, or no {DEFAULT_PROJECTION} projection")
    return manifest
