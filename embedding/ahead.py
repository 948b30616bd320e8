"""Work done ahead of whoever needs it, in a thread of its own."""

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], most: int = 2) -> Iterator[T]:
    """The items in order, up to `most` of them made before they are asked for; their errors are raised here.

    A consumer that stops early, at Ctrl-C too, waits no longer than for the item being made.
    """
    # both queues are written in C: an interrupt cannot leave them half changed, as it can a Semaphore
    made: SimpleQueue[tuple[str, object]] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()
    wanted = True

    def make() -> None:
        try:
            for item in items:
                made.put(("item", item))
                room.get()
                if not wanted:
                    return
            made.put(("end", None))
        except BaseException as error:  # whatever it is, it is the consumer's
            made.put(("error", error))

    for _ in range(most - 1):
        room.put(None)
    maker = Thread(target=make, name="ahead", daemon=True)
    try:
        maker.start()
        while (found := made.get())[0] == "item":
            room.put(None)
            yield found[1]
        if found[0] == "error":
            raise found[1]
    finally:
        wanted = False
        room.put(None)
        maker.join()
