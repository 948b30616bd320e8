"""The live model beside an index: loaded in the background, and trusted only if it agrees with the index."""

import re
import sys
from collections.abc import Iterator
from threading import Event, Lock, Thread

import numpy as np

from embedding.batcher import Batcher
from embedding.encoder import Dinov2Encoder, Encoder, ModelError, fetch_model
from embedding.image import QueryError
from embedding.zero_gpu import PRECISION, lend
from index.query import item_image
from index.store import Index

AGREEMENT = 0.999  # cosine between a stored embedding and the same image embedded now
REEMBEDDED = 4  # images that are embedded again to see whether model and index agree
FIRST_PAUSE = (
    5.0  # seconds before what is out of reach is asked for again; every further pause is twice as long
)
LAST_PAUSE = 30.0
ONE_AT_A_TIME = (
    Lock()
)  # transformers imports its parts lazily, and two threads at it find half of them missing


class LiveModel:
    """The encoder that answers uploads and sketches: loading, ready, or unavailable for a reason.

    A model that is out of reach is asked for again until it comes, one that does not fit the index is not.
    """

    def __init__(self, index: Index, model: str | None = None) -> None:
        """The index's model, or `model` instead; nothing is loaded before `start`."""
        self._index = index
        self._model = model
        self._encoder: Encoder | None = None
        self._reason: str | None = None
        self._settled = Event()
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Starts loading, which takes seconds, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Gives up a model that has not come yet."""
        self._stopped.set()

    @property
    def loading(self) -> bool:
        return not self._settled.is_set()

    @property
    def expected(self) -> bool:
        """Whether the model is on its way: being loaded, or asked for again now and then."""
        return self.loading or self._thread.is_alive()

    @property
    def reason(self) -> str | None:
        """Why uploads and sketches cannot be answered, None if they can or the model is still loading."""
        return self._reason

    @property
    def ready(self) -> Encoder | None:
        """The encoder if it is here already."""
        return self._encoder

    def encoder(self) -> Encoder:
        """The encoder, waited for. Raises QueryError where it cannot be had or does not fit the index."""
        self._settled.wait()
        encoder = self._encoder
        if encoder is None:
            raise QueryError(self._reason or "The model could not be loaded.")
        return encoder

    def _run(self) -> None:
        try:
            for pause in pauses():
                if self._loaded() or self._stopped.wait(pause):
                    return
        except Exception:
            self._reason = "Uploads and sketches cannot be answered now: the model could not be loaded."
            raise
        finally:
            self._settled.set()

    def _loaded(self) -> bool:
        """Whether there is nothing left to try: the model is here, or will never fit."""
        try:
            with ONE_AT_A_TIME:
                self._encoder = Batcher(load_agreeing(self._index, self._model))
            self._reason = None
            done = True
        except ModelError as error:
            reason = f"Uploads and sketches cannot be answered now. {without_folders(str(error))}"
            if reason != self._reason:
                print(error, file=sys.stderr)
            self._reason = reason
            done = not error.temporary
        self._settled.set()
        return done


def pauses() -> Iterator[float]:
    """Seconds to wait between attempts: 5, then always twice as long, up to half a minute."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LAST_PAUSE)


def load_agreeing(index: Index, model: str | None = None) -> Encoder:
    """The index's own model, loaded and compared with the index. Raises ModelError where they disagree."""
    made_by = index.manifest.model
    reference, folder = fetch_model(model or made_by.id, None if model else made_by.revision)
    encoder = lend(Dinov2Encoder(folder, pooling=made_by.pooling, precision=PRECISION))
    cosine = agreement(index, encoder)
    if cosine < AGREEMENT:
        raise ModelError(
            f"The index was made by {made_by.id}; {reference.id} disagrees (cosine {cosine:.3f})."
        )
    return encoder


def without_folders(sentence: str) -> str:
    """The sentence with only the last part of every path: how the machine is laid out is its own affair."""
    return re.sub(r"(?<!\S)~?(?:/[^\s/]+)*/(?=[^\s/])", "", sentence)


def agreement(index: Index, encoder: Encoder) -> float:
    """The smallest cosine of stored embeddings with the same images embedded now; -1 at another length."""
    if encoder.dimension != index.manifest.dimension:
        return -1.0
    items = np.linspace(0, index.manifest.count - 1, REEMBEDDED).round().astype(int)
    again = encoder.encode([item_image(index, item) for item in items])
    return float((again * index.embeddings[items]).sum(1).min())
