"""Images embedded a second on a graphics card: the teaching notebook's way against ours, in one run.

python -m benchmarks.gpu [--images 16384] [--batch-size 512] [--rounds 3] [--device cuda]

The model has facebook/dinov2-base's size and random weights. Images are the bundled sample's, in memory. The
notebook's way makes a PIL image of each, calls AutoImageProcessor as it comes (with torchvision, if that is
there) and the float32 model on batches of 64. Ours is the precompute command's: encode_batches with
Dinov2Encoder. The card's matrix rate is that of a bfloat16 product of 8192 x 8192 matrices. Every figure is
printed as soon as it is known, and a stage that fails leaves the others standing.
"""

import argparse
import tempfile
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from benchmarks.base_model import make_base_model
from embedding.encoder import ROOT, Dinov2Encoder, encode_batches
from embedding.levels import read_levels, resized

NOTEBOOK_BATCH = 64
CHECKED = 256  # images that are embedded in float32 too

Embed = Callable[[], object]


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    name = torch.cuda.get_device_name() if options.device != "cpu" else "processor"
    print(f"{name}, torch {torch.__version__}", flush=True)
    files, pixels = sample(options.images)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_base_model(Path(scratch))
        rate = stage("matrix rate", lambda: matrix_rate(options.device)) or float("nan")
        notebook = stage("notebook", lambda: notebook_path(folder, pixels, options.device))
        encoder = stage("encoder", lambda: Dinov2Encoder(folder, options.device))
        if encoder is None:
            return
        print(f"precision: {encoder.precision}", flush=True)
        stage("preparation", lambda: compare_preparation(options.device))
        stage("agreement", lambda: compare(folder, encoder, files, options))
        ours = our_paths(encoder, files, pixels, options.batch_size)
        speeds = {}
        stage("throughput", lambda: throughput(notebook, ours, options, speeds))
        print_speeds(speeds, folder, rate)


def stage(name: str, run: Callable[[], object]) -> object:
    """What the stage gives, None if it fails, which is printed."""
    start = perf_counter()
    try:
        return run()
    except Exception:
        print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
        return None
    finally:
        print(f"({name}: {perf_counter() - start:.1f} s)", flush=True)


def sample(count: int) -> tuple[list[bytes], NDArray[np.uint8]]:
    """The bundled sample's images over and over: `count` PNG files, and their pixels (count, 28, 28)."""
    table = pq.read_table(ROOT / "assets" / "sample" / "data", columns=["image"])
    files = [image["bytes"] for image in table["image"].to_pylist()]
    pixels = np.stack([np.asarray(Image.open(BytesIO(file))) for file in files])
    places = np.arange(count) % len(files)
    return [files[place] for place in places], pixels[places]


def matrix_rate(device: str, side: int = 8192) -> float:
    """Operations a second of a bfloat16 matrix product, the median of 30."""
    if device == "cpu":
        side = 512
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [timed(lambda: left @ right, device) for _ in range(35)][5:]
    rate = 2 * side**3 / median(seconds)
    print(f"matrix rate: {rate / 1e12:.1f} TFLOP/s", flush=True)
    return rate


def timed(run: Embed, device: str) -> float:
    """Seconds until the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return perf_counter() - start


def operations(folder: Path, spared: bool) -> float:
    """For an image: of the model as it is or, if `spared`, without what a gray one's CLS token needs not."""
    config = AutoConfig.from_pretrained(folder)
    side, d, layers = 224, config.hidden_size, config.num_hidden_layers
    tokens = (side // config.patch_size) ** 2 + 1
    inner = int(d * config.mlp_ratio)
    layer = 2 * tokens * (4 * d * d + 2 * d * inner) + 4 * tokens * tokens * d
    patches = 2 * (tokens - 1) * d * config.patch_size**2 * 3
    if not spared:
        return layers * layer + patches
    last = 2 * tokens * 3 * d * d + 2 * (d * d + 2 * d * inner) + 4 * tokens * d
    return (layers - 1) * layer + last + patches / 3


def compare_preparation(device: str) -> None:
    """How far levels made on the device are from Pillow's, for several sizes."""
    rng = np.random.default_rng(0)
    worst = 0
    for width, height in ((28, 28), (100, 60), (224, 224), (300, 500), (640, 480)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        made = resized(read_levels([image], None).parts[0].to(device), 224)[0].cpu().permute(1, 2, 0).int()
        due = torch.from_numpy(np.array(image.resize((224, 224), Image.Resampling.BICUBIC))).int()
        worst = max(worst, int((made - due).abs().max()))
    print(f"prepared on the device: at most {worst} of 255 levels from Pillow's", flush=True)


def compare(folder: Path, encoder: Dinov2Encoder, files: list[bytes], options: argparse.Namespace) -> None:
    """The smallest cosine of ours to the float32 model on pixels that Pillow resized; whole batches first."""
    images = [Image.open(BytesIO(file)) for file in files]
    checked = min(CHECKED, len(images))
    found = next(encode_batches(encoder, images, options.batch_size))[:checked]
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(options.device)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    square = {"do_center_crop": False, "size": {"height": 224, "width": 224}, "return_tensors": "pt"}
    with torch.inference_mode():
        pixels = processor([image.convert("RGB") for image in images[:checked]], **square)["pixel_values"]
        due = torch.cat(
            [model(part.to(options.device)).last_hidden_state[:, 0] for part in pixels.split(NOTEBOOK_BATCH)]
        )
    due = torch.nn.functional.normalize(due, dim=1).cpu().numpy()
    print(f"smallest cosine to float32 of {checked}: {(found * due).sum(1).min():.6f}", flush=True)
    print(f"two different images: {float(due[0] @ due[1]):.4f}", flush=True)


def notebook_path(folder: Path, pixels: NDArray[np.uint8], device: str) -> Callable[[int], None]:
    """The notebook's extract_embeddings on the first `count` images, on the same device."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    print(f"the notebook's processor: {type(processor).__name__}", flush=True)
    tensors = torch.from_numpy(pixels)

    def run(count: int) -> None:
        with torch.no_grad():
            for start in range(0, count, NOTEBOOK_BATCH):
                batch = [
                    Image.fromarray(image.numpy()).convert("RGB")
                    for image in tensors[start : start + NOTEBOOK_BATCH]
                ]
                inputs = processor(images=batch, return_tensors="pt").to(device)
                model(**inputs).last_hidden_state[:, 0, :].cpu().numpy()

    return run


def our_paths(
    encoder: Dinov2Encoder, files: list[bytes], pixels: NDArray[np.uint8], batch_size: int
) -> dict[str, Embed]:
    def from_images(images: Callable[[], object]) -> Embed:
        return lambda: [len(part) for part in encode_batches(encoder, images(), batch_size)]

    levels = torch.from_numpy(pixels[:batch_size, None])
    ready = resized(levels.to(encoder.device), 224)
    passes = len(files) // batch_size

    @torch.inference_mode()
    def alone() -> None:
        for _ in range(passes):
            encoder._forward._in_pieces(encoder._forward._pooled, ready)

    return {
        "ours, from pixels": from_images(lambda: (Image.fromarray(image) for image in pixels)),
        "ours, from PNG files": from_images(lambda: (Image.open(BytesIO(file)) for file in files)),
        "our network alone": alone,
    }


def throughput(
    notebook: Callable[[int], None] | None,
    ours: dict[str, Embed],
    options: argparse.Namespace,
    speeds: dict[str, list[float]],
) -> None:
    """Adds the images a second of all paths to `speeds`, the paths taking turns."""
    few = min(options.images, 16 * NOTEBOOK_BATCH)
    paths = ({"notebook": lambda: notebook(few)} if notebook else {}) | ours
    for turn in range(options.rounds + 1):  # the first round warms up
        for name, run in paths.items():
            count = few if name == "notebook" else options.images // options.batch_size * options.batch_size
            speed = count / timed(run, options.device)
            print(f"  {'warming up' if turn == 0 else f'round {turn}'}, {name}: {speed:,.0f}", flush=True)
            if turn:
                speeds.setdefault(name, []).append(speed)


def print_speeds(speeds: dict[str, list[float]], folder: Path, rate: float) -> None:
    print("| path | images/s | against the notebook | share of the matrix rate | share, work really done |")
    print("|---|---|---|---|---|")
    whole, spared = (operations(folder, spared) for spared in (False, True))
    for name, found in speeds.items():
        speed, base = median(found), median(speeds.get("notebook", [float("nan")]))
        done = whole if name == "notebook" else spared
        shares = f"{100 * speed * whole / rate:.1f} % | {100 * speed * done / rate:.1f} %"
        print(f"| {name} | {speed:,.0f} | {speed / base:.1f}x | {shares} |", flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=16384)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
