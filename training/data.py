"""Images out of Parquet files in the Hub's layout; labels apart, for those who may look at them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image


def read_images(folder: Path, split: str) -> NDArray[np.uint8]:
    """The gray images of a split, uint8 of shape (n, height, width); no other column is read."""
    files = _column(folder, split, "image").field("bytes").to_pylist()
    return np.stack([np.asarray(Image.open(BytesIO(file)).convert("L")) for file in files])


def read_labels(folder: Path, split: str) -> NDArray[np.int64]:
    """The labels of a split, of shape (n,)."""
    return _column(folder, split, "label").to_numpy().copy()  # Arrow's own memory is read-only


def _column(folder: Path, split: str, name: str) -> pa.Array:
    """One column of `split`-*.parquet in `folder` or its data/. Raises FileNotFoundError."""
    files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"data/{split}-*.parquet")])
    if not files:
        raise FileNotFoundError(f"{folder} holds no {split}-*.parquet, nor does its data folder.")
    tables = [pq.read_table(file, columns=[name]) for file in files]
    return pa.concat_tables(tables)[name].combine_chunks()
