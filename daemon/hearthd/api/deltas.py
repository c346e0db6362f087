"""Deltas of one choice: joined to one, and read for the reason of their end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hearthd import wire


def merge(deltas: Sequence[wire.Delta]) -> wire.Delta:
    """All deltas of a choice as one; the end is that of the last."""
    if len(deltas) == 1:
        return deltas[0]
    last = deltas[-1] if deltas else wire.Delta(rid=0)
    logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
    return wire.Delta(
        rid=last.rid,
        text="".join([delta.text for delta in deltas]),
        tokens=[token for delta in deltas for token in delta.tokens],
        logprobs=logprobs or None,
        finish=last.finish,
        usage=last.usage,
        stopped_by=last.stopped_by,
    )


def stop_reason(delta: wire.Delta, stop_token_ids: Collection[int]) -> str | int | None:
    """vLLM's field: the stop string or token that the client named; None for the model's own end."""
    by = delta.stopped_by
    return by if isinstance(by, str) or by in stop_token_ids else None
