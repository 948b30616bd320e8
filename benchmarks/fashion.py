"""Real images for the benchmarks: Fashion-MNIST in the Hub's Parquet layout."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.foreign_images import photo


def read_files(folder: Path, count: int) -> list[bytes]:
    """The first `count` images of the test split, as PNG files. Ends the program if they are not there."""
    found = sorted((folder / "data" if (folder / "data").is_dir() else folder).glob("test-*.parquet"))
    if not found:
        raise SystemExit(
            f"{folder} holds no test-*.parquet: give a folder with zalando-datasets/fashion_mnist's files."
        )
    images = pq.read_table(found[0], columns=["image"])["image"]
    return [image["bytes"] for image in images.slice(0, count).to_pylist()]


def photo_file(file: bytes) -> bytes:
    """A photo of a Fashion-MNIST image, as a JPEG file."""
    stream = BytesIO()
    photo(Image.open(BytesIO(file)), np.random.default_rng(0)).save(stream, "JPEG")
    return stream.getvalue()
