"""Image files in parts, embedded by one encoder: what every engine runs, wherever it runs it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedding.encoder import Dinov2Encoder, Encoder, Pooling, encode_batches
from embedding.fetch import ModelError
from embedding.models import Precision


@dataclass(frozen=True)
class Part:
    """Image files that are embedded in one go; `start` is the number of the first one."""

    start: int
    files: Sequence[bytes]


@dataclass(frozen=True)
class EmbeddedPart:
    """The embeddings (n, d) of the part that begins at `start`, and what they were calculated in."""

    start: int
    rows: NDArray[np.float32]
    precision: Precision


@dataclass(frozen=True)
class Recipe:
    """What an encoder is loaded from, in any process: the same recipe gives the same embeddings."""

    folder: Path
    pooling: Pooling
    precision: Precision
    batch_size: int

    def load(self, device: str) -> Dinov2Encoder:
        """The encoder, in seconds. Raises ModelError."""
        return Dinov2Encoder(
            self.folder, device, self.pooling, precision=self.precision, full_batch=self.batch_size
        )


Count = Callable[[int], object]  # told how many images more were embedded
Embed = Callable[[Sequence[Part], Count], Iterator[EmbeddedPart]]  # the parts as they are done, in any order
# torch says by a RuntimeError that memory is too small; a machine may lack a package, or room on its disk
FAILURES = (ModelError, MemoryError, RuntimeError, ImportError, OSError)


class EngineError(Exception):
    """Where images should be embedded cannot be had, or stopped; the message is one sentence."""


def embed_here(
    load: Callable[[], Encoder], batch_size: int, parts: Sequence[Part], count: Count
) -> Iterator[EmbeddedPart]:
    """The parts embedded in this process. `load` gives the encoder, and is called when it is needed."""
    yield from embed_stream(load(), parts, batch_size, count)


def embed_stream(
    encoder: Encoder, parts: Iterable[Part], batch_size: int, count: Count
) -> Iterator[EmbeddedPart]:
    """The parts as they are embedded, in order, in one stream: none begins with a wait for its first images.

    Every part but the last holds whole batches, so that an image shares its batch with the same ones always.
    """
    begun: deque[Part] = deque()

    def images() -> Iterator[Image.Image]:
        for part in parts:
            begun.append(part)  # before its images: when its rows come, it is known
            yield from (Image.open(BytesIO(file)) for file in part.files)

    batches = _counted(encode_batches(encoder, images(), batch_size), count)
    for first in batches:
        part = begun.popleft()
        others = islice(batches, -(-len(part.files) // batch_size) - 1)
        yield EmbeddedPart(part.start, np.concatenate([first, *others]), _precision(encoder))


def failure(error: Exception) -> str:
    """One sentence about an error in a worker, for whoever runs the build."""
    if isinstance(error, ModelError):
        return str(error)
    said = str(error).strip().split("\n")[0]
    if isinstance(error, ImportError):
        return f"A worker lacks a package ({said}): install the requirements there, in the same versions."
    if isinstance(error, MemoryError) or "memory" in said.lower():
        return f"A worker has too little memory: use a smaller --batch-size or fewer --workers. ({said})"
    return f"A worker failed ({said}): mend that, and the same command goes on from here."


def _precision(encoder: Encoder) -> Precision:
    return encoder.precision if isinstance(encoder, Dinov2Encoder) else "float32"


def _counted(batches: Iterator[NDArray[np.float32]], count: Count) -> Iterator[NDArray[np.float32]]:
    for batch in batches:
        count(len(batch))
        yield batch
