"""In which numbers a model calculates: float32, or bfloat16 where that is fast and as good."""

import numpy as np
import torch
from PIL import Image

from embedding.models import Precision

BOUND = 0.9995  # cosine to float32: an index is trusted from 0.999 on, and these are not all images
WORTHWHILE = 384  # dimensions from which on bfloat16 is faster on a processor


def choose_precision(precision: Precision, device: str, hidden_size: int) -> Precision:
    """What "auto" stands for on this machine, if the model then keeps to the bound."""
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        fast = device == "cpu" and hidden_size >= WORTHWHILE and _calculates_bfloat16()
    return "bfloat16" if fast else "float32"


def probes(side: int) -> list[Image.Image]:
    """Images to compare on: noise from fine to coarse, in color and gray."""
    rng = np.random.default_rng(0)
    images = []
    for grain, channels in ((1, (3,)), (8, (3,)), (32, ())):
        size = max(2, side // grain)
        noise = Image.fromarray(rng.integers(0, 256, (size, size, *channels), np.uint8))
        images.append(noise.resize((side, side), Image.Resampling.BICUBIC))
    return images


def _calculates_bfloat16() -> bool:
    """Whether the processor has instructions for it; elsewhere torch emulates them, which is slow."""
    # private, and there from torch 2.8 on; the public get_capabilities is newer
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
