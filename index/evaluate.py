"""Held-out items judged against an index, with plainer embeddings of the same items beside it."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from tqdm import tqdm

from embedding.encoder import Dinov2Encoder, Encoder, ModelError, choose_device, fetch_model
from embedding.parts import embed_here
from index.build import pixel_rows, prepared_items
from index.calibration import CALIBRATED_KS, calibrate, familiarity
from index.hygiene import copies_of, find_leaks
from index.live import AGREEMENT, agreement
from index.manifest import Baseline, Evaluation, Manifest, Source
from index.quality import CURVE, VOTERS, NearestItems, judge
from index.search import CHUNK, neighbors_of_queries, sample_items, vote_winners
from index.source import Selection, SourceError, SourceRequest, read_source
from index.store import (
    HELD_OUT,
    LISTED_NEIGHBORS,
    HeldOutItem,
    Index,
    load_index,
    write_held_out,
)
from index.work import PART, embed_parts, keep_or_clear, save_with, swap, work_folder

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles
UNTRAINED_QUERIES = 2000  # held-out items that the untrained network embeds; of the index at most 5,000


@dataclass(frozen=True)
class EvaluationRequest:
    """What to judge, and with what; a `limit` of 0 takes every held-out item. None: as the index says."""

    split: str = "test"
    source: str | None = None
    limit: int = 0
    model: str | None = None
    batch_size: int = 64
    device: str = "auto"


@dataclass(frozen=True)
class HeldOut:
    """Held-out images (m) in the index's preparation, with its class numbers (m,) and their rows (m,)."""

    source: Source
    images: list[bytes]
    labels: NDArray[np.int32]
    source_rows: NDArray[np.int32]
    unknown: int


@dataclass(frozen=True)
class Vectors:
    """One way to embed: unit rows of indexed items (n, d) and of held-out ones (m, d), and which they are."""

    name: str
    items: NDArray[np.int64]
    queries: NDArray[np.int64]
    indexed: NDArray[np.float32]
    held_out: NDArray[np.float32]


def evaluate_index(folder: Path, request: EvaluationRequest, say: Callable[[str], None] = print) -> Manifest:
    """Judges held-out items and stores the result in the index; interrupted, it goes on where it was.

    Raises SourceError, ModelError, FormatError.
    """
    folder = folder.resolve()
    with work_folder(folder) as work:
        index = load_index(folder)
        held_out = read_held_out_items(index, request)
        _, model = fetch_model(*_model_of(index.manifest, request))
        request = replace(request, device=choose_device(request.device))
        wanted = {"evaluate": asdict(request), "index": index.manifest.files, "part": PART}
        keep_or_clear(work, json.dumps(wanted, sort_keys=True), say)
        load = partial(_agreeing, index, model, request.device)
        embed = partial(embed_here, load, request.batch_size)
        embeddings = embed_parts(work / "held_out", held_out.images, request.batch_size, embed, say)
        untrained = _untrained(index, held_out, model, request, work, say)
        say("Measuring")
        manifest, items = _judged(index, held_out, embeddings, untrained)
        write = partial(write_held_out, items=items, classes=manifest.classes)
        manifest = save_with(work, folder, manifest, HELD_OUT, write)
        swap(work, folder)
    return manifest


def read_held_out_items(index: Index, request: EvaluationRequest) -> HeldOut:
    """The held-out items that are not in the index, and whose class is. Raises SourceError."""
    manifest = index.manifest
    if not manifest.source.labeled:
        raise SourceError("The index has no classes, so there is nothing to judge.")
    selection = read_source(_source_request(manifest, request))
    numbers = [_class_number(manifest.classes, name) for name in selection.classes]
    skipped: list[str] = []
    every = prepared_items(selection, _rows_outside(index, selection), manifest.preparation, skipped)
    items = [(item.row, numbers[item.label], data) for item, data in every]
    known = [(row, label, data) for row, label, data in items if label is not None]
    if not known:
        raise SourceError(f"No image of {selection.source.id} is of a class that the index has.")
    held_out = HeldOut(
        source=replace(selection.source, skipped=len(skipped)),
        images=[data for _, _, data in known],
        labels=np.array([label for _, label, _ in known], np.int32),
        source_rows=np.array([row for row, _, _ in known], np.int32),
        unknown=len(items) - len(known),
    )
    _refuse_the_same(index, held_out)
    return held_out


def baseline_vectors(index: Index, held_out: HeldOut) -> list[Vectors]:
    """Raw pixels, and their principal components: as many as the embedding has numbers, fit on the index."""
    manifest = index.manifest
    rows = pixel_rows(index.images + held_out.images)
    pixels, queries = rows[: manifest.count], rows[manifest.count :]
    size = min(manifest.dimension, pixels.shape[1], manifest.count - 1)
    components = PCA(size, random_state=manifest.seed).fit(pixels)
    reduced = [_unit(components.transform(part)) for part in (pixels, queries)]
    every = np.arange(manifest.count), np.arange(len(queries))
    return [
        Vectors("raw pixels", *every, pixels, queries),
        Vectors(f"PCA of pixels, {size} components", *every, *reduced),
    ]


def _source_request(manifest: Manifest, request: EvaluationRequest) -> SourceRequest:
    made_of = manifest.source
    if request.source is None and not made_of.revision and not Path(made_of.id).is_dir():
        raise SourceError(f"The index was made of the folder {made_of.id}: say where it is with --source.")
    source = request.source or made_of.id
    columns = (made_of.image_column, made_of.label_column)
    return SourceRequest(source, request.split, *columns, request.limit, manifest.seed)


def _rows_outside(index: Index, selection: Selection) -> list[int]:
    """The selected rows without those that are in the index. Raises SourceError if none is left."""
    made_of, held_out = index.manifest.source, selection.source
    indexed = set()
    if (made_of.id, made_of.split, made_of.rows) == (held_out.id, held_out.split, held_out.rows):
        indexed = set(index.source_rows.tolist())
    rows = [row for row in selection.rows if row not in indexed]
    if not rows:
        raise SourceError(f"All of {held_out.id}, split {held_out.split}, is in the index: no image is new.")
    return rows


def _refuse_the_same(index: Index, held_out: HeldOut) -> None:
    copies = copies_of(index, held_out.images)
    if len(copies) > len(held_out.images) / 2:
        raise SourceError(
            f"{len(copies)} of the {len(held_out.images)} images are in the index already: "
            "name a split or a folder that was held out."
        )


def _class_number(classes: tuple[str, ...], name: str) -> int | None:
    """The index's number of a class of the held-out items; None if it has no such class."""
    matches = [number for number, known in enumerate(classes) if known.casefold() == name.casefold()]
    return classes.index(name) if name in classes else matches[0] if len(matches) == 1 else None


def _model_of(manifest: Manifest, request: EvaluationRequest) -> tuple[str, str | None]:
    return (request.model, None) if request.model else (manifest.model.id, manifest.model.revision)


def _agreeing(index: Index, folder: Path, device: str) -> Encoder:
    """The index's own model. Raises ModelError where it does not give the index's own vectors."""
    encoder = Dinov2Encoder(folder, device, index.manifest.model.pooling)
    cosine = agreement(index, encoder)
    if cosine < AGREEMENT:
        raise ModelError(f"The index was made by another model than {folder.name} (cosine {cosine:.3f}).")
    return encoder


def _untrained(
    index: Index,
    held_out: HeldOut,
    model: Path,
    request: EvaluationRequest,
    work: Path,
    say: Callable[[str], None],
) -> Vectors:
    """What the same network makes of a sample of the items before it is trained."""
    manifest = index.manifest
    items = sample_items(manifest.count, manifest.seed)
    queries = np.arange(len(held_out.images))
    if len(queries) > UNTRAINED_QUERIES:
        rng = np.random.default_rng(manifest.seed)
        queries = np.sort(rng.choice(queries, UNTRAINED_QUERIES, replace=False))
    images = [index.images[item] for item in items] + [held_out.images[query] for query in queries]
    load = partial(Dinov2Encoder, model, request.device, manifest.model.pooling, manifest.seed)
    embed, title = partial(embed_here, load, request.batch_size), "Embedding untrained"
    vectors = embed_parts(work / "untrained", images, request.batch_size, embed, say, title)
    return Vectors("the network, untrained", items, queries, vectors[: len(items)], vectors[len(items) :])


def _judged(
    index: Index, held_out: HeldOut, embeddings: NDArray[np.float32], untrained: Vectors
) -> tuple[Manifest, list[HeldOutItem]]:
    """The manifest with everything learnt from the held-out items, and these as rows."""
    manifest, labels = index.manifest, held_out.labels
    nearest = _nearest(index.embeddings, embeddings, max(CURVE), "Searching")
    winners = vote_winners(index.labels[nearest.ids], nearest.similarities, {*CURVE, *CALIBRATED_KS})
    votes = judge(winners, labels)
    leaks = find_leaks(index, held_out.images, nearest.ids[:, :LISTED_NEIGHBORS])
    vectors = (*baseline_vectors(index, held_out), untrained)
    baselines = [_baseline(each, index, embeddings, labels) for each in vectors]
    evaluation = Evaluation(
        source=held_out.source,
        votes=votes,
        interval=bootstrap_interval(votes.accuracy, votes.items, manifest.seed),
        baselines=(*baselines, *_chance(index, labels, votes.accuracy)),
        unknown=held_out.unknown,
        leaks=len(leaks),
    )
    calibration = calibrate(winners, labels, held_out=True, seed=manifest.seed)
    learnt = replace(
        manifest,
        evaluation=evaluation,
        calibration=calibration or manifest.calibration,
        familiarity=familiarity(nearest.similarities[:, 0], held_out=True) or manifest.familiarity,
    )
    return learnt, _rows(held_out, nearest, winners.at(votes.k), leaks)


def _rows(
    held_out: HeldOut,
    nearest: NearestItems,
    votes: tuple[NDArray[np.int32], NDArray[np.float64]],
    leaks: dict[int, tuple[int, bool]],
) -> list[HeldOutItem]:
    predicted, shares = votes
    return [
        HeldOutItem(
            source_row=int(held_out.source_rows[row]),
            label=int(held_out.labels[row]),
            predicted=int(predicted[row]),
            predicted_share=float(shares[row]),
            nearest=int(nearest.ids[row, 0]),
            similarity=float(nearest.similarities[row, 0]),
            leak=leaks[row][0] if row in leaks else None,
            image=held_out.images[row] if row in leaks else None,
        )
        for row in range(len(held_out.labels))
    ]


def bootstrap_interval(accuracy: float, items: int, seed: int) -> tuple[float, float]:
    """Between which accuracies 95 % of 1,000 resamples of the judged items lie.

    Each item is right or wrong: how many are right in a resample is binomial, so none needs to be drawn.
    """
    resampled = np.random.default_rng(seed).binomial(items, accuracy, RESAMPLES) / items
    low, high = np.percentile(resampled, INTERVAL)
    return float(low), float(high)


def _baseline(
    vectors: Vectors, index: Index, embeddings: NDArray[np.float32], labels: NDArray[np.int32]
) -> Baseline:
    """The accuracy with other vectors, and with the embedding on the same items."""
    own = Vectors(
        "", vectors.items, vectors.queries, index.embeddings[vectors.items], embeddings[vectors.queries]
    )
    accuracies = [_accuracy(each, index.labels, labels) for each in (vectors, own)]
    return Baseline(vectors.name, *accuracies, len(vectors.queries), len(vectors.items))


def _accuracy(vectors: Vectors, indexed: NDArray[np.int32], labels: NDArray[np.int32]) -> float:
    nearest = _nearest(vectors.indexed, vectors.held_out, VOTERS, f"Searching {vectors.name}".strip())
    winners = vote_winners(indexed[vectors.items][nearest.ids], nearest.similarities, (nearest.ids.shape[1],))
    return float((winners.classes[0] == labels[vectors.queries]).mean())


def _chance(index: Index, labels: NDArray[np.int32], accuracy: float) -> tuple[Baseline, Baseline]:
    """What no look at the images gives: always the index's largest class, or any of its classes."""
    filled, counts = np.unique(index.labels, return_counts=True)
    always = float((labels == filled[counts.argmax()]).mean())
    beside = (accuracy, len(labels), index.manifest.count)
    return (
        Baseline("always the largest class", always, *beside),
        Baseline("any class", 1 / len(filled), *beside),
    )


def _nearest(
    embeddings: NDArray[np.float32], queries: NDArray[np.float32], k: int, title: str
) -> NearestItems:
    chunks = neighbors_of_queries(embeddings, queries, k)
    parts = list(tqdm(chunks, title, -(-len(queries) // CHUNK), unit=f" x {CHUNK} items"))
    ids, similarities = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    return NearestItems(np.arange(len(queries)), ids, similarities)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)).astype(np.float32)
