"""A source becomes an index, in stages that survive an interruption."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from embedding.encoder import Dinov2Encoder, Encoder, ModelRef, choose_device, encode_batches, fetch_model
from embedding.image import (
    PHOTO_SIDE,
    Preparation,
    QueryError,
    conform,
    infer_preparation,
    open_image,
    shrink,
)
from index.card import write_card
from index.manifest import DEFAULT_PROJECTION, EmbeddingDtype, Manifest, Source, fingerprint
from index.projection import project, umap_projection
from index.quality import VOTERS, NearestItems, measure, nearest_items, sample_items
from index.search import CHUNK
from index.source import Selection, SourceError, SourceItem, SourceRequest, read_source
from index.store import LISTED_NEIGHBORS, Index, NeighborLists, as_stored, save_index

PART = 512  # images between two points where an interrupted build can go on
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
    batch_size: int = 64
    device: str = "auto"
    n_neighbors: int = 15
    min_dist: float = 0.1
    embedding_dtype: EmbeddingDtype = "float32"


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


def build_index(request: BuildRequest, out: Path, say: Callable[[str], None] = print) -> Manifest:
    """Builds the index and moves it to `out` in one rename; `say` gets what a person should know.

    Raises SourceError, ModelError, and OSError where `out` cannot be written.
    """
    out = out.resolve()
    work = out.with_name(out.name + ".partial")
    _refuse_foreign(out, work)
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            manifest, skipped = _build(request, work, say)
            _swap(work, out)
    except Timeout:
        raise SourceError(f"Another build is writing {out}: wait for it, or choose another --out.") from None
    shutil.rmtree(work)
    _name_skipped(skipped, say)
    return manifest


def _build(request: BuildRequest, work: Path, say: Callable[[str], None]) -> tuple[Manifest, tuple[str, ...]]:
    """Builds `work`/index; returns its manifest and the names of the images that could not be read."""
    reference, folder = fetch_model(request.model, request.revision)
    request = replace(request, device=choose_device(request.device))
    _keep_or_clear(work, request, reference, say)
    images = _read(request, work, say)
    embeddings = as_stored(_embed(request, work, folder, images, say), request.embedding_dtype)
    wanted = max(VOTERS, LISTED_NEIGHBORS, request.n_neighbors - 1)
    nearest = nearest_items(embeddings, np.arange(len(embeddings)), wanted, _searching(len(embeddings)))
    neighbors = NeighborLists(nearest.ids, (1 - nearest.similarities).astype(np.float32))
    seed = request.source.seed
    projection = umap_projection(len(embeddings), request.n_neighbors, request.min_dist, seed)
    coordinates = project(embeddings, projection, neighbors, progress=True)
    say("Measuring")
    sampled = sample_items(len(embeddings), seed)
    metrics = measure(
        embeddings,
        coordinates,
        pixel_rows(images.data),
        images.labels if images.source.labeled else None,
        NearestItems(sampled, nearest.ids[sampled], nearest.similarities[sampled]),
    )
    manifest = Manifest(
        title=images.title,
        classes=images.classes,
        model=reference,
        preparation=images.preparation,
        source=images.source,
        projections={DEFAULT_PROJECTION: projection},
        metrics=metrics,
        seed=seed,
        count=len(embeddings),
        dimension=embeddings.shape[1],
        versions={name: version(name) for name in VERSIONED},
        fingerprint=fingerprint(reference, images.preparation),
        embedding_dtype=request.embedding_dtype,
    )
    maps = {DEFAULT_PROJECTION: coordinates}
    index = Index(manifest, images.data, images.labels, images.source_rows, embeddings, maps)
    shutil.rmtree(work / "index", ignore_errors=True)
    listed = NeighborLists(neighbors.ids[:, :LISTED_NEIGHBORS], neighbors.distances[:, :LISTED_NEIGHBORS])
    save_index(index, listed, work / "index")
    write_card(manifest, work / "index")
    return manifest, images.skipped


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


def _refuse_foreign(out: Path, work: Path) -> None:
    """Only an index and an interrupted build are ever replaced. Raises SourceError at anything else."""
    ours = {out: ("manifest.json",), work: ("lock", "request.json")}
    for folder, marks in ours.items():
        if folder.is_dir() and (
            not any(folder.iterdir()) or any((folder / mark).is_file() for mark in marks)
        ):
            continue
        if folder.exists():
            raise SourceError(f"{folder} exists and is not an index: move it, or choose another --out.")


def _swap(work: Path, out: Path) -> None:
    """Moves the finished index to `out`; an older one there goes to the work folder, which is removed."""
    if out.exists():
        shutil.rmtree(work / "old", ignore_errors=True)
        out.rename(work / "old")
    (work / "index").rename(out)


def _keep_or_clear(work: Path, request: BuildRequest, model: ModelRef, say: Callable[[str], None]) -> None:
    """Keeps the parts of an interrupted build of the same request, removes those of any other."""
    wanted = json.dumps({"request": asdict(request), "model": asdict(model), "part": PART}, sort_keys=True)
    record = work / "request.json"
    if record.is_file() and record.read_text(encoding="utf-8") == wanted:
        return
    leftovers = [path for path in work.iterdir() if path.name != "lock"]
    if leftovers:
        say("An interrupted build with other arguments is here: starting anew.")
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _write_whole(record, lambda stream: stream.write(wanted.encode()))


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
    _write_whole(file, lambda stream: pq.write_table(table, stream, compression="none"))
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


def _prepare_images(request: BuildRequest, selection: Selection) -> Images:
    """Every readable image of the selection, in the form that a probe of them shows the data set to have."""
    rows = selection.rows
    probe = rows[:: -(-len(rows) // PROBED)]
    preparation = infer_preparation(
        [image for _, image in _readable(selection.read(probe), [])] or [_NOTHING]
    )
    skipped: list[str] = []
    data, labels, source_rows = [], [], []
    progress = tqdm(selection.read(rows), "Reading", len(rows), unit="image", smoothing=0.1)
    for item, image in _readable(progress, skipped):
        data.append(encode_image(conform(image, preparation)))
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


def _embed(
    request: BuildRequest, work: Path, folder: Path, images: Images, say: Callable[[str], None]
) -> NDArray[np.float32]:
    """The embeddings (n, d), part by part; parts of an interrupted build are taken as they are."""
    parts = work / "embeddings"
    parts.mkdir(exist_ok=True)
    step = (
        -(-PART // request.batch_size) * request.batch_size
    )  # whole batches, so that going on gives the same bytes
    starts = range(0, len(images.data), step)
    files = [parts / f"{start:09d}.npy" for start in starts]
    done = sum(
        min(step, len(images.data) - start)
        for start, file in zip(starts, files, strict=True)
        if file.is_file()
    )
    if done:
        say(f"Going on: {done} of {len(images.data)} images were embedded before.")
    encoder = Dinov2Encoder(folder, request.device) if done < len(images.data) else None
    with tqdm(desc="Embedding", total=len(images.data), initial=done, unit="image") as progress:
        for start, file in zip(starts, files, strict=True):
            if encoder and not file.is_file():
                part = _embed_part(encoder, images.data[start : start + step], request.batch_size, progress)
                _write_whole(file, partial(np.save, arr=part, allow_pickle=False))
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])


def _embed_part(encoder: Encoder, data: list[bytes], batch_size: int, progress: tqdm) -> NDArray[np.float32]:
    rows = []
    for batch in encode_batches(encoder, (Image.open(BytesIO(file)) for file in data), batch_size):
        rows.append(batch)
        progress.update(len(batch))
    return np.concatenate(rows)


def _searching(count: int) -> partial:
    return partial(tqdm, desc="Searching", total=-(-count // CHUNK), unit=f" x {CHUNK} items")


def _write_whole(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file that is there completely or not at all."""
    unfinished = file.with_name(file.name + ".unfinished")
    with unfinished.open("wb") as stream:
        write(stream)
    unfinished.replace(file)


def _name_skipped(skipped: tuple[str, ...], say: Callable[[str], None]) -> None:
    if skipped:
        shown = ", ".join(skipped[:10]) + (", ..." if len(skipped) > 10 else "")
        say(f"Skipped {len(skipped)} unreadable images: {shown}")
