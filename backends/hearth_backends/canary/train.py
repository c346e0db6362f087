"""Trains the canary from nothing, on the CPU, by a curriculum of contexts.

python -m hearth_backends.canary.train --out canary.gguf
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program uses
from torch import Tensor

from hearth_backends.canary.corpus import sample
from hearth_backends.canary.export import write_gguf
from hearth_backends.canary.model import Canary, Shape

SEED = 20_240
STEP_TOKENS = 8192
WARMUP = 100
CLIP = 1.0
EMA = 0.99


@dataclass(frozen=True, slots=True)
class Stage:
    """`steps` steps, each with sequences of one of `lengths`; the rate goes from `rate` to `end`."""

    name: str
    steps: int
    lengths: tuple[int, ...]
    rate: float
    end: float
    wide: float = 0.0


STAGES = (
    Stage("128", 600, (128,), 3e-3, 3e-3),
    Stage("512", 200, (256, 512, 512), 3e-3, 3e-3),
    Stage("1024", 300, (256, 512, 1024), 3e-3, 3e-3),
    Stage("2048", 250, (512, 1024, 2048), 3e-3, 2.85e-3),
    Stage("wide", 500, (512, 1024, 2048), 2.85e-3, 2e-3, wide=0.2),
    Stage("last", 600, (512, 1024, 2048), 2e-3, 0.0, wide=0.15),
)


def keep_memory() -> None:
    """Have glibc reuse large blocks: to fault their pages in anew takes longer than the sums."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def batch(rng: Random, length: int, wide: float) -> tuple[Tensor, Tensor]:
    """Token ids [rows, length + 1], and a mask of the answers among them."""
    rows = [sample(rng, length + 1, wide) for _ in range(STEP_TOKENS // length)]
    return torch.tensor([ids for ids, _ in rows]), torch.tensor([written for _, written in rows])


class Trainer:
    """A model, its moving average (which is what is shipped) and the optimizers."""

    def __init__(self, shape: Shape, compiled: bool = False) -> None:
        torch.manual_seed(SEED)
        self.model = Canary(shape)
        self.forward = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        inner = [p for p in self.model.blocks.parameters() if p.dim() == 2]
        outer = [p for p in self.model.parameters() if not any(p is q for q in inner)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(outer, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.steps = 0
        self.stage = ("", 0)  # The stage and its step that the last update belonged to.

    def step(self, ids: Tensor, written: Tensor, rate: float) -> tuple[float, float]:
        """One update; returns the loss and the share of answer tokens that were right."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.forward(ids[:, :-1])
        asked = written[:, 1:]
        wanted = ids[:, 1:][asked]
        logits = self.model.logits(hidden[asked].float())
        loss = F.cross_entropy(logits, wanted)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.update(rate * min(1.0, (self.steps + 1) / WARMUP))
        right = (logits.argmax(-1) == wanted).float().mean()
        return float(loss.detach()), float(right)

    def update(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - EMA)

    def save(self, path: Path) -> None:
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "steps": self.steps,
                "stage": self.stage,
            },
            path,
        )

    def load(self, path: Path) -> None:
        saved = torch.load(path)
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.steps = saved["steps"]
        self.stage = saved["stage"]


def rates(stage: Stage) -> Iterator[float]:
    """A half cosine from `rate` to `end`."""
    for step in range(stage.steps):
        share = (1 + math.cos(math.pi * step / stage.steps)) / 2
        yield stage.end + (stage.rate - stage.end) * share


def run_stage(trainer: Trainer, stage: Stage, kept: Path) -> None:
    rng = Random(f"{SEED} {stage.name}")
    began, tokens, loss, right = time.monotonic(), 0, 0.0, 0.0
    for step, rate in enumerate(rates(stage), 1):
        ids, written = batch(rng, rng.choice(stage.lengths), stage.wide)
        if trainer.stage[0] == stage.name and step <= trainer.stage[1]:
            continue  # Resumed: the same batches, without those that the checkpoint has seen.
        now = trainer.step(ids, written, rate)
        trainer.stage = (stage.name, step)
        tokens += ids.numel()
        loss, right = loss + now[0], right + now[1]
        if step % 50 == 0 or step == stage.steps:
            count = step % 50 or 50
            speed = tokens / (time.monotonic() - began)
            print(
                f"{stage.name:>5} {step:5} loss {loss / count:.4f} right {right / count:.4f}"
                f" {speed:.0f} tok/s {time.monotonic() - began:.0f} s",
                flush=True,
            )
            loss = right = 0.0
        if step % 50 == 0 or step == stage.steps:
            trainer.save(kept / f"{stage.name}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--keep", type=Path, default=Path("canary-run"), help="for checkpoints")
    parser.add_argument("--stages", nargs="*", default=[stage.name for stage in STAGES])
    parser.add_argument("--resume", type=Path, help="a checkpoint to go on from")
    parser.add_argument("--compile", action="store_true", help="faster steps, a minute to start")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(given.threads)
    given.keep.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(Shape(), given.compile)
    if given.resume:
        trainer.load(given.resume)
    for stage in STAGES:
        if stage.name in given.stages:
            run_stage(trainer, stage, given.keep)
            write_gguf(trainer.average.state_dict(), trainer.model.shape, given.out)


if __name__ == "__main__":
    main()
