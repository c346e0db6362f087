"""CudaBackend: decoders over paged key-value memory, on GPUs and, as its own reference, on the processor."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from hearth_backends.base import (
    Backend,
    Bytes,
    DeviceInfo,
    Lease,
    Progress,
    Stage,
    StageSpec,
    Support,
)
from hearth_backends.errors import Unsupported
from hearth_backends.kv.blocks import PagedStore
from hearth_backends.kv.contract import BLOCK_TOKENS, KVStore
from hearth_backends.processor import processor
from hearth_backends.weights.recipe import recipe_support
from hearth_backends.weights.spec import ModelSpec

NAME = "cuda"
TORCH_VERSION = metadata.version("torch")
"""Read from its files: importing torch takes seconds, and naming devices of a CPU build needs none of it."""


class CudaBackend(Backend):
    """torch; blocks of key-value memory that sequences share."""

    name = NAME

    def devices(self) -> list[DeviceInfo]:
        """The processor, and the accelerators that the installed build of torch finds."""
        if not TORCH_VERSION.endswith("+cpu"):
            from hearth_backends.cuda.device import accelerator_infos

            return [processor(), *accelerator_infos()]
        return [processor()]

    def version(self) -> str:
        """Of torch."""
        return f"torch {TORCH_VERSION}"

    def weight_kinds(self) -> tuple[str, ...]:
        """Those of `precision`."""
        from hearth_backends.cuda.precision import WEIGHT_KINDS

        return WEIGHT_KINDS

    def supports(self, model: ModelSpec, device: DeviceInfo) -> Support:
        """Whether the decoder here is the model's."""
        return recipe_support(model)

    def estimate(self, model: ModelSpec, spec: StageSpec, device: DeviceInfo) -> Bytes:
        """Weights and key-value memory nearly to the byte, workspace about."""
        return self.estimate_share(model, spec, (device,))

    def group_support(self, model: ModelSpec, devices: Sequence[DeviceInfo]) -> Support:
        """Whether they are equal, and the model can be cut into so many shares."""
        from hearth_backends.cuda.shard import group_support

        return group_support(model, devices)

    def estimate_share(
        self, model: ModelSpec, spec: StageSpec, devices: Sequence[DeviceInfo]
    ) -> Bytes:
        """As `estimate`; of a group what its first device takes, which has the head."""
        from hearth_backends.cuda.memory import estimate_bytes
        from hearth_backends.cuda.opening import precision_on

        first = devices[0]
        precision = precision_on(spec, first.name)
        is_cpu = first.kind == "cpu"
        return estimate_bytes(model, spec, precision, is_cpu=is_cpu, n_devices=len(devices))

    def store(self, model: ModelSpec, spec: StageSpec) -> KVStore:
        """Blocks."""
        return PagedStore(spec.n_seq, -(-spec.kv_tokens // BLOCK_TOKENS) + 1, spec.n_ctx)

    def load(
        self,
        model: ModelSpec,
        spec: StageSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Stage:
        """Put the weights on the device, make the pool, and compute one step."""
        support = recipe_support(model)
        if not support.ok:
            raise Unsupported(f"backend {NAME}: {support.reason}")
        if not 0 <= spec.first < spec.last <= model.n_layers:
            raise Unsupported(f"layers {spec.first} to {spec.last} of {model.n_layers}")
        from hearth_backends.cuda.opening import open_stage

        return open_stage(model, spec, devices, leases, progress)
