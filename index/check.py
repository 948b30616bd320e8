"""Does an index keep its promises."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from embedding.encoder import Dinov2Encoder, ModelError, fetch_model
from index.approximate import open_faiss, read_cells
from index.live import AGREEMENT, agreement
from index.manifest import FormatError
from index.quality import VOTERS, knn_accuracy, nearest_items, silhouette
from index.search import SearchError, recall_of, sample_items, search, trial_of
from index.store import LISTED_NEIGHBORS, Index, file_sha256, load_index, load_manifest, read_table

PROBED = 50  # items whose neighbors are searched again


def check_index(folder: Path, model: str | None = None) -> Iterator[str]:
    """Verifies the index in `folder`: yields a line for all that holds, raises FormatError at what does not.

    `model` is the model to embed again with, if it is not where the manifest says.
    """
    manifest = load_manifest(folder)
    yield f"manifest.json: format version {manifest.format_version}, complete, its fingerprint fits"
    for name, due in sorted(manifest.files.items()):
        if not (folder / name).is_file():
            raise FormatError(f"{name} is missing")
        if file_sha256(folder / name) != due:
            raise FormatError(f"{name} is damaged: its checksum is not the manifest's")
    yield f"data: {len(manifest.files)} file(s) present, checksums right"
    index = load_index(folder)
    n, d = index.embeddings.shape
    yield f"embeddings: {n:,} x {d}, unit length, finite"
    yield f"labels: all within {len(manifest.classes)} class(es); coordinates finite"
    yield _check_rows(index)
    yield _check_images(index)
    yield _check_neighbors(index, folder)
    if index.manifest.approximate:
        yield _check_cells(index, folder)
    yield _check_metrics(index)
    yield _check_model(index, model)


def _check_rows(index: Index) -> str:
    rows = index.source_rows
    if len(np.unique(rows)) != len(rows) or not 0 <= rows.min() <= rows.max() < index.manifest.source.rows:
        raise FormatError(f"source rows repeat or lie outside 0 to {index.manifest.source.rows - 1}")
    return f"source rows: each once, within {index.manifest.source.rows:,}"


def _check_images(index: Index) -> str:
    for item, data in enumerate(index.images):
        try:
            Image.open(BytesIO(data)).load()
        except Exception as error:  # Pillow raises whatever the damage trips over
            raise FormatError(f"image of item {item} cannot be decoded: {error}") from None
    return f"images: all {len(index.images):,} decode"


def _check_neighbors(index: Index, folder: Path) -> str:
    """The listed neighbors against a search, by their distances, so that ties may stand in any order."""
    column = read_table(folder, index.manifest, ["neighbors"])["neighbors"]
    items = np.random.default_rng(index.manifest.seed).permutation(index.manifest.count)[:PROBED]
    for item in items.tolist():
        listed = column[item].as_py() or {}
        due = search(index, index.embeddings[item], LISTED_NEIGHBORS, exclude=item)
        if not _are_nearest(index, item, listed, [1 - neighbor.similarity for neighbor in due]):
            raise FormatError(f"the listed neighbors of item {item} are not its nearest")
    return f"neighbors: right for {len(items)} items searched again"


def _are_nearest(index: Index, item: int, listed: dict, distances: list[float]) -> bool:
    """Whether the listed ids and distances are those of the nearest items, at these distances."""
    ids, far = listed.get("ids") or [], listed.get("distances") or []
    if not len(ids) == len(set(ids)) == len(far) == len(distances):
        return False
    if not all(isinstance(near, int) and 0 <= near < index.manifest.count and near != item for near in ids):
        return False
    real = 1 - index.embeddings[np.array(ids, int)] @ index.embeddings[item]
    return bool(np.allclose(far, distances, atol=1e-4) and np.allclose(real, distances, atol=1e-4))


def _check_cells(index: Index, folder: Path) -> str:
    """The cells of approximate search, and where FAISS is there what a search in them finds."""
    stated = index.manifest.approximate
    cells = len(read_cells(folder, index.manifest).centers)
    if cells != stated.cells:
        raise FormatError(f"there are {cells} cells, the manifest says {stated.cells}")
    try:
        searcher = open_faiss(index, folder)
    except SearchError:
        return (
            f"approximate search: each item in one of {cells:,} cells; NOT tried, for FAISS is not installed"
        )
    recall = recall_of(searcher, index, trial_of(index, stated.queries, 10))
    if abs(recall - stated.recall_at_10) > 0.005:  # what FAISS rounds may differ between machines
        raise FormatError(f"recall@10 is {recall:.4f}, the manifest says {stated.recall_at_10:.4f}")
    return f"approximate search: each item in one of {cells:,} cells; recall@10 {recall:.4f} measured again"


def _check_metrics(index: Index) -> str:
    found, labels = index.manifest.metrics, index.labels
    if found.knn_accuracy is None:
        return "metrics: none that use classes"
    items = sample_items(index.manifest.count, index.manifest.seed)
    accuracy = knn_accuracy(nearest_items(index.embeddings, items, VOTERS), labels)
    on_map = silhouette(index.map[items], labels[items], "euclidean")
    for name, stated, measured in (
        ("k-NN accuracy", found.knn_accuracy, accuracy),
        ("silhouette on the map", found.silhouette_map, on_map),
    ):
        if stated is not None and abs(stated - (measured or 0.0)) > 1e-3:
            raise FormatError(f"{name} is {measured:.4f}, the manifest says {stated:.4f}")
    _check_votes(index)
    return f"metrics: k-NN accuracy {accuracy:.4f} and silhouette on the map measured again"


def _check_votes(index: Index) -> None:
    """The vote on every item against what the manifest says of all of them."""
    if index.manifest.quality is None or index.predicted is None:
        return
    stated, counted = index.manifest.quality.votes.accuracy, float((index.predicted == index.labels).mean())
    if abs(stated - counted) > 1e-6:
        raise FormatError(f"{counted:.4f} of the predicted classes are right, the manifest says {stated:.4f}")


def _check_model(index: Index, model: str | None) -> str:
    made_by = index.manifest.model
    try:
        reference, folder = fetch_model(model or made_by.id, None if model else made_by.revision)
        encoder = Dinov2Encoder(folder, "cpu", made_by.pooling, precision="float32")
    except ModelError as error:
        return f"model: NOT verified. {error}"
    if reference.revision != made_by.revision:
        raise FormatError(
            f"the embeddings are of {made_by.id} at {made_by.revision}, this is {reference.revision}"
        )
    cosine = agreement(index, encoder)
    if cosine < AGREEMENT:
        raise FormatError(
            f"images embedded again differ from the index (cosine {cosine:.4f}, expected {AGREEMENT})"
        )
    return f"model: {made_by.id} embeds images again to the same vectors (cosine {cosine:.6f} or more)"
