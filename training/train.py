"""Trains a small DINOv2 on gray 28 x 28 images from nothing, without labels, and evaluates it.

python -m training.train --data FASHION_MNIST --out DIR

FASHION_MNIST is a folder with the Parquet files of zalando-datasets/fashion_mnist; the digits come from the
bundled sample. DIR receives checkpoint.pt, losses.jsonl, model/ (what transformers loads) and figures.json.
Started again, an interrupted run goes on after its last checkpoint and ends as if nothing had happened.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from training import evaluate
from training.data import read_images
from training.losses import dino_loss, draw_masks, ibot_loss, koleo_loss, plan_masks, sinkhorn
from training.network import Network
from training.views import GLOBALS, MEAN, SIDE, STD, make_views

DIGITS = Path(__file__).resolve().parent.parent / "assets" / "sample"
LOG_EVERY = 100  # steps
WARM_UP = 3  # steps before the CUDA graph is recorded: they compile and allocate


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on beside its images."""

    seed: int = 0
    steps: int = 29_000
    batch: int = 192
    patch: int = 4
    width: int = 192
    depth: int = 8
    heads: int = 3
    drop_path: float = 0.05
    layer_scale: float = 0.1
    head_hidden: int = 1024
    head_bottleneck: int = 64
    prototypes: int = 2048
    learning_rate: float = 1.2e-3
    warm_up: float = 0.05  # of the steps
    weight_decay: tuple[float, float] = (0.04, 0.2)  # first, last
    clip: float = 3.0
    momentum: float = 0.995  # of the teacher, rising to 1
    temperature: tuple[float, float] = (0.04, 0.05)  # of the teacher, over the first fifth
    ibot: float = 1.0
    koleo: float = 0.1


class Knobs(NamedTuple):
    """What changes from step to step."""

    rate: float
    decay: float
    momentum: float
    temperature: float
    prototypes_learn: float  # 0 or 1


class Losses(NamedTuple):
    """A line of the log."""

    step: int
    seconds: float
    dino: float
    ibot: float
    koleo: float


def knobs_at(recipe: Recipe, step: int) -> Knobs:
    """The schedule: rates by cosine after a linear warm-up, prototypes frozen for the first 1 %."""
    done = step / recipe.steps
    cosine = lambda share: 0.5 * (1 + math.cos(math.pi * share))  # noqa: E731 - from 1 to 0
    rising = done / recipe.warm_up + 1 / recipe.steps
    rate = recipe.learning_rate * min(
        rising, 1e-3 + cosine(max(0, done - recipe.warm_up) / (1 - recipe.warm_up))
    )
    first, last = recipe.weight_decay
    cold, warm = recipe.temperature
    return Knobs(
        rate=rate,
        decay=last + (first - last) * cosine(done),
        momentum=1 - (1 - recipe.momentum) * cosine(done),
        temperature=cold + (warm - cold) * min(1, done / 0.2),
        prototypes_learn=float(done >= 0.01),
    )


def backbone_config(recipe: Recipe) -> Dinov2Config:
    """The architecture that is trained."""
    return Dinov2Config(
        image_size=SIDE,
        patch_size=recipe.patch,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.depth,
        num_attention_heads=recipe.heads,
        mlp_ratio=4,
        drop_path_rate=recipe.drop_path,
        layerscale_value=recipe.layer_scale,
        attn_implementation="sdpa",
    )


def targets_of(teacher: Network, cls: Tensor, patches: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's assignments of its CLS tokens and of the patches that are hidden from the student."""
    with precision(cls):
        cls_cosines, patch_cosines = teacher.cls_head(cls), teacher.patch_head(patches)
    return sinkhorn(cls_cosines, temperature), sinkhorn(patch_cosines, temperature)


def losses_of(
    student: Network,
    cls: Tensor,
    local: Tensor,
    patches: Tensor,
    targets: tuple[Tensor, Tensor],
    weights: Tensor,
) -> Tensor:
    """The three losses (3,) of the student's tokens: global and local CLS, and hidden patches."""
    with precision(cls):
        cosines = student.cls_head(cls), student.cls_head(local), student.patch_head(patches)
    koleo = torch.stack([koleo_loss(crop) for crop in cls.chunk(GLOBALS)]).mean()
    dino = dino_loss(targets[0], cosines[0], cosines[1])
    return torch.stack([dino, ibot_loss(targets[1], cosines[2], weights), koleo])


def precision(tensor: Tensor) -> torch.autocast:
    """bfloat16 for matrix products on a GPU, float32 elsewhere."""
    return torch.autocast(tensor.device.type, torch.bfloat16, enabled=tensor.is_cuda)


class Trainer:
    """Student, teacher and optimizer, and the images, on one device.

    A step reads only tensors that stay where they are. On a GPU it is therefore recorded once, as a CUDA
    graph, and then replayed: launched one by one, its thousands of small kernels leave the GPU idle half of
    the time.
    """

    def __init__(self, recipe: Recipe, images: Tensor, flippable: Tensor, device: str) -> None:
        """`images` (n, 28, 28) uint8, of which `flippable` (n,) may be mirrored. Seeds torch's generators."""
        torch.manual_seed(recipe.seed)
        self.recipe, self.step, self.device = recipe, 0, device
        self.images, self.flippable = images.to(device), flippable.to(device)
        sizes = recipe.head_hidden, recipe.head_bottleneck, recipe.prototypes
        self.student = Network(backbone_config(recipe), *sizes).to(device).train()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.masks = plan_masks(GLOBALS * recipe.batch, SIDE // recipe.patch, device)
        schedule = [knobs_at(recipe, step) for step in range(recipe.steps)]
        self.schedule = torch.tensor(schedule, device=device)  # (steps, knobs)
        self.knobs = torch.zeros(len(Knobs._fields), device=device)
        self.batch = torch.zeros(recipe.batch, dtype=torch.long, device=device)
        self.losses = torch.zeros(3, device=device)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=self.knobs[0],
            weight_decay=0,
            fused=True,
            capturable=device != "cpu",
        )
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warmed = 0  # steps made without it
        self.order: Tensor | None = None  # of the images in this epoch
        self.targets_of, self.losses_of = targets_of, losses_of
        if device != "cpu":
            self._compile()

    def advance(self) -> None:
        """One step on the next batch."""
        self.knobs.copy_(self.schedule[self.step])
        self.batch.copy_(self._next_batch())
        if self.device == "cpu":
            self._step()
        else:
            self._replay()
        self.step += 1

    def state(self) -> dict:
        """Everything that the next steps depend on."""
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": None if self.device == "cpu" else torch.cuda.get_rng_state(),
        }

    def restore(self, state: dict) -> None:
        """Goes on from another trainer's `state`, before any step of its own."""
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = self.knobs[0]  # loading put a copy in its place
        torch.set_rng_state(state["random"].cpu())
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"].cpu())

    def _step(self) -> None:
        """Losses, gradients, and the update of student and teacher, in place."""
        losses = self._forward()
        self.losses.copy_(losses.detach())
        self.optimizer.zero_grad()
        dino, ibot, koleo = losses
        (dino + self.recipe.ibot * ibot + self.recipe.koleo * koleo).backward()
        self._update()

    def _forward(self) -> Tensor:
        """The losses (3,) of this batch."""
        views = make_views(self.images[self.batch], self.flippable[self.batch])
        masked, hidden = draw_masks(self.masks)
        with precision(views.student), torch.no_grad():
            cls, patches = self.teacher.tokens(views.teacher, picked=hidden)
        with torch.no_grad():
            targets = self.targets_of(self.teacher, cls, patches, self.knobs[3])
        with precision(views.student):
            cls, patches = self.student.tokens(views.student, masked, hidden)
            local, _ = self.student.tokens(views.local)
        return self.losses_of(self.student, cls, local, patches, targets, self.masks.weights)

    @torch.no_grad()
    def _update(self) -> None:
        """AdamW with decay of the matrices only, then the teacher a little nearer to the student."""
        rate, decay, momentum, _, prototypes_learn = self.knobs
        for head in (self.student.cls_head, self.student.patch_head):
            head.prototypes.grad.mul_(prototypes_learn)
        student, teacher = list(self.student.parameters()), list(self.teacher.parameters())
        nn.utils.clip_grad_norm_(student, self.recipe.clip)
        torch._foreach_mul_([weights for weights in student if weights.ndim in (2, 4)], 1 - rate * decay)
        self.optimizer.step()
        behind = torch._foreach_sub(student, teacher)
        torch._foreach_mul_(behind, 1 - momentum)
        torch._foreach_add_(teacher, behind)

    def _next_batch(self) -> Tensor:
        """The images of this step (batch,): each epoch in an order of its own, the rest of it dropped."""
        epoch, place = divmod(self.step, len(self.images) // self.recipe.batch)
        if place == 0 or self.order is None:
            generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.images), generator=generator).to(self.device)
        return self.order[place * self.recipe.batch : (place + 1) * self.recipe.batch]

    def _compile(self) -> None:
        """Compiles the heads and one layer, which all share: half a minute, where the whole takes several."""
        torch.set_float32_matmul_precision("high")
        self.targets_of = torch.compile(targets_of, dynamic=False)
        self.losses_of = torch.compile(losses_of, dynamic=False)
        for network in (self.student, self.teacher):
            for layer in network.backbone.encoder.layer:
                layer.compile(dynamic=False)

    def _replay(self) -> None:
        """The step from its CUDA graph; the first few without, then it is recorded."""
        if self.warmed < WARM_UP:
            stream = torch.cuda.Stream()  # gradients must not be tied to the default one when it is recorded
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._step()
            torch.cuda.current_stream().wait_stream(stream)
            self.warmed += 1
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()
        self.graph.replay()


def train(
    trainer: Trainer, out: Path, every: int, report: Callable[[Losses], None] | None = None
) -> list[Losses]:
    """Runs to the end of the recipe, with a checkpoint in `out` after `every` steps; the losses on the way.

    Goes on after the checkpoint that is there. Raises ValueError if that is another recipe's.
    """
    out.mkdir(parents=True, exist_ok=True)
    history = resume(trainer, out / "checkpoint.pt")
    start = time.perf_counter() - (history[-1].seconds if history else 0)
    while trainer.step < trainer.recipe.steps:
        trainer.advance()
        last = trainer.step == trainer.recipe.steps
        if trainer.step % LOG_EVERY == 0 or trainer.step % every == 0 or last:
            losses = trainer.losses.tolist()
            history.append(Losses(trainer.step, time.perf_counter() - start, *losses))
            if report:
                report(history[-1])
        if trainer.step % every == 0 or last:
            save_checkpoint(trainer, history, out / "checkpoint.pt")
            lines = [json.dumps(losses._asdict()) for losses in history]
            (out / "losses.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return history


def resume(trainer: Trainer, checkpoint: Path) -> list[Losses]:
    """Brings `trainer` to where the checkpoint is, if there is one; the losses up to it."""
    if not checkpoint.exists():
        return []
    state = torch.load(checkpoint, map_location=trainer.device, weights_only=True)
    if state["recipe"] != asdict(trainer.recipe):
        raise ValueError(f"{checkpoint} is of another recipe ({state['recipe']}): give another --out.")
    trainer.restore(state)
    return [Losses(*losses) for losses in state["history"]]


def save_checkpoint(trainer: Trainer, history: list[Losses], checkpoint: Path) -> None:
    """Writes the whole state in one rename: interrupted, the last checkpoint stays."""
    losses = [tuple(losses) for losses in history]
    partial = checkpoint.with_suffix(".partial")
    torch.save({**trainer.state(), "recipe": asdict(trainer.recipe), "history": losses}, partial)
    partial.replace(checkpoint)


def save_model(trainer: Trainer, folder: Path) -> None:
    """Writes the teacher's backbone as transformers reads it: float16 on disk, float32 when loaded."""
    config = backbone_config(trainer.recipe)
    config.drop_path_rate = 0.0
    model = Dinov2Model(config)
    model.load_state_dict(trainer.teacher.backbone.state_dict())
    model.half().save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written["dtype"] = "float32"
    _write_json(folder / "config.json", written)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": SIDE},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    _write_json(folder / "preprocessor_config.json", processor)


def training_images(data: Path, digits: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """All images to train on (n, 28, 28), and which of them may be mirrored: clothes, not digits."""
    clothes, numbers = read_images(data, "train"), read_images(digits, "train")
    return np.concatenate([clothes, numbers]), np.arange(len(clothes) + len(numbers)) < len(clothes)


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's Parquet files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--digits", type=Path, default=DIGITS, help="folder with the digits' Parquet file")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--every", type=int, default=1000, help="steps between checkpoints (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = _parse(arguments)
    images, flippable = training_images(options.data, options.digits)
    recipe = Recipe(seed=options.seed, steps=options.steps)
    trainer = Trainer(recipe, torch.from_numpy(images), torch.from_numpy(flippable), options.device)
    history = train(
        trainer, options.out, options.every, lambda losses: print(json.dumps(losses._asdict()), flush=True)
    )
    save_model(trainer, options.out / "model")
    figures = evaluate.evaluate(options.out / "model", options.data, options.digits, options.device)
    run = {"recipe": asdict(recipe), "seconds": history[-1].seconds, "figures": figures}
    _write_json(options.out / "figures.json", run)
    print(evaluate.table(figures))


if __name__ == "__main__":
    main()
