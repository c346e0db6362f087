"""From a model's description to a stage that has computed its first step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from hearth_backends.base import Capabilities, DeviceInfo, Lease, Progress, StageSpec
from hearth_backends.cuda.decoder import Decoder
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels import kernels_for
from hearth_backends.cuda.loading import WeightLoader
from hearth_backends.cuda.memory import n_wanted, out_of_memory
from hearth_backends.cuda.pool import KVPool
from hearth_backends.cuda.precision import Precision, precision_of
from hearth_backends.cuda.quantized import Place
from hearth_backends.cuda.rows import HostRows, Rows
from hearth_backends.cuda.runner import Runner
from hearth_backends.cuda.sampler import Sampler
from hearth_backends.cuda.stage import CudaStage, Parts
from hearth_backends.errors import BackendError, OutOfMemory
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.spec import ModelSpec

log = logging.getLogger(__name__)


def precision_on(spec: StageSpec, device: str) -> Precision:
    """What a stage computes in on a device; raises Unsupported."""
    where = Accelerator(device)
    return precision_of(
        spec.weight_kind, spec.kv_dtype, is_cpu=where.is_cpu, has_bf16=where.has_bf16
    )


def open_stage(
    model: ModelSpec, spec: StageSpec, device: DeviceInfo, lease: Lease, progress: Progress
) -> CudaStage:
    """Load weights, make the pool, compute one step; raises ModelFileError, Unsupported, OutOfMemory."""
    where = Accelerator(device.name)
    precision = precision_on(spec, device.name)
    where.use_threads(spec.threads)
    where.reset_peak()
    before_bytes = where.used_bytes()
    with _refusing_without_memory(where, lease), torch.inference_mode():
        runner = make_runner(model, spec, where, precision, progress)
        _warm_up(runner, model, spec)
    where.synchronize()
    _check_lease(model, where, lease, where.peak_bytes() - before_bytes)
    caps = Capabilities(
        async_depth=1 if spec.embed and spec.head else 0,
        max_wants=n_wanted(spec) if spec.head else None,
    )
    progress(1.0)
    parts = Parts(
        runner=runner,
        sampler=Sampler(where, kernels_for(where.torch)),
        digest=model.digest,
        precision=f"{spec.weight_kind} {precision.compute_name} {precision.kv}",
        d_model=model.d_model,
    )
    return CudaStage(spec, caps, parts)


def make_runner(
    model: ModelSpec, spec: StageSpec, where: Accelerator, precision: Precision, progress: Progress
) -> Runner:
    """Everything on its device, and nothing computed yet."""
    kernels = kernels_for(where.torch)
    place = Place(where, precision.compute, kernels)
    loader = WeightLoader(open_reader(model), spec, precision, place)
    numbers = loader.numbers()
    pool = KVPool(
        spec.last - spec.first,
        spec.kv_tokens,
        numbers.n_kv_heads,
        numbers.head_dim,
        dtype=precision.kv,
        device=where.torch,
    )
    decoder = Decoder(loader.weights(progress), numbers, kernels)
    rows = Rows(spec, where.torch)
    return Runner(decoder, pool, rows, kernels, where, precision.compute)


def _warm_up(runner: Runner, model: ModelSpec, spec: StageSpec) -> None:
    """A step of rows that nobody owns: as many as there may be on a GPU, where the peak is measured, few elsewhere.

    Raises BackendError where what comes out is no number.
    """
    n = min(2, spec.n_rows, spec.n_ctx) if runner.device.is_cpu else min(spec.n_rows, spec.n_ctx)
    x = None if spec.embed else np.ones((n, model.d_model), np.float32)
    out = runner.run(_nobodys_rows(n, runner.rows.null_row, n_wanted(spec)), x)
    if not bool(torch.isfinite(out).all()):
        raise BackendError(f"what comes out of {model.name} is not a number")


def _nobodys_rows(n: int, null_row: int, n_wanted: int) -> HostRows:
    """One sequence of n tokens that is written to the null block and forgotten."""
    return HostRows(
        tokens=np.zeros(n, np.int32),
        row_starts=np.array([0, n], np.int32),
        lengths=np.array([n], np.int32),
        seats=np.array([null_row], np.int32),
        wanted=np.arange(n, dtype=np.int32)[-n_wanted:],
        changes=np.zeros((0, 3), np.int32),
    )


@contextmanager
def _refusing_without_memory(where: Accelerator, lease: Lease) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        where.give_back()
        raise OutOfMemory(
            f"{where.name} could not give what was leased ({lease.bytes.total} bytes): {error}"
        ) from error


def _check_lease(model: ModelSpec, where: Accelerator, lease: Lease, peak_bytes: int) -> None:
    """Tell what a load really took; a GPU's peak is exact, the processor's is what the process grew by."""
    log.info(
        "%s on %s: %d bytes at its peak, of %d that were leased",
        model.name, where.name, peak_bytes, lease.bytes.total,
    )  # fmt: skip
