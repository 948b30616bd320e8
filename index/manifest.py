"""What an index is made of: everything a reader needs to reproduce it or to refuse it."""

import hashlib
import json
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
class Projection:
    """The method and parameters of one set of coordinates."""

    method: str
    parameters: dict[str, float | int | str] = field(default_factory=dict)


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
    fingerprint: str = ""
    embedding_dtype: EmbeddingDtype = "float32"
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def fingerprint(model: ModelRef, preparation: Preparation) -> str:
    """A hash of what turns an image into an embedding; indexes that share it share their queries."""
    text = json.dumps([asdict(model), asdict(preparation)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def for_others(manifest: Manifest) -> Manifest:
    """The manifest to publish: of a model in a folder of one's own it names no more than the last part."""
    model = ModelRef(manifest.model.name, manifest.model.revision)
    return replace(manifest, model=model, fingerprint=fingerprint(model, manifest.preparation))


def manifest_to_json(manifest: Manifest) -> str:
    return json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"


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
