"""The published DINOv2 models, by short names; what they may calculate in."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class ModelPreset:
    """A published model: what it makes of an image, and how many register tokens precede its patches."""

    id: str
    dimension: int
    patch: int = 14
    registers: int = 0


MODELS = {
    "small": ModelPreset("facebook/dinov2-small", 384),
    "base": ModelPreset("facebook/dinov2-base", 768),
    "large": ModelPreset("facebook/dinov2-large", 1024),
    "giant": ModelPreset("facebook/dinov2-giant", 1536),
    "small-registers": ModelPreset("facebook/dinov2-with-registers-small", 384, registers=4),
    "base-registers": ModelPreset("facebook/dinov2-with-registers-base", 768, registers=4),
    "large-registers": ModelPreset("facebook/dinov2-with-registers-large", 1024, registers=4),
    "giant-registers": ModelPreset("facebook/dinov2-with-registers-giant", 1536, registers=4),
}


def model_id(name: str) -> str:
    """The Hub id that a short name stands for; any other name is one itself, or a folder."""
    return MODELS[name].id if name in MODELS else name
