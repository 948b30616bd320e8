"""How well photos and sketches of images that are not in the index find their class.

python -m benchmarks.foreign_images INDEX TEST.parquet

INDEX is a Fashion-MNIST index, TEST.parquet the test split. From 1,000 test images it makes photos (enlarged,
dark on white, off-center, with margins, as JPEG), the same on shaded paper, and outline sketches, and asks
the index for the class of each.
"""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps

from embedding.encoder import Dinov2Encoder, fetch_model
from embedding.image import conform, open_image, prepare
from index.search import search, vote_shares
from index.store import Index, load_index

COUNT = 1000
K = 20


def main(folder: Path, test: Path) -> None:
    index = load_index(folder)
    encoder = Dinov2Encoder(fetch_model(index.manifest.model.id, index.manifest.model.revision)[1])
    rng = np.random.default_rng(0)
    table = pq.read_table(test)
    rows = rng.choice(table.num_rows, COUNT, replace=False)
    labels = table["label"].to_numpy()[rows]
    images = [Image.open(BytesIO(table["image"][int(row)]["bytes"].as_py())) for row in rows]
    kinds = {
        "originals": [conform(image, index.manifest.preparation) for image in images],
        "photos": [_foreign(index, photo(image, rng)) for image in images],
        "photos on shaded, noisy paper": [
            _foreign(index, shaded(photo(image, rng), rng)) for image in images
        ],
        "outlines, dark on light": [_foreign(index, outline(image)) for image in images],
        "outlines, light on dark": [_foreign(index, ImageOps.invert(outline(image))) for image in images],
    }
    print(f"| {COUNT:,} test images as | weighted {K}-NN vote is right | of the originals |\n|---|---|---|")
    accuracies = {kind: _accuracy(index, encoder.encode(made), labels) for kind, made in kinds.items()}
    for kind, accuracy in accuracies.items():
        print(f"| {kind} | {accuracy:.1%} | {accuracy / accuracies['originals']:.1%} |")


def photo(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The object dark on white, enlarged 4 to 12 times, anywhere on a larger page, through a JPEG file."""
    side = int(28 * rng.uniform(4, 12))
    big = ImageOps.invert(image.convert("L")).resize((side, side), Image.Resampling.BICUBIC)
    width, height = (int(side * rng.uniform(1.1, 2.0)) for _ in range(2))
    page = Image.new("L", (width, height), 255)
    page.paste(big, (int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))))
    file = BytesIO()
    page.save(file, "JPEG", quality=int(rng.integers(60, 95)))
    return open_image(file)


def shaded(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A page lit from one side, down to 60 % of its brightness, with the noise of a camera's sensor."""
    pixels = np.asarray(page.convert("L"), np.float32)
    across, down = (np.linspace(0, rng.uniform(-1, 1), size) for size in page.size)
    light = np.add.outer(down, across)
    light = 0.6 + 0.4 * (light - light.min()) / np.ptp(light)
    noisy = pixels * light + rng.normal(0, 4, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def outline(image: Image.Image) -> Image.Image:
    """The object's outline as a black line on a white pad of 280 x 280, drawn with a pen of 9 pixels."""
    mask = (
        image.convert("L")
        .resize((224, 224), Image.Resampling.BICUBIC)
        .point(lambda value: 255 * (value > 30))
    )
    pad = Image.new("L", (280, 280), 0)
    pad.paste(mask.filter(ImageFilter.MedianFilter(9)), (28, 28))
    edge = ImageChops.subtract(pad.filter(ImageFilter.MaxFilter(9)), pad.filter(ImageFilter.MinFilter(9)))
    return ImageOps.invert(edge)


def _foreign(index: Index, image: Image.Image) -> Image.Image:
    return prepare(image, index.manifest.preparation)


def _accuracy(index: Index, embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    found = [search(index, embedding, K) for embedding in embeddings]
    voters = np.array([[neighbor.label for neighbor in neighbors] for neighbors in found])
    similarities = np.array([[neighbor.similarity for neighbor in neighbors] for neighbors in found])
    return float((vote_shares(voters, similarities, len(index.manifest.classes)).argmax(1) == labels).mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
