"""Images embedded a second: the teaching notebook's way against ours, with the same model and images.

python -m benchmarks.embedding FASHION_MNIST [--images 64] [--base-images 4] [--rounds 15]

FASHION_MNIST is a folder with the Parquet files of zalando-datasets/fashion_mnist. The notebook's way starts
from pixels in a tensor, makes a PIL image of each, calls AutoImageProcessor as it comes (with its center
crop) and a float32 model on batches of 64, and takes last_hidden_state[:, 0]. Ours starts from PNG files and
is the precompute command's own: encode_batches with Dinov2Encoder, in the precision that it chooses here, and
in float32. Beside them runs the float32 model alone, on pixels that are ready. All run in turns, for the
bundled model and for a randomly initialised one of facebook/dinov2-base's size; the cosines are those of our
embeddings to float32. The second table is about a single photo, enlarged, dark on white, off-center: what a
visitor's upload takes.
"""

import argparse
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from benchmarks.base_model import make_base_model
from benchmarks.fashion import read_files
from benchmarks.foreign_images import photo
from benchmarks.timing import interleaved, print_table
from embedding.encoder import ROOT, Dinov2Encoder, encode_batches
from embedding.image import infer_preparation, prepare

BATCH = 64

Embed = Callable[[], NDArray[np.float32]]


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    files = read_files(options.fashion_mnist, options.images)
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "bundled, 192-d, 28 x 28": (ROOT / "assets" / "model", options.images),
            "dinov2-base's size, 768-d, 224 x 224": (make_base_model(Path(folder)), options.base_images),
        }
        throughput, latency = [], []
        for name, (model, count) in models.items():
            throughput += throughput_rows(name, model, files[:count], options.rounds)
            latency.append(latency_row(name, model, files, options.rounds))
    print_table(["model", "images", "path", "against the notebook", "slowest to fastest round"], throughput)
    header = ["one photo, model", "precision", "ours in float32", "notebook's processor and model"]
    print_table([*header, "prepare alone"], latency)


def throughput_rows(name: str, model: Path, files: list[bytes], rounds: int) -> list[list[str]]:
    """How many times the notebook's images a second each path embeds: median and range of rounds."""
    ours = Dinov2Encoder(model)
    plain = Dinov2Encoder(model, precision="float32")
    paths = {
        "notebook": notebook_path(model, files),
        f"ours, {ours.precision}": our_path(ours, files),
        "ours, float32": our_path(plain, files),
        "the model alone": model_alone(model, files),
    }
    cosine = (our_path(ours, files)() * our_path(plain, files)()).sum(1).min()
    print(f"{name}: {ours.precision}, smallest cosine of {len(files)} to float32: {cosine:.6f}", flush=True)
    seconds = interleaved(paths, rounds)
    rows = []
    for path, taken in seconds.items():
        ratios = sorted(theirs / own for theirs, own in zip(seconds["notebook"], taken, strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        rows.append([name, f"{len(files)}", path, f"{median(ratios):.2f}x", spread])
    return rows


def notebook_path(folder: Path, files: list[bytes]) -> Embed:
    """The notebook's extract_embeddings, on pixels that are in a tensor already (but not wrapped round)."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    images = torch.stack([torch.from_numpy(np.array(Image.open(BytesIO(file)))) for file in files])

    def run() -> NDArray[np.float32]:
        found = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                batch = [
                    Image.fromarray(image.numpy()).convert("RGB") for image in images[start : start + BATCH]
                ]
                outputs = model(**processor(images=batch, return_tensors="pt"))
                found.append(outputs.last_hidden_state[:, 0, :].cpu().numpy())
        return np.vstack(found)

    return run


def our_path(encoder: Dinov2Encoder, files: list[bytes]) -> Embed:
    """The precompute command's way, from image files to unit vectors."""

    def run() -> NDArray[np.float32]:
        images = (Image.open(BytesIO(file)) for file in files)
        return np.concatenate(list(encode_batches(encoder, images, BATCH)))

    return run


def model_alone(folder: Path, files: list[bytes]) -> Embed:
    """The float32 model on batches whose pixels are ready."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    images = [Image.open(BytesIO(file)).convert("RGB") for file in files]
    batches = [
        processor(images=images[start : start + BATCH], return_tensors="pt")
        for start in range(0, len(images), BATCH)
    ]

    def run() -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.vstack([model(**batch).last_hidden_state[:, 0].numpy() for batch in batches])

    return run


def latency_row(name: str, folder: Path, files: list[bytes], rounds: int) -> list[str]:
    """One photo in units of the time that our embedding of it takes: medians of rounds."""
    preparation = infer_preparation([Image.open(BytesIO(file)) for file in files])
    upload = photo(Image.open(BytesIO(files[0])), np.random.default_rng(0))
    prepared = prepare(upload, preparation)
    encoder, plain = Dinov2Encoder(folder), Dinov2Encoder(folder, precision="float32")
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def notebook() -> None:
        with torch.no_grad():
            model(**processor(images=[upload.convert("RGB")], return_tensors="pt"))

    steps = {
        "embed": lambda: encoder.encode([prepared]),
        "float32": lambda: plain.encode([prepared]),
        "notebook": notebook,
        "prepare": lambda: prepare(upload, preparation),
    }
    seconds = interleaved(steps, rounds)
    ratios = {
        step: median(other / own for other, own in zip(taken, seconds["embed"], strict=True))
        for step, taken in seconds.items()
    }
    return [name, encoder.precision, *(f"{ratios[step]:.2f}x" for step in ("float32", "notebook", "prepare"))]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("fashion_mnist", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--base-images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
