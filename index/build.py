"""A source becomes an index, in stages that survive an interruption."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from embedding.encoder import (
    ModelError,
    ModelRef,
    Pooling,
    choose_batch_size,
    fetch_model,
)
from embedding.engines import Engine, Workers, open_engine
from embedding.image import (
    PHOTO_SIDE,
    Preparation,
    QueryError,
    conform,
    infer_preparation,
    open_image,
    shrink,
)
from embedding.models import Precision
from embedding.parts import Count, EmbeddedPart, Part, Recipe
from index.calibration import CALIBRATED_KS, calibrate, familiarity
from index.card import write_card
from index.layouts import Layout, lay_out
from index.manifest import (
    DEFAULT_PROJECTION,
    Calibration,
    EmbeddingDtype,
    Manifest,
    Metrics,
    Projection,
    Quality,
    Source,
    fingerprint,
)
from index.projection import N_NEIGHBORS, projection_grid, umap_projection
from index.quality import (
    CURVE,
    VOTERS,
    NearestItems,
    class_silhouettes,
    judge,
    leave_one_out,
    measure,
    nearest_items,
    reference_of,
)
from index.search import CHUNK, sample_items
from index.source import Selection, SourceError, SourceItem, SourceRequest, read_source
from index.store import LISTED_NEIGHBORS, Index, NeighborLists, as_stored, save_index
from index.work import PART, embed_parts, keep_or_clear, swap, work_folder, write_whole

PROBED = 256  # images that tell how a data set was prepared
SOURCE_MAX_BYTES = 200 * 2**20
SOURCE_MAX_PIXELS = 150_000_000
LOSSLESS_SIDE = 64  # images up to this side are stored as PNG, larger ones as JPEG
PIXEL_SIDE = 32  # larger images are shrunk to this side for the raw-pixel baseline
VERSIONED = ("torch", "transformers", "datasets", "umap-learn", "scikit-learn", "numpy", "pillow")


@dataclass(frozen=True)
class BuildRequest:
    """All that decides what an index becomes; an interrupted build goes on only for the same request."""

    source: SourceRequest
    model: str
    revision: str | None = None
    title: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    n_neighbors: int = 15
    min_dist: float = 0.1
    embedding_dtype: EmbeddingDtype = "float32"
    projections: bool = False
    pooling: Pooling = "cls"
    precision: Precision = "auto"


@dataclass(frozen=True)
class Images:
    """What was read, ready to be embedded: n encoded images, labels (n,) and source rows (n,)."""

    title: str
    source: Source
    classes: tuple[str, ...]
    preparation: Preparation
    data: list[bytes]
    labels: NDArray[np.int32]
    source_rows: NDArray[np.int32]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Embedded:
    """The images with their embeddings (n, d) and every item's nearest others."""

    images: Images
    model: ModelRef
    embeddings: NDArray[np.float32]
    nearest: NearestItems

    @property
    def labels(self) -> NDArray[np.int32] | None:
        """The class numbers (n,), None where the source has no classes."""
        return self.images.labels if self.images.source.labeled else None

    @property
    def neighbors(self) -> NeighborLists:
        return NeighborLists(self.nearest.ids, (1 - self.nearest.similarities).astype(np.float32))


@dataclass(frozen=True)
class Judged:
    """What classes add to an index: figures for the manifest, and each item's vote for its columns."""

    quality: Quality | None = None
    calibration: Calibration | None = None
    predicted: NDArray[np.int32] | None = None
    predicted_share: NDArray[np.float32] | None = None


def build_index(
    request: BuildRequest, out: Path, say: Callable[[str], None] = print, workers: Workers | None = None
) -> Manifest:
    """Builds the index and moves it to `out` in one rename; `say` gets what a person should know.

    The `workers` embed, by default this process. Raises SourceError, ModelError, EngineError, and OSError
    where `out` cannot be written.
    """
    out = out.resolve()
    with work_folder(out) as work:
        manifest, skipped = _build(request, workers or Workers(), work, say)
        swap(work, out)
    _name_skipped(skipped, say)
    return manifest


def _build(
    request: BuildRequest, workers: Workers, work: Path, say: Callable[[str], None]
) -> tuple[Manifest, tuple[str, ...]]:
    """Builds `work`/index; returns its manifest and the names of the images that could not be read."""
    reference, folder = fetch_model(request.model, request.revision)
    reference = replace(reference, pooling=request.pooling)
    with open_engine(workers, request.device) as engine:
        batch_size = request.batch_size or choose_batch_size(engine.device)
        request = replace(request, device=engine.device, batch_size=batch_size)
        wanted = {"request": asdict(request), "model": asdict(reference), "part": PART}
        keep_or_clear(work, json.dumps(wanted, sort_keys=True), say)
        images = _read(request, work, say)
        recipe = Recipe(folder, request.pooling, request.precision, batch_size)
        embed = partial(_embed, engine, recipe, work)
        vectors = embed_parts(work / "embeddings", images.data, batch_size, embed, say)
    embeddings = as_stored(vectors, request.embedding_dtype)
    embedded = Embedded(images, reference, embeddings, _search(request, images, embeddings))
    versions = {name: version(name) for name in VERSIONED} | _precision(work)
    index = _described(request, embedded, _lay_out(request, work, embedded, say), versions, say)
    shutil.rmtree(work / "index", ignore_errors=True)
    ids, distances = embedded.neighbors.ids, embedded.neighbors.distances
    save_index(
        index, NeighborLists(ids[:, :LISTED_NEIGHBORS], distances[:, :LISTED_NEIGHBORS]), work / "index"
    )
    write_card(index.manifest, work / "index")
    return index.manifest, images.skipped


def _embed(
    engine: Engine, recipe: Recipe, work: Path, parts: Sequence[Part], count: Count
) -> Iterator[EmbeddedPart]:
    """The parts from the engine, all calculated in one precision. Raises ModelError at another one."""
    for part in engine.embed(recipe, parts, count):
        _keep_precision(work, part.precision)
        yield part


def _keep_precision(work: Path, precision: Precision) -> None:
    """Writes down what the model calculates in. Raises ModelError where finished parts are of another."""
    file = work / "precision"
    if not file.is_file():
        write_whole(file, lambda stream: stream.write(precision.encode()))
    elif (kept := file.read_text(encoding="utf-8")) != precision:
        raise ModelError(
            f"An interrupted build calculated in {kept}, this machine in {precision}: "
            "go on where it began, or name another --precision to start anew."
        )


def _precision(work: Path) -> dict[str, str]:
    """What the manifest says beside the versions: nothing of float32, which any machine gives again."""
    precision = (work / "precision").read_text(encoding="utf-8")
    return {} if precision == "float32" else {"precision": precision}


def _search(request: BuildRequest, images: Images, embeddings: NDArray[np.float32]) -> NearestItems:
    """As many neighbors of every item as anything that follows asks for."""
    wanted = [VOTERS, LISTED_NEIGHBORS, request.n_neighbors - 1]
    wanted += [max(N_NEIGHBORS) - 1] if request.projections else []
    wanted += [max(CURVE)] if images.source.labeled else []
    count = len(embeddings)
    searching = partial(tqdm, desc="Searching", total=-(-count // CHUNK), unit=f" x {CHUNK} items")
    return nearest_items(embeddings, np.arange(count), max(wanted), searching)


def _lay_out(
    request: BuildRequest, work: Path, embedded: Embedded, say: Callable[[str], None]
) -> dict[str, Layout]:
    """The layouts that were asked for, by name, the default one first."""
    count, seed = len(embedded.embeddings), request.source.seed
    default = umap_projection(count, request.n_neighbors, request.min_dist, seed)
    others = projection_grid(count, default, seed) if request.projections else {}
    sampled = sample_items(count, seed)
    reference = reference_of(embedded.embeddings, sampled, embedded.nearest.ids, embedded.labels)
    planned = {DEFAULT_PROJECTION: default} | others
    return lay_out(
        work / "layouts",
        planned,
        embedded.embeddings,
        embedded.neighbors,
        reference,
        say,
        request.projections,
    )


def _described(
    request: BuildRequest,
    embedded: Embedded,
    layouts: dict[str, Layout],
    versions: dict[str, str],
    say: Callable[[str], None],
) -> Index:
    """The finished index: all figures measured, all parameters written down."""
    say("Measuring")
    images, embeddings, seed = embedded.images, embedded.embeddings, request.source.seed
    metrics = _measure(embedded, layouts[DEFAULT_PROJECTION], seed)
    judged = _judge(embedded, layouts[DEFAULT_PROJECTION], seed)
    manifest = Manifest(
        title=images.title,
        classes=images.classes,
        model=embedded.model,
        preparation=images.preparation,
        source=images.source,
        projections=_projections(layouts),
        metrics=metrics,
        seed=seed,
        count=len(embeddings),
        dimension=embeddings.shape[1],
        versions=versions,
        quality=judged.quality,
        calibration=judged.calibration,
        familiarity=familiarity(embedded.nearest.similarities[:, :1].ravel(), held_out=False),
        fingerprint=fingerprint(embedded.model, images.preparation),
        embedding_dtype=request.embedding_dtype,
    )
    maps = {name: layout.coordinates for name, layout in layouts.items()}
    items = (images.data, images.labels, images.source_rows, embeddings, maps)
    return Index(manifest, *items, judged.predicted, judged.predicted_share)


def _projections(layouts: dict[str, Layout]) -> dict[str, Projection]:
    """How the layouts were made; a single one without its seconds, so that a build repeats to the byte."""
    if len(layouts) == 1:
        return {name: replace(made.projection, metrics=None, seconds=None) for name, made in layouts.items()}
    return {name: made.projection for name, made in layouts.items()}


def _measure(embedded: Embedded, layout: Layout, seed: int) -> Metrics:
    nearest, items = embedded.nearest, sample_items(len(embedded.embeddings), seed)
    return measure(
        embedded.embeddings,
        pixel_rows(embedded.images.data),
        embedded.labels,
        NearestItems(items, nearest.ids[items], nearest.similarities[items]),
        layout.projection.metrics,
    )


def _judge(embedded: Embedded, layout: Layout, seed: int) -> Judged:
    """Every item judged by the others; nothing without classes, or without others."""
    labels, embeddings = embedded.labels, embedded.embeddings
    if labels is None or len(labels) < 2:
        return Judged()
    winners = leave_one_out(embedded.nearest, labels, {*CURVE, *CALIBRATED_KS})
    votes = judge(winners, labels)
    predicted, share = winners.at(votes.k)
    items = sample_items(len(labels), seed)
    silhouettes = class_silhouettes(embeddings[items], layout.coordinates[items], labels[items])
    calibration = calibrate(winners, labels, held_out=False, seed=seed)
    return Judged(Quality(votes, silhouettes), calibration, predicted, share.astype(np.float32))


def pixel_rows(data: list[bytes]) -> NDArray[np.float32]:
    """The images' pixels as unit rows (n, p), for a baseline; larger or mixed sizes are shrunk to 32 x 32."""
    first = Image.open(BytesIO(data[0]))
    sizes = {Image.open(BytesIO(file)).size for file in data}
    side = first.size if sizes == {first.size} and max(first.size) <= PIXEL_SIDE else (PIXEL_SIDE, PIXEL_SIDE)
    pixels = np.empty((len(data), side[0] * side[1] * len(first.getbands())), np.float32)
    for row, file in zip(pixels, data, strict=True):
        image = Image.open(BytesIO(file)).convert(first.mode)
        row[:] = np.asarray(image if image.size == side else image.resize(side, Image.Resampling.BOX)).ravel()
    pixels /= np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)
    return pixels


def _read(request: BuildRequest, work: Path, say: Callable[[str], None]) -> Images:
    """The prepared images: read from the source, or from the finished stage of an interrupted build."""
    file = work / "images.parquet"
    if file.is_file():
        say("Going on with the images that were read before.")
        return _load_images(file)
    selection = read_source(request.source)
    images = _prepare_images(request, selection)
    table = pa.table({"data": images.data, "label": images.labels, "source_row": images.source_rows})
    about = {
        key: value for key, value in asdict(images).items() if key not in ("data", "labels", "source_rows")
    }
    table = table.replace_schema_metadata({"about": json.dumps(about)})
    write_whole(file, lambda stream: pq.write_table(table, stream, compression="none"))
    return images


def _load_images(file: Path) -> Images:
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"about"])
    return Images(
        title=about["title"],
        source=Source(**about["source"]),
        classes=tuple(about["classes"]),
        preparation=Preparation(**about["preparation"]),
        data=table["data"].to_pylist(),
        labels=table["label"].to_numpy().astype(np.int32),
        source_rows=table["source_row"].to_numpy().astype(np.int32),
        skipped=tuple(about["skipped"]),
    )


def prepared_items(
    selection: Selection, rows: Sequence[int], preparation: Preparation, skipped: list[str]
) -> Iterator[tuple[SourceItem, bytes]]:
    """The readable items of some rows with their images as an index stores them; others are `skipped`."""
    progress = tqdm(selection.read(rows), "Reading", len(rows), unit="image", smoothing=0.1)
    for item, image in _readable(progress, skipped):
        yield item, encode_image(conform(image, preparation))


def _prepare_images(request: BuildRequest, selection: Selection) -> Images:
    """Every readable image of the selection, in the form that a probe of them shows the data set to have."""
    rows = selection.rows
    probe = rows[:: -(-len(rows) // PROBED)]
    preparation = infer_preparation(
        [image for _, image in _readable(selection.read(probe), [])] or [_NOTHING]
    )
    skipped: list[str] = []
    data, labels, source_rows = [], [], []
    for item, encoded in prepared_items(selection, rows, preparation, skipped):
        data.append(encoded)
        labels.append(item.label)
        source_rows.append(item.row)
    if not data:
        raise SourceError(f"None of the {len(rows)} images of {selection.source.id} can be read.")
    return Images(
        title=request.title or selection.title,
        source=replace(selection.source, skipped=len(skipped)),
        classes=selection.classes,
        preparation=preparation,
        data=data,
        labels=np.array(labels, np.int32),
        source_rows=np.array(source_rows, np.int32),
        skipped=tuple(skipped),
    )


_NOTHING = Image.new("L", (1, 1))


def _readable(items: Iterable[SourceItem], skipped: list[str]) -> Iterator[tuple[SourceItem, Image.Image]]:
    """The items with their images, none larger than an index keeps; broken ones are named in `skipped`."""
    for item in items:
        try:
            image = open_image(BytesIO(item.data), SOURCE_MAX_BYTES, SOURCE_MAX_PIXELS)
        except QueryError:
            skipped.append(item.name)
        else:
            yield item, shrink(image, PHOTO_SIDE)


def encode_image(image: Image.Image) -> bytes:
    """The image as a file's bytes: PNG up to 64 x 64, JPEG above, which keeps an index of photos small."""
    stream = BytesIO()
    if max(image.size) <= LOSSLESS_SIDE:
        image.save(stream, "PNG", optimize=True)
    else:
        image.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def _name_skipped(skipped: tuple[str, ...], say: Callable[[str], None]) -> None:
    if skipped:
        shown = ", ".join(skipped[:10]) + (", ..." if len(skipped) > 10 else "")
        say(f"Skipped {len(skipped)} unreadable images: {shown}")
