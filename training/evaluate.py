"""Measures a trained model, and the baselines beside it: here, and only here, labels are read.

python -m training.evaluate MODEL --data FASHION_MNIST

MODEL is a folder that transformers loads. Needs torch, transformers and scikit-learn, nothing of the app's.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from transformers import AutoConfig, AutoModel, Dinov2Model

from training.data import read_images, read_labels
from training.sketches import KINDS
from training.views import normalize

DIGITS = Path(__file__).resolve().parent.parent / "assets" / "sample"
KS = (10, 20)
SKETCH_K = 20
DIGITS_K = 5
SMALL = 5000  # items of the small index, drawn with seed 42
TEMPERATURE = 0.07  # of the vote
CHUNK = 1000  # queries at a time

Embed = Callable[[NDArray[np.uint8]], Tensor]  # images (n, 28, 28) to unit rows (n, d)


@dataclass(frozen=True)
class Sets:
    """The images and labels that all models are measured on."""

    train: NDArray[np.uint8]
    train_labels: Tensor
    test: NDArray[np.uint8]
    test_labels: Tensor
    digits: NDArray[np.uint8]
    digit_labels: Tensor
    sketches: dict[str, NDArray[np.uint8]]  # of the test images, in their order


def read_sets(data: Path, digits: Path, device: str) -> Sets:
    """Reads the images and labels and makes the sketches."""
    labels = lambda folder, split: torch.from_numpy(read_labels(folder, split)).to(device)  # noqa: E731
    test = read_images(data, "test")
    sketches = {}
    for kind, make in KINDS.items():
        lines = make(test)
        sketches |= {f"{kind}, light on dark": lines, f"{kind}, dark on light": 255 - lines}
    return Sets(
        *(read_images(data, "train"), labels(data, "train"), test, labels(data, "test")),
        *(read_images(digits, "train"), labels(digits, "train"), sketches),
    )


def evaluate(folder: Path, data: Path, digits: Path, device: str) -> dict[str, dict[str, float]]:
    """The figures of the model in `folder`, of raw pixels, of PCA and of the same network untrained."""
    sets = read_sets(data, digits, device)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    untrained = Dinov2Model(AutoConfig.from_pretrained(folder))
    return {
        "this model": measure(embedder(model, device), sets),
        "raw pixels": measure(pixels(device), sets),
        f"PCA-{model.config.hidden_size}": measure(pca(sets.train, model.config.hidden_size, device), sets),
        "random initialization": measure(embedder(untrained, device), sets),
    }


def measure(embed: Embed, sets: Sets) -> dict[str, float]:
    """All figures, as shares of 1, of one way to embed images."""
    train, test, digits = embed(sets.train), embed(sets.test), embed(sets.digits)
    small = torch.from_numpy(np.random.default_rng(42).choice(len(train), min(SMALL, len(train) // 2), False))
    few, few_labels = train[small], sets.train_labels[small]
    figures = {}
    for count, items, labels in ((len(train), train, sets.train_labels), (len(few), few, few_labels)):
        for k in KS:
            plain, weighted = knn_accuracy(test, sets.test_labels, items, labels, k)
            figures |= {f"k-NN, {count:,} indexed, k={k}, plain": plain}
            figures |= {f"k-NN, {count:,} indexed, k={k}, weighted": weighted}
    figures[f"precision@5 within {len(few):,}"] = precision(few, few_labels, 5)
    figures["silhouette of the embeddings (cosine)"] = silhouette(few, few_labels)
    figures[f"digits, 10-fold, k={DIGITS_K}"] = cross_validated(digits, sets.digit_labels, DIGITS_K)
    for kind, images in sets.sketches.items():
        found = knn_accuracy(embed(images), sets.test_labels, train, sets.train_labels, SKETCH_K)
        figures[f"sketch: {kind}"] = found[1]
    return figures


def embedder(model: Dinov2Model, device: str) -> Embed:
    """Embeds by a model's CLS token after the last LayerNorm, in float32."""
    model = model.eval().to(device)

    @torch.inference_mode()
    def embed(images: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(images)
        batches = (normalize(batch[:, None].to(device).float() / 255) for batch in tensor.split(CHUNK))
        return F.normalize(torch.cat([model(batch).last_hidden_state[:, 0] for batch in batches]), dim=1)

    return embed


def pixels(device: str) -> Embed:
    """Takes the pixels themselves."""
    return lambda images: F.normalize(_flat(images).to(device), dim=1)


def pca(fitted_on: NDArray[np.uint8], dimension: int, device: str) -> Embed:
    """Takes the first principal components of the pixels."""
    found = PCA(min(dimension, len(fitted_on)), svd_solver="covariance_eigh").fit(_flat(fitted_on).numpy())
    return lambda images: F.normalize(
        torch.from_numpy(found.transform(_flat(images).numpy())).float().to(device), dim=1
    )


def nearest(queries: Tensor, items: Tensor, k: int, barred: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and items (n, k) nearest to each query, best first; `barred` (n, items) are left out."""
    found = []
    for start in range(0, len(queries), CHUNK):
        cosines = queries[start : start + CHUNK] @ items.T
        if barred is not None:
            cosines = cosines.masked_fill(barred[start : start + CHUNK], -2)
        found.append(cosines.topk(k))
    return torch.cat([top.values for top in found]), torch.cat([top.indices for top in found])


def knn_accuracy(
    queries: Tensor, query_labels: Tensor, items: Tensor, labels: Tensor, k: int, barred: Tensor | None = None
) -> tuple[float, float]:
    """Share of queries whose k nearest vote for their class: one vote each, and exp(cosine / 0.07) each."""
    cosines, found = nearest(queries, items, k, barred)
    right = []
    for votes in (torch.ones_like(cosines), ((cosines - 1) / TEMPERATURE).exp()):
        shares = votes.new_zeros(len(queries), int(labels.max()) + 1).scatter_add_(1, labels[found], votes)
        right.append((shares.argmax(1) == query_labels).float().mean().item())
    return right[0], right[1]


def precision(items: Tensor, labels: Tensor, k: int) -> float:
    """Precision@k: share of each item's k nearest others that are of its class."""
    itself = torch.eye(len(items), dtype=torch.bool, device=items.device)
    _, found = nearest(items, items, k, itself)
    return (labels[found] == labels[:, None]).float().mean().item()


def cross_validated(items: Tensor, labels: Tensor, k: int) -> float:
    """Plain k-NN accuracy with each tenth of the items asked against the other nine."""
    fold = torch.zeros(len(items), dtype=torch.long, device=items.device)
    splits = StratifiedKFold(10, shuffle=True, random_state=42).split(np.zeros(len(items)), labels.cpu())
    for number, (_, asked) in enumerate(splits):
        fold[torch.from_numpy(asked).to(items.device)] = number
    return knn_accuracy(items, labels, items, labels, k, fold[:, None] == fold)[0]


def silhouette(items: Tensor, labels: Tensor) -> float:
    """scikit-learn's silhouette of the classes, by cosine distance."""
    return float(silhouette_score(items.cpu().numpy(), labels.cpu().numpy(), metric="cosine"))


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table: shares in percent, silhouettes as they are."""
    names = list(figures)
    lines = [f"| | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for row in figures[names[0]]:
        values = [figures[name][row] for name in names]
        cells = [f"{value:.3f}" if row.startswith("silhouette") else f"{100 * value:.2f}" for value in values]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _flat(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate")
    parser.add_argument("model", type=Path, help="folder that transformers loads")
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's Parquet files")
    parser.add_argument("--digits", type=Path, default=DIGITS, help="folder with the digits' Parquet file")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    figures = evaluate(options.model, options.data, options.digits, options.device)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(table(figures))


if __name__ == "__main__":
    main()
