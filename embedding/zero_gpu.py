"""ZeroGPU of Hugging Face Spaces: a graphics card on loan for the length of a call; nothing elsewhere.

`spaces`, which lends it, is there on such a Space only, and has to be imported before torch. What it
decorates runs in a copy of this process: arguments are pickled on the way there, globals are not.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedding.encoder import Encoder
from embedding.models import Precision

try:
    import spaces
except ImportError:
    spaces = None

# whether bfloat16 holds is found out by running the model, which has no card yet when it is loaded there
PRECISION: Precision = "float32" if spaces else "auto"
ENCODERS: dict[int, Encoder] = {}  # where the copy finds the model: it is too large to be pickled


def _encode(number: int, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    return ENCODERS[number].encode(images)


on_loan: Callable[[int, Sequence[Image.Image]], NDArray[np.float32]] = (
    spaces.GPU(_encode) if spaces else _encode
)


class Borrower:
    """An encoder that runs wherever a graphics card is lent to it."""

    def __init__(self, encoder: Encoder) -> None:
        self._number = len(ENCODERS)
        self.dimension = encoder.dimension
        ENCODERS[self._number] = encoder

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """As the encoder's own."""
        return on_loan(self._number, list(images))

    def received(self, image: Image.Image) -> NDArray[np.float32]:
        """As the encoder's own: that takes no graphics card."""
        return ENCODERS[self._number].received(image)


def lend(encoder: Encoder) -> Encoder:
    """The encoder as it should be called: on ZeroGPU through a loan, anywhere else as it is."""
    return Borrower(encoder) if spaces else encoder
