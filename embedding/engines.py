"""Where images are embedded: in this process, in several of this machine, or on a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from embedding.cluster import ray_cluster
from embedding.encoder import choose_device
from embedding.parts import Count, EmbeddedPart, Part, Recipe, embed_here
from embedding.workers import embed_with_workers, worker_places


@dataclass(frozen=True)
class Workers:
    """Who embeds. It changes no byte of an index, so nothing of it is written down.

    `count` is None for one process here, and on a cluster for one a graphics card or one for four cores;
    `address` is a Ray cluster's, None for one of this machine's own.
    """

    engine: Literal["local", "ray"] = "local"
    count: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Engine:
    """Encoders on a `device`, somewhere: `embed` gives the parts as they are done, in any order."""

    device: str
    embed: Callable[[Recipe, Sequence[Part], Count], Iterator[EmbeddedPart]]


@contextmanager
def open_engine(workers: Workers, device: str) -> Iterator[Engine]:
    """The engine until the end of the block. Raises ModelError, and EngineError where it cannot be had."""
    if workers.engine == "ray":
        with ray_cluster(workers.address, workers.count, device) as cluster:
            yield Engine(cluster.device, cluster.embed)
        return
    device = choose_device(device)
    if workers.count in (None, 1):
        yield Engine(device, partial(_embed_here, device))
        return
    yield Engine(device, partial(embed_with_workers, worker_places(workers.count, device)))


def _embed_here(device: str, recipe: Recipe, parts: Sequence[Part], count: Count) -> Iterator[EmbeddedPart]:
    return embed_here(partial(recipe.load, device), recipe.batch_size, parts, count)
