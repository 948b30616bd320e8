"""What the tests share: the bundled index and model, and real data where it is there."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hub library is imported: no test needs the network
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from embedding.encoder import Dinov2Encoder
from index.store import Index, load_index

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "assets" / "model"
SAMPLE = ROOT / "assets" / "sample"
FASHION = ROOT.parent / "shared" / "fashion_mnist"

needs_fashion = pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST is not beside the project")


@pytest.fixture(scope="session")
def sample() -> Index:
    return load_index(SAMPLE)


@pytest.fixture(scope="session")
def encoder() -> Dinov2Encoder:
    return Dinov2Encoder(MODEL, "cpu")
