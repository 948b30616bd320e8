"""What every part of the page shares: the open index, and how its events run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import gradio as gr

from embedding.image import QueryError
from index.standby import Opened, Standby
from ui.map import Maps

MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 8}  # those that come together share a pass
LOOKUP = {"concurrency_limit": None}
AT_ONCE = {"queue": False}  # what takes milliseconds: the queue's two requests would take longer
PRIVATE = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}


@dataclass(frozen=True)
class Desk:
    """Where page and API put their questions: the open indexes, and what browsers draw of them."""

    standbys: tuple[Standby, ...]
    maps: Maps

    @property
    def opened(self) -> Opened:
        """The first index, which the API answers from."""
        return self.at(0)

    def at(self, which: object) -> Opened:
        """The index with that number, the first for any other. A handler asks once: it may be replaced."""
        return self.standby(which).current

    def standby(self, which: object) -> Standby:
        known = type(which) is int and 0 <= which < len(self.standbys)
        return self.standbys[which if known else 0]

    def key(self, opened: Opened) -> str:
        return self.maps.key(opened.index)

    def find(self, key: object) -> Opened | None:
        """The open index with this key, None if there is none: any visitor may ask."""
        open_now = (standby.current for standby in self.standbys)
        return next((opened for opened in open_now if key == self.key(opened)), None)


def in_words(handler: Callable) -> Callable:
    """The handler, with what cannot be answered told to the visitor instead of logged as a fault."""

    @wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except QueryError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return call
