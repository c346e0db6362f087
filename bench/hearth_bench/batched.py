"""llama-batched-bench: the time that llama.cpp takes for prompts and for steps of many sequences."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hearth_bench.endpoint import EndpointError

_BATCH, _UBATCH = 2048, 512
"""llama.cpp's own defaults."""


@dataclass(frozen=True, slots=True)
class BatchedTimes:
    """One line of its output."""

    n_prompt: int
    n_seq: int
    prompt_seconds: float  # of one prompt, which all sequences share
    step_seconds: float | None  # of one token for each sequence; None where none was asked for


def batched_command(
    program: str, model: Path, prompts: Sequence[int], steps: int, seqs: Sequence[int], threads: int
) -> list[str]:
    """Its command line: prompts are shared, as sequences are computed the same afterwards."""
    room = max(seqs) * (max(prompts) + steps + 64)
    listed = {"-npp": prompts, "-ntg": [steps], "-npl": seqs}
    options = {"-c": room, "-b": _BATCH, "-ub": _UBATCH, "-t": threads, "-tb": threads}
    words = [program, "-m", str(model)]
    words += [word for name, value in options.items() for word in (name, str(value))]
    for name, values in listed.items():
        words += [name, ",".join(map(str, values))]
    return [*words, "-pps", "--output-format", "jsonl"]


def read_times(output: str) -> list[BatchedTimes]:
    """What a run printed; raises EndpointError where it printed no times."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise EndpointError(f"llama-batched-bench printed no times: {output[-500:]!r}")
    return [
        BatchedTimes(
            n_prompt=line["pp"],
            n_seq=line["pl"],
            prompt_seconds=line["t_pp"],
            step_seconds=line["t_tg"] / line["tg"] if line["tg"] else None,
        )
        for line in lines
    ]


def run_batched(command: Sequence[str]) -> list[BatchedTimes]:
    """Run it to its end; raises OSError where it is not there, EndpointError where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EndpointError(f"{command[0]} exited with {done.returncode}: {done.stderr[-500:]}")
    return read_times(done.stdout)
