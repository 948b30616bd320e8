"""One process that embeds against several, each with a graphics card or a share of the cores.

python -m benchmarks.workers [--workers 2] [--images 60000] [--device auto]

Images are grey noise of 28 x 28 in PNG files, the model is of facebook/dinov2-base's size with random
weights. Rates are of the second half of the parts: until then a card's worker compiles. What both embedded is
compared.
"""

import argparse
import tempfile
from io import BytesIO
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.base_model import make_base_model
from benchmarks.timing import print_table
from embedding.encoder import choose_batch_size
from embedding.engines import Workers, open_engine
from embedding.parts import Part, Recipe

PART = 512
LEAST = 16 * PART


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    if options.images < LEAST:
        raise SystemExit(f"{options.images} images are too few to time: use {LEAST:,} or more.")
    files = noise_files(options.images)
    parts = [Part(start, files[start : start + PART]) for start in range(0, len(files), PART)]
    with tempfile.TemporaryDirectory() as folder:
        model = make_base_model(Path(folder))
        alone = embedded(Workers("local", 1), options.device, model, parts)
        together = embedded(Workers("local", options.workers), options.device, model, parts)
    rates = {1: alone[1], options.workers: together[1]}
    rows = [[str(count), f"{rate:,.1f}", f"{rate / alone[1]:.2f}x"] for count, rate in rates.items()]
    print_table(["workers", "images/s", "against one"], rows)
    cosine = float((alone[0] * together[0]).sum(1).min())
    print(f"Equal to the last bit: {np.array_equal(alone[0], together[0])}; smallest cosine {cosine:.6f}")


def embedded(
    workers: Workers, device: str, model: Path, parts: list[Part]
) -> tuple[NDArray[np.float32], float]:
    """The embeddings (n, d) and the images a second, measured on the parts that come in the second half."""
    made, times = {}, []
    with open_engine(workers, device) as engine:
        recipe = Recipe(model, "cls", "auto", min(choose_batch_size(engine.device), PART))
        for part in engine.embed(recipe, parts, lambda _: None):
            made[part.start] = part.rows
            times.append((perf_counter(), len(part.rows)))
    late = times[len(times) // 2 :]
    rate = sum(count for _, count in late[1:]) / (late[-1][0] - late[0][0])
    return np.concatenate([made[part.start] for part in parts]), rate


def noise_files(count: int) -> list[bytes]:
    """PNG files of grey noise, 28 x 28."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        stream = BytesIO()
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
