"""Parts embedded by several processes of this machine, each with a graphics card or a share of the cores.

A worker asks for a part when it has room for one: nothing is sent that is not being waited for, and no pipe
holds up another. It ends with the process that started it, however that one ends.
"""

import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Lock, Thread

from embedding.parts import FAILURES, Count, EmbeddedPart, EngineError, Part, Recipe, embed_stream, failure

Crew = dict[Connection, BaseProcess]


@dataclass(frozen=True)
class Place:
    """What a worker has to itself: a device, and what its environment says of cards and threads."""

    device: str
    environment: dict[str, str]


def worker_places(count: int, device: str) -> list[Place]:
    """A place for each worker on the device: a card each, or the cores shared out. Raises EngineError."""
    if not device.startswith("cuda"):
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // count))
        return [Place(device, {"OMP_NUM_THREADS": threads})] * count
    import torch  # slow import: 3 s

    if device != "cuda":
        raise EngineError(f"{count} workers need a graphics card each, {device} is one: use --device cuda.")
    cards = torch.cuda.device_count()
    if count > cards:
        raise EngineError(
            f"{count} workers need a graphics card each, {cards} are here: use fewer --workers."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(cards)))
    return [Place("cuda", {"CUDA_VISIBLE_DEVICES": card}) for card in visible.split(",")[:count]]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def embed_with_workers(
    places: Sequence[Place], recipe: Recipe, parts: Sequence[Part], count: Count
) -> Iterator[EmbeddedPart]:
    """The parts as they are done, in any order. Raises EngineError at the first worker that fails or dies."""
    waiting = deque(parts)
    with _crew(places[: len(parts)], recipe) as crew:
        while crew:
            for pipe in wait(list(crew)):
                kind, value = _received(pipe, crew)
                if kind == "asked":
                    _answer(pipe, crew, waiting.popleft() if waiting else None)
                elif kind == "counted":
                    count(value)
                elif kind == "made":
                    yield value
                elif kind == "failed":
                    raise EngineError(value)


@contextmanager
def _crew(places: Sequence[Place], recipe: Recipe) -> Iterator[Crew]:
    """The workers by the pipes to them; at the end none is left."""
    crew: Crew = {}
    context = get_context("spawn")  # a fork would share the parent's threads and card
    try:
        with _interrupts_held():
            for place in places:
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, place, recipe), daemon=True)
                process.start()
                there.close()  # only the worker's end is left, so its death is the end of the pipe
                crew[here] = process
        yield crew
    finally:
        for process in crew.values():
            process.kill()
        for process in crew.values():
            process.join()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in the block do not hear Ctrl-C, which a terminal sends to all: the parent does."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # or it is started in the block, and takes the mask off
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(pipe: Connection, crew: Crew) -> tuple[str, object]:
    """What a worker says; one that ended well is no longer of the crew. Raises EngineError if it died."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        crew[pipe].join()
        if crew[pipe].exitcode != 0:
            raise _died(crew[pipe]) from None
        del crew[pipe]
        return "ended", None


def _answer(pipe: Connection, crew: Crew, part: Part | None) -> None:
    try:
        pipe.send(part)
    except OSError:
        crew[pipe].join()
        raise _died(crew[pipe]) from None


def _died(process: BaseProcess) -> EngineError:
    code = process.exitcode
    how = (
        f"was killed by signal {-code}, as when memory runs out" if code < 0 else f"ended with status {code}"
    )
    return EngineError(f"A worker {how}: the same command goes on from here, with fewer --workers too.")


# ---- In a worker


def _work(pipe: Connection, place: Place, recipe: Recipe) -> None:
    """A worker's whole life: it embeds parts until there are none."""
    Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    os.environ.update(place.environment)  # before torch is loaded, which reads it
    lock = Lock()

    def send(kind: str, value: object = None) -> None:
        with lock:  # parts are asked for ahead, in another thread
            pipe.send((kind, value))

    def parts() -> Iterator[Part]:
        send("asked")
        while (part := pipe.recv()) is not None:
            yield part
            send("asked")

    try:
        encoder = recipe.load(place.device)
        for made in embed_stream(encoder, parts(), recipe.batch_size, partial(send, "counted")):
            send("made", made)
    except FAILURES as error:
        send("failed", failure(error))


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)  # whatever the other threads are at: nobody waits for it
