"""Parts embedded on a Ray cluster: Ray Data's map_batches over a pool of actors, each with an encoder.

What is mapped are batches as the encoder takes them: an image has the company that it has in a plain build.
The model's files and this package travel with the job: a machine of the cluster needs the packages of
requirements-ray.txt, but no checkout, no Hub and no shared folder.
"""

import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedding.fetch import MODEL_FILES, ModelError
from embedding.parts import FAILURES, Count, EmbeddedPart, EngineError, Part, Recipe, embed_stream, failure

if TYPE_CHECKING:  # slow and optional import
    from ray import ObjectRef
    from ray.data import Dataset

PATIENCE = 5.0  # seconds until an address that does not answer counts as out of reach
CORES_A_WORKER = 4  # by default, where there are no graphics cards
CALL_ON_CARD = 8  # batches in one call of a worker: the next is decoded while the card is at this one
RESTARTS = 3  # of each worker: what kills it more often would do so for ever
MISSING = "--engine ray needs Ray, which is not installed: pip install -r requirements-ray.txt"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process has joined, and how many `workers` with how many `threads` each."""

    device: str
    workers: int
    threads: int
    reserved: float  # cores a worker, for Ray's accounts

    def embed(self, recipe: Recipe, parts: Sequence[Part], count: Count) -> Iterator[EmbeddedPart]:
        """The parts as they are done, in any order. Raises EngineError where the workers fail or die."""
        from ray.exceptions import RayError, RayTaskError  # slow and optional import, as below

        try:
            batches = _embedded_batches(self._mapped(recipe, parts), count)
            yield from assembled(batches, parts, recipe.batch_size)
        except RayTaskError as error:
            if isinstance(error.cause, ImportError):
                raise EngineError(failure(error.cause)) from None
            raise  # a bug in our own code there: its traceback is wanted
        except RayError as error:
            raise EngineError(_trouble(error)) from None

    def _mapped(self, recipe: Recipe, parts: Sequence[Part]) -> "Dataset":
        """The embedded batches, as rows of a dataset that is computed while it is read."""
        import ray

        on_card = self.device == "cuda"
        files = ray.put(_model_files(recipe.folder))
        blocks = _blocks(parts, recipe.batch_size, CALL_ON_CARD if on_card else 1)
        dataset = ray.data.from_arrow_refs([ray.put(block) for block in blocks])
        with warnings.catch_warnings(action="ignore"):  # Ray 2.60 announces that 2.64 takes no max_restarts
            return dataset.map_batches(
                _Worker,
                fn_constructor_args=(recipe, [files], self.device),
                compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(blocks))),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=self.reserved,
                num_gpus=1 if on_card else None,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self.threads)}},
                max_restarts=RESTARTS,
                max_task_retries=RESTARTS,
            )


@contextmanager
def ray_cluster(address: str | None, workers: int | None, device: str) -> Iterator[Cluster]:
    """The cluster at an address, or one of this machine's own, for the block. Raises EngineError."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _set_environment(address)
    try:
        import ray
        import ray.data
    except ImportError:
        raise EngineError(MISSING) from None
    _be_quiet()
    scratch = Path(tempfile.mkdtemp(prefix="ray-", dir=_short_folder()))
    try:
        _join(address, scratch)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield planned(machines, workers, device)
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _set_environment(address: str) -> None:
    """What Ray reads when it is imported, and its processes when they start."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ half prints into the progress bar
    if address == "local":
        # or it listens on all of the machine's addresses, even if told to take 127.0.0.1 for its own
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    else:
        # whatever listens there is asked once, for 40 seconds, not 20 times; no other setting does it
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")


def _join(address: str, scratch: Path) -> None:
    """Joins the cluster, or starts one that only this machine reaches. Raises EngineError."""
    import ray
    from ray.exceptions import RayError

    job = {
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
        "runtime_env": {"py_modules": [str(Path(__file__).parent)]},
    }
    try:
        if address == "local":
            job |= {"_node_ip_address": "127.0.0.1", "_temp_dir": str(scratch), "include_dashboard": False}
        else:
            _knock(address)
        with _unheard():
            ray.init(address, **job)
    except (OSError, RuntimeError, ValueError, ImportError, RayError) as error:
        raise EngineError(f"There is no Ray cluster to be had at {address}: {_first_line(error)}") from None


def _knock(address: str) -> None:
    """Raises OSError if nothing listens at HOST:PORT: Ray itself would try for a minute."""
    where = urlsplit(address if "://" in address else f"//{address}")
    if where.hostname and where.port:
        socket.create_connection((where.hostname, where.port), PATIENCE).close()


def planned(machines: Sequence[dict[str, float]], workers: int | None, device: str) -> Cluster:
    """Who works where, given what each machine has ("CPU", "GPU"). Raises EngineError if it is too little."""
    cards = int(sum(machine.get("GPU", 0) for machine in machines))
    if device == "auto":
        device = "cuda" if cards else "cpu"
    if device not in ("cpu", "cuda") or (device == "cuda" and not cards):
        raise EngineError(f"The Ray cluster has no device {device}: use auto or cpu.")
    if device == "cuda" and (workers or 1) > cards:
        raise EngineError(f"The Ray cluster has {cards} graphics cards: use no more --workers than that.")
    cores = sum(machine.get("CPU", 0) for machine in machines)
    workers = workers or (cards if device == "cuda" else max(1, int(cores) // CORES_A_WORKER))
    share = _share(machines, workers, device)
    # half of the cores stay free for what else Ray Data runs: with none left, each would wait for the other
    return Cluster(device, workers, max(1, int(share)), share / 2)


def _share(machines: Sequence[dict[str, float]], workers: int, device: str) -> float:
    """How many cores a worker may count on, wherever it is put. Raises EngineError where there are none."""
    kind = "GPU" if device == "cuda" else "CPU"
    fit = [machine for machine in machines if machine.get(kind, 0) >= 1 and machine.get("CPU", 0) > 0]
    if not fit:
        raise EngineError("The machines of the Ray cluster have no cores to work with.")
    if device == "cuda":
        return min(machine["CPU"] / min(machine["GPU"], workers) for machine in fit)
    return min(sum(machine["CPU"] for machine in fit) / workers, min(machine["CPU"] for machine in fit))


class _Worker:
    """An actor of the pool: an encoder, through which tables of batches go.

    What a person has to mend travels as the row of a table, for Ray would add a page of its own to it.
    """

    def __init__(self, recipe: Recipe, files: list["ObjectRef"], device: str) -> None:
        self._recipe, self._encoder, self._failure = recipe, None, ""
        try:
            self._encoder = _loaded(recipe, files[0], device)
        except FAILURES as error:
            self._failure = failure(error)

    def __call__(self, table: pa.Table) -> pa.Table:
        if self._encoder is None:
            return _failed(self._failure)
        batches = [Part(row["start"], row["files"]) for row in table.to_pylist()]
        try:
            done = list(embed_stream(self._encoder, batches, self._recipe.batch_size, lambda images: None))
        except FAILURES as error:
            return _failed(failure(error))
        return pa.table(
            {
                "start": [part.start for part in done],
                "rows": pa.array([part.rows.tobytes() for part in done], pa.large_binary()),
                "images": [len(part.rows) for part in done],
                "precision": [part.precision for part in done],
                "failure": [""] * len(done),
            }
        )


def _trouble(error: Exception) -> str:
    """One sentence about what Ray did not get over."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

    said, again = _first_line(error), "the same command goes on from here"
    if isinstance(error, (RayActorError, NodeDiedError, OutOfMemoryError)):
        return (
            f"Workers of the cluster died, {RESTARTS} restarts of one were of no use ({said}): {again}, "
            "with fewer --workers too."
        )
    return f"The Ray cluster failed ({said}): mend that, and {again}."


def _failed(failure: str) -> pa.Table:
    row = {"start": [0], "rows": pa.array([b""], pa.large_binary()), "images": [0], "precision": [""]}
    return pa.table(row | {"failure": [failure]})


def _loaded(recipe: Recipe, files: "ObjectRef", device: str) -> object:
    """The encoder, from files that came with the job. Raises ModelError."""
    import ray

    with tempfile.TemporaryDirectory() as scratch:
        for name, data in ray.get(files).items():
            data.tofile(Path(scratch) / name)
        try:
            return replace(recipe, folder=Path(scratch)).load(device)
        except ModelError as error:  # in the words of whoever gave the model
            raise ModelError(str(error).replace(scratch, str(recipe.folder))) from None


def _model_files(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """The files by name, as arrays: those Ray hands to all workers of a machine without a copy for each."""
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    return {file.name: np.fromfile(file, np.uint8) for file in files}


def _blocks(parts: Sequence[Part], batch_size: int, batches: int) -> list[pa.Table]:
    """The parts cut into batches, so many of these to a table: what one call of a worker gets."""
    cut = [
        {"start": part.start + place, "files": part.files[place : place + batch_size]}
        for part in parts
        for place in range(0, len(part.files), batch_size)
    ]
    schema = pa.schema({"start": pa.int64(), "files": pa.list_(pa.binary())})
    return [pa.Table.from_pylist(cut[at : at + batches], schema) for at in range(0, len(cut), batches)]


def _embedded_batches(mapped: "Dataset", count: Count) -> Iterator[EmbeddedPart]:
    """The batches as they are done. Raises EngineError where a worker says that it failed."""
    # without prefetching: it would hold back a batch until the next one is there
    for table in mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in table.to_pylist():
            if row["failure"]:
                raise EngineError(row["failure"])
            count(row["images"])
            rows = np.frombuffer(row["rows"], np.float32).reshape(row["images"], -1)
            yield EmbeddedPart(row["start"], rows, row["precision"])


def assembled(
    batches: Iterator[EmbeddedPart], parts: Sequence[Part], batch_size: int
) -> Iterator[EmbeddedPart]:
    """The parts, each as soon as its last batch has come. Raises EngineError at batches of two precisions."""
    part_of = {part.start + place: part for part in parts for place in range(0, len(part.files), batch_size)}
    come: dict[int, dict[int, EmbeddedPart]] = {part.start: {} for part in parts}
    for batch in batches:
        part = part_of[batch.start]
        found = come[part.start]
        found[batch.start] = batch
        if sum(len(one.rows) for one in found.values()) == len(part.files):
            if len({one.precision for one in found.values()}) > 1:
                raise EngineError(
                    "Machines of the cluster calculate in different precisions: name a --precision."
                )
            yield replace(
                batch, start=part.start, rows=np.concatenate([found[at].rows for at in sorted(found)])
            )
            del come[part.start]


def _be_quiet() -> None:
    """The build's own bar and sentences are all that is said; Ray's log files have the rest."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        handler.setLevel(logging.CRITICAL)
    ray._private.worker._worker_logs_enabled = False  # that workers are started again; there is no public way


@contextmanager
def _unheard() -> Iterator[None]:
    """In the block stderr is dropped: Ray's C++ half writes there as it starts; errors are raised, too."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _short_folder() -> Literal["/tmp"] | None:
    """Where Ray's sockets lie: their paths may have 107 letters, too few for a longer TMPDIR."""
    return "/tmp" if os.name == "posix" else None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
