"""Work done ahead of whoever needs it, in a thread of its own."""

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], most: int = 2) -> Iterator[T]:
    """The items in order, up to `most` of them made before they are asked for; their errors are raised here.

    A consumer that stops early, at Ctrl-C too, waits no longer than for the item being made.
    """
    made: SimpleQueue[tuple[str, object]] = SimpleQueue()
    room, stopped = Semaphore(most), Event()

    def make() -> None:
        try:
            for item in items:
                made.put(("item", item))
                room.acquire()
                if stopped.is_set():
                    return
            made.put(("end", None))
        except BaseException as error:  # whatever it is, it is the consumer's
            made.put(("error", error))

    maker = Thread(target=make, name="ahead", daemon=True)
    maker.start()
    try:
        while (found := made.get())[0] == "item":
            room.release()
            yield found[1]
        if found[0] == "error":
            raise found[1]
    finally:
        stopped.set()
        room.release()
        maker.join()
