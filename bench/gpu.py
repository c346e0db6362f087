"""The paged engine on one GPU: correctness, kernels, decode, prefill, quantization; each as a share of what the device can do.

python bench/gpu.py [--shape llama-3.1-8b] [--json FILE] [--only decode,prefill]      # ten minutes at most
python bench/gpu.py --dry-run                                                          # tiny, on the processor
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

import torch

from hearth_backends.base import SamplingParams
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels import kernels_for
from hearth_backends.cuda.stage import CudaStage
from hearth_bench.gpu_clock import copy_bandwidth, matmul_rate, read_bandwidth
from hearth_bench.gpu_figures import Figure, as_json, table
from hearth_bench.gpu_kernels import attention_sweep, errors, product_sweep
from hearth_bench.gpu_model import (
    Maker,
    Room,
    kv_bytes,
    open_stage,
    row_operations,
    streamed_bytes,
)
from hearth_bench.gpu_steps import Steps, decode_seconds, prefill_seconds
from hearth_bench.gpu_tuning import decode_choices
from hearth_bench.shapes import SHAPES, Shape

TINY = Shape("tiny", "llama", 2, 256, 4, 2, 512, 640, 4096, 1e4, 1e-5, tied=False)
DRAWN = SamplingParams(temperature=0.8, top_k=50, top_p=0.95, seed=3)
WANTED = {1: (72, 88), 32: (60, 78), 256: (48, 68)}
"""Of decode in bf16, by sequences: must and aim, in percent of the measured bandwidth."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    batches: tuple[int, ...]
    context: int
    room: int  # tokens that sequences grow by
    n_ctx: int
    prompt: int
    steps: int
    sweep: tuple[tuple[int, int], ...]
    bandwidth_bytes: int
    matmul: int


FULL = Sizes(
    batches=(1, 8, 32, 128, 256), context=1024, room=256, n_ctx=8192, prompt=2048, steps=60,
    sweep=((1, 1024), (1, 8192), (1, 65536), (8, 8192), (8, 32768), (32, 1024), (32, 8192), (64, 8192),
           (256, 1024), (128, 8192)),
    bandwidth_bytes=4 << 30, matmul=8192,
)  # fmt: skip
DRY = Sizes(
    batches=(1, 4), context=40, room=40, n_ctx=256, prompt=64, steps=3, sweep=((1, 64), (4, 40)),
    bandwidth_bytes=1 << 22, matmul=128,
)  # fmt: skip


class Run:
    """One device, one shape, and what was measured of the device itself."""

    def __init__(self, shape: Shape, device: str, sizes: Sizes) -> None:
        self.where = Accelerator(device)
        self.where.use(2)
        self.sizes = sizes
        self.dtype = torch.bfloat16 if self.where.has_bf16 else torch.float32
        self.maker = Maker(shape, self.where, self.dtype, kernels_for(self.where.torch))
        self.step_seconds: dict[str, float] = {}

    @property
    def shape(self) -> Shape:
        return self.maker.shape

    @cached_property
    def bandwidth(self) -> float:
        """The better of what copies and what sums move in a second."""
        n_bytes = self.sizes.bandwidth_bytes
        return max(copy_bandwidth(self.where, n_bytes), read_bandwidth(self.where, n_bytes))

    @cached_property
    def matmul_rate(self) -> float:
        return matmul_rate(self.where, self.dtype, self.sizes.matmul)

    def room(self, n_seq: int, kv: torch.dtype) -> Room:
        """Memory for n_seq sequences of the usual context."""
        sizes = self.sizes
        longest = max(sizes.context, sizes.prompt) + sizes.room
        kv_tokens = max(n_seq * (sizes.context + sizes.room + 16), longest + 16)
        return Room(n_seq, sizes.n_ctx, max(n_seq, sizes.prompt), kv_tokens, kv)

    # --- what is measured ----------------------------------------------------------------------

    def device(self) -> Iterator[Figure]:
        """The measures of everything else."""
        n_bytes = self.sizes.bandwidth_bytes
        yield Figure("copy bandwidth", copy_bandwidth(self.where, n_bytes) / 1e9, "GB/s")
        yield Figure("bandwidth that shares are of", self.bandwidth / 1e9, "GB/s")
        yield Figure("matmul rate", self.matmul_rate / 1e12, "TFLOP/s")

    def correct(self) -> Iterator[Figure]:
        """Every kernel against plain torch on this device; ends the run where one is wrong."""
        kinds = [self.dtype] + ([torch.float8_e4m3fn] if self.where.reads_fp8 else [])
        most = min(self.sizes.context, 600)
        yield from errors(self.maker.kernels, self.shape, self.dtype, kinds, self.where, most)

    def kernels(self) -> Iterator[Figure]:
        """Paged decode and products of few rows by themselves."""
        sweep = list(self.sizes.sweep)
        for kv in [self.dtype] + ([torch.float8_e4m3fn] if self.where.reads_fp8 else []):
            yield from attention_sweep(
                self.maker.kernels, self.shape, self.dtype, kv, self.where, sweep, self.bandwidth
            )
        rows = [1, 8, 16, 32]
        yield from product_sweep(
            self.maker.kernels, self.shape, self.dtype, self.where, rows, self.bandwidth
        )

    def tune(self) -> Iterator[Figure]:
        """Other choices for paged decode; minutes, and only when asked for."""
        sizes = [(1, 8192), (32, 1024), (32, 8192)]
        yield from decode_choices(self.maker.kernels, self.shape, self.where, sizes, self.bandwidth)

    def decode(self) -> Iterator[Figure]:
        """Steps of the stage in floating point, with and without graphs and overlap, and prompts."""
        sizes, most = self.sizes, max(self.sizes.batches)
        weights = self.maker.weights("float", sizes.n_ctx)
        n_bytes = streamed_bytes(weights, self.shape)
        stage = open_stage(self.maker, weights, self.room(most, self.dtype))
        for n in sizes.batches:
            must, aim = WANTED.get(n, (None, None))
            steps = Steps(stage, n, sizes.context, sizes.room)
            seconds = self.step_seconds[f"float {n}"] = decode_seconds(stage, steps, sizes.steps)
            yield self._decode_figure(
                f"decode, batch {n}", seconds, n, n_bytes, self.dtype, must, aim
            )
        drawn = decode_seconds(
            stage, Steps(stage, most, sizes.context, sizes.room), sizes.steps // 2, params=DRAWN
        )
        ratio = drawn / self.step_seconds[f"float {most}"]
        yield Figure(f"a step that draws over a greedy one, batch {most}", ratio, "x")
        yield from self._overlap(stage)
        yield from self._prompts(stage)
        stage.close()
        eager = open_stage(self.maker, weights, self.room(1, self.dtype), graphs=False)
        seconds = decode_seconds(eager, Steps(eager, 1, sizes.context, sizes.room), sizes.steps)
        yield Figure(
            "graphs over eager, batch 1", seconds / self.step_seconds["float 1"], "x", 1.4, 1.8
        )
        eager.close()
        if self.where.reads_fp8:
            n = 32 if 32 in sizes.batches else most
            stage = open_stage(self.maker, weights, self.room(n, torch.float8_e4m3fn))
            seconds = decode_seconds(stage, Steps(stage, n, sizes.context, sizes.room), sizes.steps)
            yield Figure(
                f"fp8 keys and values over {self._float}, batch {n}",
                self.step_seconds[f"float {n}"] / seconds,
                "x",
            )
            stage.close()

    def _overlap(self, stage: CudaStage) -> Iterator[Figure]:
        sizes = self.sizes
        for n in (1, max(sizes.batches)):
            steps = Steps(stage, n, sizes.context, sizes.room)
            seconds = decode_seconds(stage, steps, sizes.steps, overlap=False)
            yield Figure(
                f"overlap over none, batch {n}", seconds / self.step_seconds[f"float {n}"], "x"
            )

    def _prompts(self, stage: CudaStage) -> Iterator[Figure]:
        shape, n = self.shape, self.sizes.prompt
        steps = Steps(stage, 1, n, 16)
        seconds = prefill_seconds(stage, steps, 0, n)
        attention = (
            2 * shape.n_layers * n * n * shape.n_heads * shape.head_dim
        )  # half of the square
        rate = (n * row_operations(shape) + attention) / seconds
        yield Figure(
            f"prefill of {n} tokens, of the matmul rate", 100 * rate / self.matmul_rate, "%", 50, 70,
            {"ms": seconds * 1e3, "tok/s": n / seconds},
        )  # fmt: skip
        for share in (0.5, 0.9):
            first = int(n * share) // 16 * 16
            yield Figure(
                f"time to the token with {share:.0%} of the prompt cached, over none",
                prefill_seconds(stage, steps, first, n) / seconds, "x",
            )  # fmt: skip

    def quantized(self) -> Iterator[Figure]:
        """fp8 and 4 bits against floating point; needs what `decode` measured."""
        sizes = self.sizes
        for kind, must, aim in (("fp8", 1.5, 1.8), ("int4", 2.0, 2.8)):
            weights = self.maker.weights(kind, sizes.n_ctx)
            n_bytes = streamed_bytes(weights, self.shape)
            stage = open_stage(self.maker, weights, self.room(max(sizes.batches), self.dtype))
            for n in sizes.batches:
                steps = Steps(stage, n, sizes.context, sizes.room)
                seconds = decode_seconds(stage, steps, sizes.steps)
                yield self._decode_figure(f"{kind}, batch {n}", seconds, n, n_bytes, self.dtype)
                plain = self.step_seconds.get(f"float {n}")
                if plain is not None:
                    wanted = (must, aim) if n == 1 else (None, None)
                    yield Figure(
                        f"{kind} over {self._float}, batch {n}", plain / seconds, "x", *wanted
                    )
            stage.close()
            del stage, weights
            self.where.give_back()

    def _decode_figure(
        self, name: str, seconds: float, n: int, n_bytes: int, kv: torch.dtype,
        must: float | None = None, aim: float | None = None,
    ) -> Figure:  # fmt: skip
        """Bytes that a step has to read over those that the device could have read in its time."""
        n_bytes += n * self.sizes.context * kv_bytes(self.shape, kv)
        share = 100 * n_bytes / seconds / self.bandwidth
        return Figure(name, share, "%", must, aim, {"ms": seconds * 1e3, "tok/s": n / seconds})

    @property
    def _float(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def about(run: Run) -> dict[str, str]:
    """Device, versions, commit."""
    device = "processor" if run.where.is_cpu else torch.cuda.get_device_name(run.where.torch)
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = "none"
    return {
        "device": device, "shape": run.shape.name, "torch": torch.__version__, "triton": triton,
        "commit": told.stdout.strip() or "unknown", "time": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip


def main() -> None:
    """Measure, print, and write what was asked for; parts that fail are told and do not end the others."""
    args = _arguments()
    run = Run(
        TINY if args.dry_run else SHAPES[args.shape], args.device, DRY if args.dry_run else FULL
    )
    parts: dict[str, Callable[[], Iterator[Figure]]] = {
        "device": run.device, "correct": run.correct, "decode": run.decode, "kernels": run.kernels,
        "quantized": run.quantized,
    }  # fmt: skip
    asked = parts if args.only is None else args.only.split(",")
    chosen = {name: {**parts, "tune": run.tune}[name] for name in asked}
    figures: list[Figure] = []
    failed = []
    with torch.inference_mode():
        for name, part in chosen.items():
            start = time.perf_counter()
            try:
                for figure in part():
                    figures.append(figure)
                    print(
                        f"  {figure.name}: {figure.value:.4g} {figure.unit} {figure.verdict}",
                        flush=True,
                    )
            except Exception:  # whatever it is: the other parts are worth having
                failed.append(name)
                traceback.print_exc()
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
            if args.json is not None:
                args.json.write_text(json.dumps(as_json(figures, about(run)), indent=1))
    print()
    print(", ".join(f"{name} {value}" for name, value in about(run).items()))
    print(table(figures))
    if args.dry_run:
        print(
            "\nA rehearsal: it shows that everything runs, the figures and verdicts mean nothing."
        )
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--device", default=None, help="default: cuda:0, with --dry-run cpu:0")
    parser.add_argument(
        "--only",
        help="of device, correct, decode, kernels, quantized, and tune, which has to be asked for; commas between them",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tiny shapes, on the processor unless a device is named",
    )
    args = parser.parse_args()
    args.device = args.device or ("cpu:0" if args.dry_run else "cuda:0")
    return args


if __name__ == "__main__":
    main()
