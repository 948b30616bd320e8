"""Levels become pooled hidden states on a device, in batches as large as it has memory for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedding.levels import Levels, joined, resized
from embedding.vit import FastVit

BULK = 64  # images from which on compiling pays, on a graphics card
AT_ONCE = 8  # images in one pass of a large model on a processor: more do not stay in its cache


@dataclass(frozen=True)
class Launched:
    """Rows (n, kinds, d) that a graphics card may still be at, until `done`."""

    rows: Tensor
    done: torch.cuda.Event | None

    def collect(self) -> NDArray[np.float32]:
        """The rows, waited for."""
        if self.done is not None:
            self.done.synchronize()
        return self.rows.numpy()


class Forward:
    """A network's CLS tokens, means of the patches, or both, in float32, of shape (n, kinds, d)."""

    def __init__(
        self,
        network: nn.Module,
        device: str,
        side: int,
        kinds: tuple[str, ...],
        full_batch: int | None = None,
    ) -> None:
        """`network` gives last hidden states, of which `network.leading` precede the patches.

        Batches of `full_batch` images are what is compiled for on a graphics card, if they are large; None
        takes the first large one for such.
        """
        self._network = network.eval().to(device)
        self._on_card = device.startswith("cuda")
        self._device, self._side, self._kinds = device, side, kinds
        self._most = AT_ONCE if device == "cpu" and isinstance(network, FastVit) else 1 << 30
        self._copies = torch.cuda.Stream(device) if self._on_card else None
        self._full_batch = full_batch
        self._bulk: int | None = None
        self._compiled: nn.Module | None = None

    def __call__(self, levels: Levels) -> NDArray[np.float32]:
        return self.launch(levels).collect()

    @torch.inference_mode()
    def launch(self, levels: Levels) -> Launched:
        """Starts the work: on a processor it is done at return, on a graphics card it has begun."""
        parts = [self._in_pieces(self._ready, part) for part in levels.parts]
        rows = self._in_pieces(self._pooled, joined(parts, levels.places))
        if not self._on_card:
            return Launched(rows.cpu(), None)
        rows = rows.to("cpu", non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self._device))
        return Launched(rows, done)

    def _in_pieces(self, run: Callable[[Tensor], Tensor], whole: Tensor) -> Tensor:
        """What `run` makes of `whole`, by pieces; out of memory halves them, from then on."""
        found: list[Tensor] = []
        start = 0
        while start < len(whole):
            piece = whole[start : start + self._most]
            made = _unless_full(run, piece)
            if made is not None:
                found.append(made)
                start += len(piece)
            else:  # what the failed attempt held is free by now, for its frames are gone
                self._most, self._bulk, self._full_batch = len(piece) // 2, None, None
                if self._on_card:
                    torch.cuda.empty_cache()
        return found[0] if len(found) == 1 else torch.cat(found)

    def _ready(self, piece: Tensor) -> Tensor:
        """Levels (n, c, side, side), on the graphics card if there is one."""
        if self._copies is None:
            return resized(piece, self._side)
        with torch.cuda.stream(self._copies):
            moved = piece.to(self._device, non_blocking=True)
        stream = torch.cuda.current_stream(self._device)  # that of cuda:1, say, not of the first card
        stream.wait_stream(self._copies)
        moved.record_stream(stream)
        return resized(moved, self._side)

    def _pooled(self, levels: Tensor) -> Tensor:
        hidden = self._hidden(levels)
        made = {"cls": lambda: hidden[:, 0], "mean": lambda: hidden[:, self._network.leading :].mean(1)}
        return torch.stack([made[kind]().float() for kind in self._kinds], dim=1)

    def _hidden(self, levels: Tensor) -> Tensor:
        """Full batches on a graphics card run compiled; a query or the rest of a data set is not worth it."""
        if self._on_card and self._bulk is None and self._is_full(levels):
            self._bulk = len(levels)
            self._compiled = torch.compile(self._network, dynamic=False)
        if self._compiled is None or len(levels) != self._bulk:
            return self._network(levels)
        try:
            return self._compiled(levels)
        except torch._dynamo.exc.TorchDynamoException as error:  # no C compiler or no Triton here, say
            print(f"The model runs uncompiled, at three quarters of the speed: {type(error).__name__}.")
            self._compiled = None
            return self._network(levels)

    def _is_full(self, levels: Tensor) -> bool:
        return len(levels) >= BULK and self._full_batch in (None, len(levels))


def _unless_full(run: Callable[[Tensor], Tensor], piece: Tensor) -> Tensor | None:
    """What `run` makes of the piece; None where the memory is too small for it, but may not be for half."""
    try:
        return run(piece)
    except torch.OutOfMemoryError:
        if len(piece) == 1:
            raise
        return None
