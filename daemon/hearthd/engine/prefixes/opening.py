"""What a load gets of the tiers for prefixes: how much memory, which folder, whose files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from hearth_backends.base import Stage
from hearth_backends.errors import Unsupported
from hearth_backends.kv.contract import BLOCK_TOKENS, KVStore
from hearthd import wire
from hearthd.engine.pipeline import Pipeline
from hearthd.engine.prefixes.disk import PrefixDisk
from hearthd.engine.prefixes.tiers import PrefixTiers

log = logging.getLogger(__name__)

MOST_RAM_BYTES = 256 << 20
"""Of host memory that copies take unasked."""
RAM_SHARE = 0.5
"""Of key-value memory, the share that copies take unasked."""


def ram_bytes(asked: int | None, *, kv_bytes: int, spare_bytes: int | None) -> int:
    """Bytes for copies: what was asked for, or a share of key-value memory where the budget has it."""
    if asked is not None:
        return asked
    most = min(MOST_RAM_BYTES, int(RAM_SHARE * kv_bytes))
    return most if spare_bytes is None else max(0, min(most, spare_bytes))


def open_tiers(
    load: wire.Load,
    store: KVStore,
    pipeline: Pipeline,
    *,
    digest: str,
    context: int,
    ram_bytes: int,
) -> PrefixTiers | None:
    """The tiers of a loaded model; None where it has none, and why is in the log."""
    wants_disk = load.prefix_disk_bytes > 0 and load.prefix_folder is not None
    if not ram_bytes and not wants_disk:
        return None
    why_not = refusal(pipeline)
    if why_not is not None:
        log.info("prefixes are kept in key-value memory only: %s", why_not)
        return None
    disk = None
    if load.prefix_folder is not None and wants_disk:
        fingerprint = _fingerprint(pipeline.stages, digest, context)
        disk = _open_disk(Path(load.prefix_folder), fingerprint, load.prefix_disk_bytes)
    return PrefixTiers(store, pipeline.export, ram_bytes=ram_bytes, disk=disk)


def refusal(pipeline: Pipeline) -> str | None:
    """Why these stages have no tiers, in words."""
    if not pipeline.caps.shares_prefix:
        return "sequences of this model share no prefixes"
    if pipeline.caps.rollback == "checkpoint":
        return "this model carries a state, which is exported only where a sequence stands"
    try:
        _kinds(pipeline.stages)
    except Unsupported as unsupported:
        return str(unsupported)
    return None


def _kinds(stages: Sequence[Stage]) -> list[str]:
    return [stage.state_kind() for stage in stages]


def _fingerprint(stages: Sequence[Stage], digest: str, context: int) -> str:
    """Of all that the numbers in key-value memory depend on.

    The context is among it, for it may choose the factors of rotary positions.
    """
    parts = [digest, str(BLOCK_TOKENS), str(context), *_kinds(stages)]
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _open_disk(folder: Path, fingerprint: str, budget_bytes: int) -> PrefixDisk | None:
    try:
        return PrefixDisk(folder, fingerprint, budget_bytes)
    except OSError as error:
        log.warning("prefixes are not kept on disk: %s", error)
        return None
