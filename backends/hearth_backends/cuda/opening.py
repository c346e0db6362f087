"""From a model's description to a stage that has computed its first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import torch

from hearth_backends.base import Capabilities, DeviceInfo, Lease, Progress, StageSpec
from hearth_backends.cuda.decoder import Decoder, alone
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.followers import Followers, LeadingRunner, Membership
from hearth_backends.cuda.group import Group, check_nobody_meets, meeting_place, shares
from hearth_backends.cuda.kernels import kernels_for
from hearth_backends.cuda.loading import WeightLoader
from hearth_backends.cuda.memory import n_wanted, out_of_memory
from hearth_backends.cuda.pool import KVPool
from hearth_backends.cuda.precision import Precision, precision_of
from hearth_backends.cuda.quantized import Place
from hearth_backends.cuda.rows import Rows, nobodys_prompt
from hearth_backends.cuda.runner import Runner
from hearth_backends.cuda.sampler import Sampler
from hearth_backends.cuda.shard import WHOLE
from hearth_backends.cuda.stage import NAME, CudaStage, Parts
from hearth_backends.errors import BackendError, OutOfMemory, Unsupported
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.spec import ModelSpec


def precision_on(spec: StageSpec, device: str) -> Precision:
    """What a stage computes in on a device; raises Unsupported."""
    where = Accelerator(device)
    return precision_of(
        spec.weight_kind,
        spec.kv_dtype,
        is_cpu=where.is_cpu,
        has_bf16=where.has_bf16,
        reads_fp8=where.reads_fp8,
    )


def open_stage(
    model: ModelSpec,
    spec: StageSpec,
    devices: Sequence[DeviceInfo],
    leases: Sequence[Lease],
    progress: Progress,
) -> CudaStage:
    """Load weights, make the pool, compute one step; raises ModelFileError, Unsupported, OutOfMemory."""
    where = Accelerator(devices[0].name)
    precision = precision_on(spec, devices[0].name)
    with torch.inference_mode():
        if len(devices) > 1:
            runner = _open_group(model, spec, devices, leases, progress)
        else:
            runner = open_runner(model, spec, where, leases[0], progress)
        with closing_on_failure(runner), _refusing_without_memory(where, leases[0]):
            _warm_up(runner, model, spec)
    caps = Capabilities(
        async_depth=1 if spec.embed and spec.head else 0,
        max_wants=n_wanted(spec) if spec.head else None,
    )
    progress(1.0)
    parts = Parts(
        runner=runner,
        sampler=Sampler(where, kernels_for(where.torch)),
        digest=model.digest,
        precision=f"{spec.weight_kind} {precision.compute_name} {precision.kv} {len(devices)}",
        d_model=model.d_model,
    )
    return CudaStage(spec, caps, parts)


def open_runner(
    model: ModelSpec,
    spec: StageSpec,
    where: Accelerator,
    lease: Lease,
    progress: Progress,
    group: Group | None = None,
) -> Runner:
    """Weights and pool on one device, of a group its share; raises what `open_stage` raises."""
    where.use(spec.threads)
    where.reset_peak()
    precision = precision_on(spec, where.name)
    with _refusing_without_memory(where, lease):
        return make_runner(model, spec, where, precision, progress, group)


def _open_group(
    model: ModelSpec,
    spec: StageSpec,
    devices: Sequence[DeviceInfo],
    leases: Sequence[Lease],
    progress: Progress,
) -> Runner:
    """The first device here, each other one in a process of its own."""
    first, *others = shards = shares(len(devices))
    support = first.support(model)
    if not support.ok:
        raise Unsupported(f"backend {NAME}: {support.reason}")
    check_nobody_meets()
    with ExitStack() as stack:
        meeting = meeting_place(stack)
        members = [
            Membership(model, spec, devices[s.rank].name, leases[s.rank], s, meeting)
            for s in others
        ]
        followers = stack.enter_context(closing(Followers(members)))
        where = Accelerator(devices[0].name)
        group = stack.enter_context(closing(Group(shards[0], meeting, where)))
        runner = open_runner(model, spec, where, leases[0], progress, group)
        assert isinstance(runner, LeadingRunner)
        followers.wait_until_loaded()
        runner.lead(followers, group, stack.pop_all())
        return runner


def make_runner(
    model: ModelSpec,
    spec: StageSpec,
    where: Accelerator,
    precision: Precision,
    progress: Progress,
    group: Group | None = None,
) -> Runner:
    """Everything on its device, and nothing computed yet."""
    kernels = kernels_for(where.torch)
    place = Place(where, precision.compute, kernels)
    shard = WHOLE if group is None else group.shard
    loader = WeightLoader(open_reader(model), spec, precision, place, shard)
    numbers = loader.numbers()
    pool = KVPool(
        spec.last - spec.first,
        spec.kv_tokens,
        numbers.n_kv_heads,
        numbers.head_dim,
        dtype=precision.kv,
        device=where.torch,
    )
    weights = loader.weights(progress)
    decoder = Decoder(weights, numbers, kernels, alone if group is None else group.sum)
    kind = LeadingRunner if group is not None and shard.rank == 0 else Runner
    return kind(decoder, pool, Rows(spec, where.torch), kernels, where, precision.compute)


@contextmanager
def closing_on_failure(runner: Runner) -> Iterator[None]:
    """What was opened is closed unless the stage comes to be."""
    try:
        yield
    except BaseException:
        runner.close()
        raise


def _warm_up(runner: Runner, model: ModelSpec, spec: StageSpec) -> None:
    """A step of rows that nobody owns: as many as there may be on a GPU, where the peak is measured, few elsewhere.

    Raises BackendError where what comes out is no number.
    """
    n = min(2, spec.n_rows, spec.n_ctx) if runner.device.is_cpu else min(spec.n_rows, spec.n_ctx)
    x = None if spec.embed else np.ones((n, model.d_model), np.float32)
    out = runner.run(nobodys_prompt(n, runner.rows.null_row, n_wanted(spec)), x)
    if not bool(torch.isfinite(out).all()):
        raise BackendError(f"what comes out of {model.name} is not a number")


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
