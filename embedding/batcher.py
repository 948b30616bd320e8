"""One encoder for many threads: calls that come while it is busy share the next forward pass."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedding.encoder import Encoder

MOST = 16  # images in one forward pass: on a processor more of them are no faster, and all wait for the last


@dataclass
class _Call:
    images: list[Image.Image]
    rows: NDArray[np.float32] | None = None
    error: Exception | None = None

    @property
    def answered(self) -> bool:
        return self.rows is not None or self.error is not None


class Batcher:
    """An encoder as its callers see it, each as if alone.

    Nobody waits for company: a call that finds the encoder idle runs at once. Those that come meanwhile are
    gathered, and whoever of them is first runs it for all. There is no thread and no clock in it.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.dimension = encoder.dimension
        self._waiting: deque[_Call] = deque()
        self._running = Lock()

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """As the encoder's own, from any thread; what it raises at these images is raised here only."""
        call = _Call(list(images))
        self._waiting.append(call)
        while not call.answered:
            with self._running:
                if not call.answered:
                    self._answer(self._gathered())
        if call.error is not None:
            raise call.error
        return call.rows

    def received(self, image: Image.Image) -> NDArray[np.float32]:
        """As the encoder's own: no forward pass is needed for it."""
        return self._encoder.received(image)

    def _gathered(self) -> list[_Call]:
        """The calls that waited longest: as many as fit into one pass, one at least."""
        calls = [self._waiting.popleft()]
        count = len(calls[0].images)
        while self._waiting and count + len(self._waiting[0].images) <= MOST:
            calls.append(self._waiting.popleft())
            count += len(calls[-1].images)
        return calls

    def _answer(self, calls: list[_Call]) -> None:
        try:
            rows = self._encoder.encode([image for call in calls for image in call.images])
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:  # one of them is to blame, and the others need not know
                self._answer([call])
            return
        start = 0
        for call in calls:
            call.rows = rows[start : start + len(call.images)]
            start += len(call.images)
