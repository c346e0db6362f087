"""StepRows: a batch's rows by group, and the checks that a batch is what the contract promises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import Batch, Capabilities, StageSpec
from hearth_backends.errors import BackendError
from hearth_backends.kv.contract import Placement

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """One sequence's rows in a batch: positions [start, end) at rows [first, first + end - start)."""

    placement: Placement
    first: int
    start: int
    end: int

    @property
    def n_rows(self) -> int:
        return self.end - self.start


def groups_of(batch: Batch, spec: StageSpec, caps: Capabilities) -> list[Group]:
    """The groups of a batch; raises BackendError for a batch that the stage must not be given."""
    n = len(batch.tokens)
    if not n or n > spec.n_rows:
        raise BackendError(f"a batch of {n} rows in a stage of 1 to {spec.n_rows}")
    bounds = np.flatnonzero(np.r_[True, batch.seq[1:] != batch.seq[:-1], True]).tolist()
    if len(bounds) - 1 != len(batch.placements):
        raise BackendError(
            f"{len(batch.placements)} placements for {len(bounds) - 1} groups of rows"
        )
    groups: list[Group] = []
    for placement, first, end in zip(batch.placements, bounds[:-1], bounds[1:], strict=True):
        start = int(batch.pos[first])
        group = Group(placement, first, start, start + end - first)
        if batch.seq[first] != placement.row or not 0 <= placement.row < spec.n_seq:
            raise BackendError(f"rows of sequence {batch.seq[first]} with placement {placement}")
        if (batch.pos[first:end] != np.arange(start, group.end)).any() or group.end > spec.n_ctx:
            raise BackendError(f"positions {batch.pos[first:end]} in a context of {spec.n_ctx}")
        groups.append(group)
    if len({group.placement.row for group in groups}) < len(groups):
        raise BackendError("one sequence has two groups of rows")
    _check_caps(groups, int(batch.want.sum()), caps)
    return groups


def _check_caps(groups: list[Group], n_wanted: int, caps: Capabilities) -> None:
    """Hold the scheduler to the packing that the stage asked for."""
    counts = [group.n_rows for group in groups]
    n_prompts = sum(count > 1 for count in counts)
    if not caps.mixed and 0 < n_prompts < len(counts):
        raise BackendError("prompts and decoding in one batch of an unmixed stage")
    if not caps.ragged and len(set(counts)) > 1:
        raise BackendError("groups of different length in one batch of a stage that is not ragged")
    if caps.max_prefill_seqs is not None and n_prompts > caps.max_prefill_seqs:
        raise BackendError(f"{n_prompts} prompts in a stage that takes {caps.max_prefill_seqs}")
    if caps.max_wants is not None and n_wanted > caps.max_wants:
        raise BackendError(f"{n_wanted} wanted rows in a stage that takes {caps.max_wants}")
