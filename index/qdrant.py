"""Search in Qdrant, a vector database: for indexes that several machines share, or a cluster holds."""

import hashlib
import os
from time import monotonic, sleep
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from index.search import Neighbor, SearchError, best_of, check_dimension, recall_of, trial_of
from index.store import Index

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

AT_ONCE = 768_000  # numbers in one request: some 15 MB of JSON, where a server takes 32 by default
INDEXED_WITHIN = 1800  # seconds that a server may take to sort the vectors in
PATIENCE = 5  # seconds that a request may take
MORE = 8  # asked for beside k: one may be the query itself, and the real vectors decide the last places
LOOKED_AT = 128  # hnsw_ef: candidates that the search keeps
JUDGED = 100  # items that recall is measured on


class QdrantSearch:
    """Asks a collection of the index's vectors, filling it first if need be.

    A collection is named after the vectors in it, so that indexes do not get in each other's way and every
    copy of the app finds the same one. Found neighbors carry their real similarities.
    """

    def __init__(self, client: "QdrantClient", index: Index) -> None:
        """Takes as long as the vectors take to be sent, the first time. Raises SearchError."""
        self._client, self._index = client, index
        self.collection = collection_name(index)
        self._fill()
        self._wait_until_indexed()
        self.recall_at_10 = recall_of(self, index, trial_of(index, JUDGED, 10))

    def search(
        self, embedding: NDArray[np.float32], k: int, exclude: int | None = None
    ) -> tuple[Neighbor, ...]:
        """The k nearest items of those that Qdrant names. Raises SearchError."""
        from qdrant_client import models  # optional, and a slow import

        check_dimension(self._index, embedding)
        found = self._ask(
            "query_points",
            query=embedding.tolist(),
            limit=k + MORE,
            search_params=models.SearchParams(hnsw_ef=max(LOOKED_AT, 2 * k)),
            with_payload=False,
        )
        items = self._known([point.id for point in found.points])
        items = items[items != (-1 if exclude is None else exclude)]
        if len(items) < min(k, self._index.manifest.count - (exclude is not None)):
            raise SearchError(f"Qdrant's collection {self.collection} has lost vectors: delete it there.")
        return best_of(self._index, items, embedding, k)

    def _known(self, ids: list[object]) -> NDArray[np.int64]:
        """Item numbers out of an answer. Raises SearchError where there are others."""
        count = self._index.manifest.count
        if not all(type(number) is int and 0 <= number < count for number in ids):
            raise SearchError(f"Qdrant's collection {self.collection} holds other things than this index.")
        return np.array(ids, np.int64)

    def _fill(self) -> None:
        """Sends the vectors that are not there yet. Raises SearchError where they do not stay."""
        from qdrant_client import models  # optional, and a slow import

        count, dimension = self._index.embeddings.shape
        if not self._ask("collection_exists"):
            vectors = models.VectorParams(size=dimension, distance=models.Distance.DOT)
            self._ask("create_collection", vectors_config=vectors)
        step = max(1, AT_ONCE // dimension)
        for start in (
            self._there() // step * step,
            0,
        ):  # after an interrupted start; where others are missing
            if self._there() == count:
                return
            self._send(start, step)
        if self._there() != count:
            raise SearchError(
                f"Qdrant's collection {self.collection} holds {self._there():,} vectors, "
                f"expected {count:,}: delete it there."
            )

    def _send(self, start: int, step: int) -> None:
        """Sends all vectors from `start` on, `step` in a request."""
        from qdrant_client import models

        count = self._index.manifest.count
        for first in tqdm(range(start, count, step), "Sending", unit=f" x {step} vectors"):
            rows = self._index.embeddings[first : first + step]
            batch = models.Batch(ids=list(range(first, first + len(rows))), vectors=rows.tolist())
            self._ask("upsert", points=batch, wait=True)

    def _there(self) -> int:
        return self._ask("count", exact=True).count

    def _wait_until_indexed(self) -> None:
        """Waits while the server sorts vectors in: until then it looks at all, and recall says nothing."""
        end = monotonic() + INDEXED_WITHIN
        while self._ask("get_collection").status == "yellow" and monotonic() < end:
            sleep(1)

    def _ask(self, what: str, **arguments: object) -> object:
        """One call about the collection. Raises SearchError."""
        from qdrant_client.common.client_exceptions import QdrantException  # optional, as above
        from qdrant_client.http.exceptions import ApiException

        try:
            return getattr(self._client, what)(self.collection, **arguments)
        except (ApiException, QdrantException, OSError, ValueError) as error:
            said = str(error).strip().split("\n")[0] or type(error).__name__
            raise SearchError(f"Qdrant does not answer: {said}", temporary=True) from None


def open_qdrant(index: Index, url: str) -> QdrantSearch:
    """The search at `url`, with the key in QDRANT_API_KEY if there is one. Raises SearchError."""
    try:
        from qdrant_client import QdrantClient  # optional, and a slow import
    except ImportError:
        raise SearchError(
            "Search in Qdrant needs its client, which is not installed: pip install qdrant-client."
        ) from None
    key = os.environ.get("QDRANT_API_KEY") or None
    try:
        client = QdrantClient(url=url, api_key=key, timeout=PATIENCE, check_compatibility=False)
    except (ValueError, OSError) as error:
        raise SearchError(f"This is no address of a Qdrant: {str(error).splitlines()[0]}") from None
    return QdrantSearch(client, index)


def collection_name(index: Index) -> str:
    """The name of the collection that holds the vectors of an index: the same for equal vectors."""
    return f"image-similarity-{hashlib.sha256(np.ascontiguousarray(index.embeddings)).hexdigest()[:16]}"
