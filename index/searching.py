"""How an open index is searched: by the engine that was chosen, exactly until it is ready or if it fails."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from index.approximate import WORTHWHILE, open_faiss
from index.live import pauses, without_folders
from index.manifest import FormatError, Manifest
from index.qdrant import open_qdrant
from index.search import ExactSearch, Neighbor, Searcher, SearchError
from index.store import Index

WEB = ("http://", "https://")
REST = 30.0  # seconds for which an engine that failed is left alone

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
        self._problem: str | None = None if self.asked == "exact" else "It is still being opened."
        self._lock = Lock()
        self._lost = Event()
        self._stopped = Event()
        self._thread = Thread(target=self._keep_open, name="search", daemon=True)

    def start(self) -> None:
        """Opens the engine in the background, again and again if it may come yet."""
        if self.asked != "exact":
            self._thread.start()
        elif self._setting == "auto" and (hint := advice(self._index.manifest)):
            print(hint, file=sys.stderr)

    def stop(self) -> None:
        """Gives up the engine, also one that has not come yet."""
        self._stopped.set()
        self._lost.set()

    def search(
        self, embedding: NDArray[np.float32], k: int, exclude: int | None = None
    ) -> tuple[Neighbor, ...]:
        """As index.search.Searcher has it, but for SearchError."""
        fast = self._fast
        if fast is not None:
            try:
                return fast.search(embedding, k, exclude)
            except SearchError as error:
                self._lose(fast, error)
        return self._exact.search(embedding, k, exclude)

    @property
    def status(self) -> SearchStatus:
        """What answers now."""
        with self._lock:
            if self._fast is None:
                return SearchStatus(self.asked, "exact", None, self._problem)
            return SearchStatus(self.asked, self.asked, self._recall, None)

    def _keep_open(self) -> None:
        try:
            while self._came():
                self._lost.wait()
                self._lost.clear()
                if self._stopped.wait(REST):
                    return
        except Exception:
            self._note("It could not be opened.")
            raise

    def _came(self) -> bool:
        """Waits for the engine; False if it will not come, or is no longer wanted."""
        for pause in pauses():
            try:
                self._open()
                return True
            except (SearchError, FormatError) as error:
                self._note(str(error))
                if not getattr(error, "temporary", False) or self._stopped.wait(pause):
                    return False
        return False

    def _open(self) -> None:
        """Takes the engine into use. Raises SearchError or FormatError."""
        if self.asked == "faiss":
            fast: Searcher = open_faiss(self._index, self._folder)
            stored = self._index.manifest.approximate
            recall = stored and stored.recall_at_10
        else:
            fast = open_qdrant(self._index, self._setting)
            recall = fast.recall_at_10
        with self._lock:
            self._fast, self._recall, self._problem = fast, recall, None

    def _lose(self, fast: Searcher, error: SearchError) -> None:
        """Leaves an engine that failed alone for a while, then opens it anew."""
        with self._lock:
            if self._fast is not fast:
                return  # another query has seen it fail, too
            self._fast = None
        self._note(str(error))
        self._lost.set()

    def _note(self, problem: str) -> None:
        """Keeps what visitors may know of a problem, and logs it once."""
        if without_folders(problem) != self._problem:
            print(f"Exact search answers instead of {self.asked}. {problem}", file=sys.stderr)
        with self._lock:
            self._problem = without_folders(problem)


def check_engine(setting: str) -> str:
    """The setting, if it is auto, exact, faiss, or a URL. Raises ValueError at anything else."""
    if setting in ("auto", "exact", "faiss") or (setting.startswith(WEB) and _is_address(setting)):
        return setting
    raise ValueError(f"the search is {setting!r}, but it must be auto, exact, faiss or the URL of a Qdrant")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False


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
