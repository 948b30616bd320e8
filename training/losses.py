"""The parts of DINOv2's objective, each a function of tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STUDENT_TEMPERATURE = 0.1
MASKED = (0.1, 0.5)  # share of the patches hidden, least and most


def sinkhorn(cosines: Tensor, temperature: Tensor, rounds: int = 3) -> Tensor:
    """Soft assignments (n, prototypes) of the teacher's tokens that use every prototype equally."""
    n, prototypes = cosines.shape
    shares = (cosines.float() / temperature).exp()
    shares = shares / shares.sum()
    for _ in range(rounds):
        shares = shares / (shares.sum(0, keepdim=True) * prototypes)
        shares = shares / (shares.sum(1, keepdim=True) * n)
    return shares * n


def cross_entropy(targets: Tensor, cosines: Tensor) -> Tensor:
    """Of the student's tokens against the teacher's assignments, one number a row, (n,)."""
    return -(targets * F.log_softmax(cosines.float() / STUDENT_TEMPERATURE, 1)).sum(1)


def dino_loss(targets: Tensor, student: Tensor, local: Tensor) -> Tensor:
    """The mean over pairs of a teacher's global crop and a different crop of the student.

    `targets` and `student` (2 * batch, prototypes) are of the global crops, `local` (locals * batch,
    prototypes) of the local ones.
    """
    first, second = targets.chunk(2)
    count = len(local) // len(first)
    across = cross_entropy(torch.cat([second, first]), student).mean() * 2
    inward = cross_entropy((first + second).repeat(count, 1), local).mean() * count
    return (across + inward) / (2 + 2 * count)


def ibot_loss(targets: Tensor, student: Tensor, weights: Tensor) -> Tensor:
    """Hidden patches (m, prototypes) told by the student, weighted so that every crop counts the same."""
    return (cross_entropy(targets, student) * weights).sum()


def koleo_loss(embeddings: Tensor) -> Tensor:
    """Less, the farther each of the embeddings (n, width) is from its nearest other: it spreads them out."""
    units = F.normalize(embeddings.float(), dim=1)
    with torch.no_grad():
        nearest = (units @ units.T).fill_diagonal_(-2).argmax(1)
    return -torch.log((units - units[nearest]).norm(dim=1) + 1e-6).mean()


@dataclass(frozen=True)
class Masks:
    """How many patches are hidden at which place in the batch: every second crop has some, always as many.

    The batch is shuffled, so the counts may stay: all shapes are known beforehand.
    """

    crops: int
    side: int  # in patches
    rows: Tensor  # (m,): the crop of each hidden patch
    ranks: Tensor  # (m,): its number within the crop
    weights: Tensor  # (m,): one a masked crop, shared by its patches


def plan_masks(crops: int, side: int, device: str) -> Masks:
    """The masks of a batch of `crops` with side * side patches each."""
    counts = torch.zeros(crops, dtype=torch.long)
    counts[::2] = (torch.linspace(*MASKED, len(counts[::2])) * side**2).long().clamp(min=1)
    rows = torch.repeat_interleave(torch.arange(crops), counts)
    ranks = torch.cat([torch.arange(int(count)) for count in counts])
    weights = 1 / counts[rows] / (counts > 0).sum()
    return Masks(crops, side, rows.to(device), ranks.to(device), weights.to(device))


def draw_masks(masks: Masks) -> tuple[Tensor, Tensor]:
    """Which patches are hidden (crops, side * side), in blobs, and their numbers among all patches (m,)."""
    noise = torch.randn(masks.crops, 1, masks.side, masks.side, device=masks.rows.device)
    smooth = F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="replicate"), 3, 1) * 2
    order = (smooth + 0.5 * torch.randn_like(noise)).flatten(1).argsort(1)
    hidden = masks.rows * masks.side**2 + order[masks.rows, masks.ranks]
    masked = torch.zeros(order.numel(), dtype=torch.bool, device=hidden.device)
    return masked.index_fill(0, hidden, True).view_as(order), hidden
