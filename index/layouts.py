"""Layouts are computed, timed and measured; one is added to an index that is there already."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from index.card import write_card
from index.manifest import Manifest, Projection, ProjectionMetrics
from index.projection import project, projection_name, tsne_projection, umap_projection
from index.quality import Reference, measure_map, nearest_items, reference_of
from index.search import sample_items
from index.source import SourceError
from index.store import SHARD, Index, NeighborLists, load_index, read_neighbors, save_index
from index.work import bring_along, keep_or_clear, swap, work_folder, write_whole

WARM_UP = 200  # items of a layout that is thrown away: the first UMAP compiles for seconds


@dataclass(frozen=True)
class Layout:
    """One map: how it was made, with its metrics and seconds, and its coordinates (n, 2) float32."""

    projection: Projection
    coordinates: NDArray[np.float32]


@dataclass(frozen=True)
class LayoutRequest:
    """A layout to add: `method` is umap, pca or tsne; the parameters of the other methods are not used."""

    method: str
    n_neighbors: int = 15
    min_dist: float = 0.1
    perplexity: float = 30.0


def lay_out(
    folder: Path,
    projections: Mapping[str, Projection],
    embeddings: NDArray[np.float32],
    neighbors: NeighborLists,
    reference: Reference,
    say: Callable[[str], None],
    compare: bool,
) -> dict[str, Layout]:
    """The layouts by name, each a file in `folder` once it is finished; those that are there are kept.

    To compare their seconds, UMAP is compiled before the first one.
    """
    folder.mkdir(exist_ok=True)
    left = [name for name in projections if not (folder / f"{name}.npz").is_file()]
    if compare and any(projections[name].method == "umap" for name in left):
        _warm_up(embeddings)
    for number, name in enumerate(left, start=len(projections) - len(left) + 1):
        if compare:
            say(f"Layout {number} of {len(projections)}: {name}")
        layout = _make(projections[name], embeddings, neighbors, reference)
        _save_layout(folder / f"{name}.npz", layout)
    return {name: _load_layout(folder / f"{name}.npz") for name in projections}


def add_layout(folder: Path, request: LayoutRequest, say: Callable[[str], None] = print) -> str:
    """Adds a layout to the index in `folder` and returns its name; interrupted, the old index stays whole.

    Raises SourceError where the index has this layout already, FormatError where it is not sound.
    """
    folder = folder.resolve()
    with work_folder(folder) as work:
        index = load_index(folder)
        projection = _wanted(index.manifest, request)
        name = _new_name(index.manifest, projection)
        keep_or_clear(work, json.dumps({"add": asdict(projection), "to": index.manifest.files}), say)
        stored = read_neighbors(folder)
        neighbors = _far_enough(index, stored, projection)
        reference = _reference(index, stored)
        parts = work / "layouts"
        layouts = lay_out(parts, {name: projection}, index.embeddings, neighbors, reference, say, True)
        _save(work, folder, _with_layout(index, name, layouts[name], reference), stored)
        swap(work, folder)
    return name


def _make(
    projection: Projection, embeddings: NDArray[np.float32], neighbors: NeighborLists, reference: Reference
) -> Layout:
    start = perf_counter()
    coordinates = project(embeddings, projection, neighbors, progress=True)
    seconds = round(perf_counter() - start, 2)
    metrics = measure_map(coordinates, reference)
    return Layout(replace(projection, metrics=metrics, seconds=seconds), coordinates)


def _warm_up(embeddings: NDArray[np.float32]) -> None:
    few = embeddings[:WARM_UP]
    nearest = nearest_items(few, np.arange(len(few)), 14)
    distances = (1 - nearest.similarities).astype(np.float32)
    project(few, umap_projection(len(few), 15, 0.1, 0), NeighborLists(nearest.ids, distances))


def _save_layout(file: Path, layout: Layout) -> None:
    about = json.dumps(asdict(layout.projection))
    write_whole(file, lambda stream: np.savez(stream, coordinates=layout.coordinates, about=np.array(about)))


def _load_layout(file: Path) -> Layout:
    with np.load(file, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        metrics = ProjectionMetrics(**about["metrics"])
        projection = Projection(about["method"], about["parameters"], metrics, about["seconds"])
        return Layout(projection, stored["coordinates"])


def _wanted(manifest: Manifest, request: LayoutRequest) -> Projection:
    if request.method == "umap":
        return umap_projection(manifest.count, request.n_neighbors, request.min_dist, manifest.seed)
    if request.method == "tsne":
        return tsne_projection(manifest.count, request.perplexity, manifest.seed)
    return Projection("pca")


def _new_name(manifest: Manifest, projection: Projection) -> str:
    for name, there in manifest.projections.items():
        if (there.method, there.parameters) == (projection.method, projection.parameters):
            raise SourceError(f"The index has this layout already: it is called {name}.")
    return projection_name(projection)


def _far_enough(index: Index, stored: NeighborLists, projection: Projection) -> NeighborLists:
    """The stored neighbors where the projection needs no more, else as many as it needs, searched again."""
    needed = int(projection.parameters.get("n_neighbors", 1)) - 1
    if needed <= stored.ids.shape[1]:
        return stored
    nearest = nearest_items(index.embeddings, np.arange(index.manifest.count), needed)
    return NeighborLists(nearest.ids, (1 - nearest.similarities).astype(np.float32))


def _reference(index: Index, stored: NeighborLists) -> Reference:
    manifest = index.manifest
    labels = index.labels if manifest.source.labeled else None
    items = sample_items(manifest.count, manifest.seed)
    return reference_of(index.embeddings, items, stored.ids, labels)


def _with_layout(index: Index, name: str, layout: Layout, reference: Reference) -> Index:
    """The index with one more layout, and metrics for those that were the only one when they were made."""
    measured = {
        there: replace(projection, metrics=measure_map(index.coordinates[there], reference))
        for there, projection in index.manifest.projections.items()
        if projection.metrics is None
    }
    projections = index.manifest.projections | measured | {name: layout.projection}
    return replace(
        index,
        manifest=replace(index.manifest, projections=projections),
        coordinates=index.coordinates | {name: layout.coordinates},
    )


def _save(work: Path, folder: Path, index: Index, neighbors: NeighborLists) -> None:
    """Writes `work`/index: new shards, a new card, and the other files of the index as they are."""
    shutil.rmtree(work / "index", ignore_errors=True)
    bring_along(folder, work / "index", [name for name in index.manifest.files if not name.startswith(SHARD)])
    save_index(index, neighbors, work / "index")
    write_card(index.manifest, work / "index")
