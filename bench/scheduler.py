"""Time of the scheduler alone: plan and commit of a step, with no model behind it.

python bench/scheduler.py [--requests 256] [--steps 2000] [--variant blocks]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hearth_backends.base import Capabilities, SamplingParams, StageSpec
from hearth_backends.kv.hashing import HashChain
from hearth_backends.registry import open_model
from hearth_backends.sim.backend import SimBackend
from hearthd.engine.batching import BatchBuilder
from hearthd.engine.request import Limits, Request
from hearthd.engine.scheduler import Scheduler

_Now: TypeAlias = tuple[float, float]
"""By the wall's clock and by the thread's."""

N_PROMPT = 100
TOKEN = 65


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one part of a step: by the wall, and of this thread on its core.

    The two differ where other programs take the core away.
    """

    name: str
    wall_ms: tuple[float, float]  # median and 95th percentile
    core_ms: tuple[float, float]


def decoding(variant: str, n_requests: int, n_ctx: int) -> Scheduler:
    """A scheduler whose requests have all computed their prompts and decode from now on."""
    model = open_model(f"sim:variant={variant}")
    spec = StageSpec(
        first=0,
        last=model.spec.n_layers,
        embed=True,
        head=True,
        n_seq=n_requests,
        n_ctx=n_ctx,
        n_rows=8192,
        kv_tokens=n_requests * n_ctx,
        kv_dtype="f16",
        weight_kind="file",
        threads=1,
    )
    store = SimBackend().store(model.spec, spec)
    scheduler = Scheduler(store, Capabilities(), n_seq=n_requests, step_tokens=8192)
    for i in range(n_requests):
        tokens = [i % 256, i // 256] + [TOKEN] * (N_PROMPT - 2)
        limits = Limits(max_output=n_ctx - N_PROMPT)
        request = Request(i, tokens, N_PROMPT, SamplingParams(), limits, HashChain("bench"))
        scheduler.add(request)
    while scheduler.waiting or any(r.n_output < 1 for r in scheduler.running):
        plan = scheduler.plan()
        if plan is None:
            raise SystemExit("the requests do not fit into memory")
        scheduler.commit(plan, [TOKEN] * sum(plan.samples))
        scheduler.observe(plan, 1e-6 * plan.n_rows)  # so fast that chunks of prompts are whole
    return scheduler


def time_steps(variant: str, n_requests: int, n_steps: int) -> list[Timing]:
    """Plan, build and commit n_steps times."""
    scheduler = decoding(variant, n_requests, n_ctx=N_PROMPT + n_steps + 16)
    builder = BatchBuilder()
    sampled = [TOKEN] * n_requests
    marks: list[tuple[_Now, _Now, _Now, _Now]] = []
    gc.collect()
    gc.freeze()
    for _ in range(n_steps):
        before = _now()
        plan = scheduler.plan()
        planned = _now()
        if plan is None or len(plan) != n_requests:
            raise SystemExit("a step does not hold every request")
        builder.build(plan)
        built = _now()
        scheduler.commit(plan, sampled)
        marks.append((before, planned, built, _now()))
    parts = {
        "plan": [(0, 1)],
        "commit": [(2, 3)],
        "plan + commit": [(0, 1), (2, 3)],
        "batch": [(1, 2)],
    }
    return [_timing(name, marks, spans) for name, spans in parts.items()]


def _now() -> _Now:
    return time.perf_counter(), time.thread_time()


def _timing(
    name: str, marks: Sequence[tuple[_Now, ...]], spans: Sequence[tuple[int, int]]
) -> Timing:
    """The time between pairs of marks, over all steps."""

    def summary(clock: int) -> tuple[float, float]:
        times = [1000 * sum(m[b][clock] - m[a][clock] for a, b in spans) for m in marks]
        return statistics.median(times), statistics.quantiles(times, n=20)[-1]

    return Timing(name, summary(0), summary(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--variant", default="blocks,slots,cells,states")
    arguments = parser.parse_args()
    print(f"{arguments.requests} running requests, {arguments.steps} steps, milliseconds a step")
    print(f"{'store':8} {'part':14} {'median':>8} {'p95':>8} {'of core':>8} {'p95':>8}")
    for variant in arguments.variant.split(","):
        for timing in time_steps(variant, arguments.requests, arguments.steps):
            numbers = [*timing.wall_ms, *timing.core_ms]
            print(f"{variant:8} {timing.name:14} " + " ".join(f"{n:8.3f}" for n in numbers))


if __name__ == "__main__":
    main()
