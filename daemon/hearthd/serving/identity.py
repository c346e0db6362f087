"""ModelIdentity: what answers under a name, as far as that decides what the answer is."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from hearthd import wire
from hearthd.config.schema import ModelConfig


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Two equal ones give equal answers to equal deterministic requests."""

    name: str  # of the deployment, whatever alias the client wrote
    info: wire.ModelInfo
    numerics: bytes  # all but the weights that the numbers depend on

    @property
    def digest(self) -> str:
        """Of the weights, with tokenizer and chat template."""
        return self.info.digest


def identity_of(
    name: str, info: wire.ModelInfo, config: ModelConfig, adapter: str | None = None
) -> ModelIdentity:
    """The identity of a loaded model, with one of its adapters or without. Pure."""
    numerics = (
        info.backend,
        info.stages,
        info.context,
        config.kv_dtype,
        config.weights,
        config.options,
        info.tool_format,
        None if adapter is None else info.adapters[adapter],  # the digest of its file
    )
    return ModelIdentity(name, info, msgspec.msgpack.encode(numerics))
