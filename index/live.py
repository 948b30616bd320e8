"""The live model beside an index: loaded in the background, and trusted only if it agrees with the index."""

import re
import sys
from threading import Event, Thread

import numpy as np

from embedding.encoder import Dinov2Encoder, Encoder, ModelError, fetch_model
from embedding.image import QueryError
from index.query import item_image
from index.store import Index

AGREEMENT = 0.999  # cosine between a stored embedding and the same image embedded now
REEMBEDDED = 4  # images that are embedded again to see whether model and index agree


class LiveModel:
    """The encoder that answers uploads and sketches: loading, ready, or unavailable for a reason."""

    def __init__(self, index: Index, model: str | None = None) -> None:
        """The index's model, or `model` instead; nothing is loaded before `start`."""
        self._index = index
        self._model = model
        self._encoder: Encoder | None = None
        self._reason: str | None = None
        self._settled = Event()

    def start(self) -> None:
        """Starts loading, which takes seconds, in the background."""
        Thread(target=self._load, name="model", daemon=True).start()

    @property
    def loading(self) -> bool:
        return not self._settled.is_set()

    @property
    def reason(self) -> str | None:
        """Why uploads and sketches cannot be answered, None if they can or the model is still loading."""
        return self._reason

    def encoder(self) -> Encoder:
        """The encoder, waited for. Raises QueryError where it cannot be had or does not fit the index."""
        self._settled.wait()
        if self._encoder is None:
            raise QueryError(self._reason or "The model could not be loaded.")
        return self._encoder

    def _load(self) -> None:
        try:
            self._encoder = load_agreeing(self._index, self._model)
        except ModelError as error:
            print(error, file=sys.stderr)
            self._reason = f"Uploads and sketches cannot be answered now. {_without_folders(str(error))}"
        except Exception as error:
            self._reason = "Uploads and sketches cannot be answered now: the model could not be loaded."
            raise error
        finally:
            self._settled.set()


def load_agreeing(index: Index, model: str | None = None) -> Encoder:
    """The index's own model, loaded and compared with the index. Raises ModelError where they disagree."""
    made_by = index.manifest.model
    reference, folder = fetch_model(model or made_by.id, None if model else made_by.revision)
    encoder = Dinov2Encoder(folder, pooling=made_by.pooling)
    cosine = agreement(index, encoder)
    if cosine < AGREEMENT:
        raise ModelError(
            f"The index was made by {made_by.id}; {reference.id} disagrees (cosine {cosine:.3f})."
        )
    return encoder


def _without_folders(sentence: str) -> str:
    """The sentence with only the last part of every path: how the machine is laid out is its own affair."""
    return re.sub(r"(?<!\S)~?(?:/[^\s/]+)*/(?=[^\s/])", "", sentence)


def agreement(index: Index, encoder: Encoder) -> float:
    """The smallest cosine of stored embeddings with the same images embedded now; -1 at another length."""
    if encoder.dimension != index.manifest.dimension:
        return -1.0
    items = np.linspace(0, index.manifest.count - 1, REEMBEDDED).round().astype(int)
    again = encoder.encode([item_image(index, item) for item in items])
    return float((again * index.embeddings[items]).sum(1).min())
