"""How an open index is searched: by the engine that was chosen, exactly until it is ready or if it fails."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from index.approximate import WORTHWHILE, open_faiss
from index.live import pauses, without_folders
from index.manifest import FormatError, Manifest
from index.qdrant import open_qdrant
from index.search import ExactSearch, Neighbor, Searcher, SearchError
from index.store import Index

WEB = ("http://", "https://")
REST = 30.0  # seconds for which an engine that failed is not asked again

Engine = Literal["exact", "faiss", "qdrant"]


@dataclass(frozen=True)
class SearchStatus:
    """Which engine was `asked` for and which is `answering`, with its recall@10 where that is not 1.

    `problem` says in a sentence why exact search stands in for another, None if it does not.
    """

    asked: Engine
    answering: Engine
    recall_at_10: float | None
    problem: str | None


class Searching:
    """The searcher of an open index. It never fails: what the engine does not answer, exact search does."""

    def __init__(self, index: Index, folder: Path, engine: str = "auto") -> None:
        """`engine` is auto, exact, faiss, or the URL of a Qdrant; nothing but exact search before `start`.

        auto is faiss where the index in `folder` has cells and FAISS is there.
        """
        self.asked = chosen(index, engine)
        self._index, self._folder, self._setting = index, folder, engine
        self._exact = ExactSearch(index)
        self._fast: Searcher | None = None
        self._recall: float | None = None
        self._problem: str | None = None
        self._resting_until = 0.0
        self._stopped = Event()
        self._thread = Thread(target=self._open_until_it_comes, name="search", daemon=True)

    def start(self) -> None:
        """Opens the engine in the background, again and again if it may come yet."""
        if self.asked != "exact":
            self._thread.start()
        elif self._setting == "auto" and (hint := advice(self._index.manifest)):
            print(hint, file=sys.stderr)

    def stop(self) -> None:
        """Gives up an engine that has not come yet."""
        self._stopped.set()

    def search(
        self, embedding: NDArray[np.float32], k: int, exclude: int | None = None
    ) -> tuple[Neighbor, ...]:
        """As index.search.Searcher has it, but for SearchError."""
        fast = self._fast
        if fast is not None and monotonic() >= self._resting_until:
            try:
                found = fast.search(embedding, k, exclude)
                self._note(None)
                return found
            except SearchError as error:
                self._resting_until = monotonic() + REST
                self._note(str(error))
        return self._exact.search(embedding, k, exclude)

    @property
    def status(self) -> SearchStatus:
        """What answers now."""
        if self.asked == "exact":
            return SearchStatus("exact", "exact", None, None)
        if self._fast is None or self._problem:
            return SearchStatus(self.asked, "exact", None, self._problem or "It is still being opened.")
        return SearchStatus(self.asked, self.asked, self._recall, None)

    def _open_until_it_comes(self) -> None:
        for pause in pauses():
            try:
                self._open()
                return
            except (SearchError, FormatError) as error:
                self._note(str(error))
                if not getattr(error, "temporary", False) or self._stopped.wait(pause):
                    return

    def _open(self) -> None:
        """Takes the engine into use. Raises SearchError or FormatError."""
        if self.asked == "faiss":
            self._fast = open_faiss(self._index, self._folder)
            stored = self._index.manifest.approximate
            self._recall = stored and stored.recall_at_10
        else:
            opened = open_qdrant(self._index, self._setting)
            self._fast, self._recall = opened, opened.recall_at_10
        self._note(None)

    def _note(self, problem: str | None) -> None:
        """Keeps what visitors may know of a problem, and logs it once."""
        if problem and problem != self._problem:
            print(f"Exact search answers instead of {self.asked}. {problem}", file=sys.stderr)
        self._problem = problem and without_folders(problem)


def check_engine(setting: str) -> str:
    """The setting, if it is auto, exact, faiss, or a URL. Raises ValueError at anything else."""
    if setting in ("auto", "exact", "faiss") or setting.startswith(WEB):
        return setting
    raise ValueError(f"the search is {setting!r}, but it must be auto, exact, faiss or the URL of a Qdrant")


def chosen(index: Index, setting: str) -> Engine:
    """The engine that a setting means for an index. Raises ValueError as check_engine does."""
    if check_engine(setting).startswith(WEB):
        return "qdrant"
    if setting == "auto":
        return "faiss" if index.manifest.approximate and find_spec("faiss") else "exact"
    return "faiss" if setting == "faiss" else "exact"


def advice(manifest: Manifest) -> str | None:
    """What to tell the owner of an index that is large for exact search, None for any other."""
    if manifest.count <= WORTHWHILE or (manifest.approximate and find_spec("faiss")):
        return None
    return (
        f"With {manifest.count:,} items approximate search is faster: `pip install faiss-cpu`, "
        "then `python -m index approximate` on the index adds it, and measures what it finds."
    )
