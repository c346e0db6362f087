"""Calibration: how fast a device is with a backend, in seconds of measuring."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from hearth_backends.weights.yardstick import (
    CONTEXT,
    LAYER_BYTES,
    LAYER_PARAMETERS,
    N_LAYERS,
    QUANTIZATION,
    write_yardstick,
)
from hearthd.engine.checkup.bench import Bench, Rows, opened
from hearthd.engine.checkup.memory import copy_bandwidth

DECODE_BATCHES = (1, 8)
"""Sequences with one row each, as in decoding."""
PROMPT_ROWS = (64, 512)
"""Rows of one sequence, as in a prompt."""
MEASURE_SECONDS = 0.4
LEAST_ROUNDS = 3
DISK_BYTES = 64 << 20
_CHUNK_BYTES = 4 << 20
_TOKEN = 65


class Calibration(msgspec.Struct, frozen=True):
    """What was measured; None: not measured here."""

    threads: int
    weights: str  # how the layer is stored
    layer_bytes: int
    layer_seconds: dict[int, float]  # of one layer, by rows of a step
    matmul_flops: dict[int, float]  # a second, by rows of a step
    weights_bytes_per_second: float  # read by a step of one row
    foreign_cpus: float  # processors' worth of time that others took meanwhile
    copy_bytes_per_second: float | None
    disk_bytes_per_second: float | None


def calibrate(
    backend: str, device: str, *, threads: int, folder: Path | None = None
) -> Calibration:
    """Measure; `folder`: whose disk is measured too. Raises what `bench.opened` raises."""
    with tempfile.TemporaryDirectory(prefix="hearth") as temporary:
        path = Path(temporary) / "yardstick.gguf"
        write_yardstick(path)
        with opened(
            backend, device, str(path), threads=threads, n_seq=max(DECODE_BATCHES), n_ctx=CONTEXT
        ) as bench:
            others = Others()
            seconds = _layer_seconds(bench)
            foreign_cpus = others.cpus()
            on_host = bench.device.kind == "cpu"
    return Calibration(
        threads=threads,
        weights=QUANTIZATION,
        layer_bytes=LAYER_BYTES,
        layer_seconds=seconds,
        matmul_flops={n: 2 * LAYER_PARAMETERS * n / spent for n, spent in seconds.items()},
        weights_bytes_per_second=LAYER_BYTES / seconds[1],
        foreign_cpus=foreign_cpus,
        copy_bytes_per_second=copy_bandwidth(threads) if on_host else None,
        disk_bytes_per_second=None if folder is None else disk_read_rate(folder),
    )


class Others:
    """How much of the processors everybody else takes, from now on.

    Threads of a step wait for each other: one that is kept from its core holds up all, and a figure
    taken meanwhile says nothing of the device.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._before = _foreign_seconds()

    def cpus(self) -> float:
        """Processors' worth of time a second until now."""
        spent = time.perf_counter() - self._began
        return max(0.0, (_foreign_seconds() - self._before) / spent)


def _foreign_seconds() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted twice
    return float(sum(times) - idle - guests - time.process_time())


def _layer_seconds(bench: Bench) -> dict[int, float]:
    """Of one layer, by rows; the head over a small vocabulary is counted in."""
    steps = {n: [Rows(row, [_TOKEN], fresh=True) for row in range(n)] for n in DECODE_BATCHES}
    steps |= {n: [Rows(0, [_TOKEN] * n, fresh=True)] for n in PROMPT_ROWS}
    return {n: _median_seconds(bench, rows) / N_LAYERS for n, rows in steps.items()}


def _median_seconds(bench: Bench, rows: list[Rows]) -> float:
    bench.step(*rows)
    spent: list[float] = []
    while len(spent) < LEAST_ROUNDS or sum(spent) < MEASURE_SECONDS:
        began = time.perf_counter()
        bench.step(*rows)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def disk_read_rate(folder: Path, n_bytes: int = DISK_BYTES) -> float | None:
    """Bytes a second that are read from a folder's disk, not from the page cache.

    None where the file is in memory only, or there is no room for it.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            chunk = os.urandom(_CHUNK_BYTES)
            for _ in range(n_bytes // _CHUNK_BYTES):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            began = time.perf_counter()
            while file.read(_CHUNK_BYTES):
                pass
            return n_bytes / (time.perf_counter() - began)
    except OSError:
        return None
