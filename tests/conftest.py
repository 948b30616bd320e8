"""What the tests share: the bundled index and model, and real data where it is there."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hub library is imported: no test needs the network
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several processes wait for one another by spinning
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


def plain(index: Index) -> Index:
    """The index as `build` made it before there were other layouts and judged votes."""
    manifest = replace(
        index.manifest,
        projections={"umap": index.manifest.projections["umap"]},
        quality=None,
        calibration=None,
        familiarity=None,
    )
    return replace(
        index, manifest=manifest, coordinates={"umap": index.map}, predicted=None, predicted_share=None
    )


@pytest.fixture(scope="session")
def encoder() -> Dinov2Encoder:
    return Dinov2Encoder(MODEL, "cpu")


@pytest.fixture(scope="session")
def digits_folder(sample: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 digits to index in train/, 200 others in test/, a folder a class, as PNG files."""
    folder = tmp_path_factory.mktemp("digits")
    for item in range(0, 4800, 8):
        file = folder / ("test" if item % 24 == 0 else "train") / sample.class_of(item) / f"{item:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sample.images[item])
    return folder


@pytest.fixture(scope="session")
def laid_out(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the 400 digits in eleven layouts. Tests only read it."""
    from index.build import BuildRequest, build_index
    from index.source import SourceRequest

    out = tmp_path_factory.mktemp("laid_out") / "index"
    source = SourceRequest(str(digits_folder), limit=0)
    build_index(BuildRequest(source, model=str(MODEL), projections=True), out)
    return out
