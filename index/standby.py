"""The index that was asked for, or the bundled sample until it can be had."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread

from index.hub import Fetched, fetch_snapshot, is_hub_id
from index.live import LiveModel, pauses, without_folders
from index.manifest import FormatError
from index.searching import Searching
from index.store import Index, load_index

PATIENCE = 20.0  # seconds that a start waits for the Hub before it shows the sample


@dataclass(frozen=True)
class Opened:
    """An index that answers now, with its live model, and how it is searched.

    `folder` holds its files. `revision` is its commit, if it came from the Hub; `reason` says why an earlier
    download had to be taken.
    """

    index: Index
    live: LiveModel
    searching: Searching
    folder: Path
    is_sample: bool = False
    revision: str | None = None
    reason: str | None = None


class Standby:
    """Keeps an index open: a folder's, a Hub dataset's, or the sample's until the Hub dataset comes."""

    def __init__(
        self,
        location: str,
        revision: str | None,
        sample: Path,
        model: str | None = None,
        engine: str = "auto",
    ) -> None:
        """`location` is a folder or a Hub id, `model` takes the place of the model that its index names.

        `engine` is how it is searched, as Searching has it.
        """
        self.location = location
        self.revision = revision
        self._sample = sample
        self._model = model
        self._engine = engine
        self._current: Opened | None = None
        self._problem: str | None = "It is still being downloaded."
        self._serving = False
        self._lock = Lock()
        self._tried = Event()
        self._thread = Thread(target=self._ask_until_it_comes, name="index", daemon=True)

    def open(self, patience: float = PATIENCE) -> None:
        """Opens the index, waiting at most `patience` seconds for the Hub.

        What the Hub does not give is asked for again until it comes. Raises FormatError where a folder holds
        no sound index, or `location` is neither a folder nor a Hub id.
        """
        if Path(self.location).expanduser().is_dir() or not is_hub_id(self.location):
            self._take(fetch_snapshot(self.location, self.revision))
            return
        self._thread.start()
        self._tried.wait(patience)
        if self._current is None:
            self._stand_in()

    def serve(self) -> None:
        """Starts the live model: once the page is up, for loading a model takes the processor."""
        with self._lock:
            self._serving = True
            self.current.live.start()
            self.current.searching.start()

    @property
    def current(self) -> Opened:
        """What answers now; the next call may find another index."""
        if self._current is None:
            raise RuntimeError("Standby.open comes first")
        return self._current

    @property
    def problem(self) -> str | None:
        """Why the sample stands in for what was asked for, one or more sentences; None if it does not."""
        return self._problem if self.current.is_sample and self._thread.is_alive() else None

    def _ask_until_it_comes(self) -> None:
        try:
            for pause in pauses():
                try:
                    return self._take(fetch_snapshot(self.location, self.revision))
                except FormatError as error:
                    self._note(error)
                self._tried.set()
                time.sleep(pause)
        finally:
            self._tried.set()

    def _take(self, fetched: Fetched) -> None:
        """Makes a fetched index the one that answers. Raises FormatError if it is unsound."""
        index = load_index(fetched.folder)
        is_sample = fetched.folder.resolve() == self._sample.resolve()
        live, searching = LiveModel(index, self._model), Searching(index, fetched.folder, self._engine)
        opened = Opened(index, live, searching, fetched.folder, is_sample, fetched.revision, fetched.reason)
        with self._lock:
            before, self._current = self._current, opened
            if before:
                before.live.stop()
                before.searching.stop()
                print(f"{self.location} has come, at revision {fetched.revision}.", file=sys.stderr)
            if self._serving:
                opened.live.start()
                searching.start()

    def _stand_in(self) -> None:
        index = load_index(self._sample)
        with self._lock:
            searching = Searching(index, self._sample)
            sample = Opened(index, LiveModel(index), searching, self._sample, is_sample=True)
            self._current = self._current or sample

    def _note(self, error: FormatError) -> None:
        problem = without_folders(str(error))
        if problem != self._problem:
            print(f"{self.location} cannot be opened, the sample stands in: {error}", file=sys.stderr)
        self._problem = problem
