"""What a load gets to guess with: a gate where its stages take guesses, and a draft model where it has one."""

from __future__ import annotations

import msgspec

from hearth_backends.base import Capabilities, LoadedModel
from hearth_backends.errors import Unsupported
from hearth_backends.kv.contract import KVStore
from hearthd import wire
from hearthd.engine import policy
from hearthd.engine.drafting.gate import DraftGate
from hearthd.engine.drafting.model import DraftModel
from hearthd.engine.drafting.offer import ModelOffer
from hearthd.engine.drafting.vocabularies import difference
from hearthd.engine.pipeline import Pipeline
from hearthd.engine.sizing import Room


def draft_load(load: wire.Load, draft: wire.DraftConfig) -> wire.Load:
    """How a draft model is loaded: as it is configured, in the room of the model it guesses for."""
    return msgspec.structs.replace(
        load,
        name=draft.name,
        path=draft.path,
        backend=draft.backend,
        device=draft.device,
        stages=draft.stages,
        kv_dtype=draft.kv_dtype,
        weights=draft.weights,
        threads=draft.threads,
        options=draft.options,
        prefix_ram_bytes=0,
        prefix_disk_bytes=0,
        draft=None,
        lora=[],
    )


def draft_room(room: Room, model: LoadedModel) -> Room:
    """The room of a draft model beside that of the model it guesses for; its context may be shorter."""
    return Room(min(room.context, model.spec.context_trained), room.kv_tokens)


def check_vocabularies(model: LoadedModel, draft: LoadedModel, name: str) -> None:
    """Raise Unsupported where the two do not mean the same by their tokens."""
    differs = difference(model.tokenizer, draft.tokenizer)
    if differs is not None:
        raise Unsupported(
            f"draft = {name!r}: it has another vocabulary than {model.spec.name}: {differs}"
        )


def open_gate(
    caps: Capabilities,
    draft: DraftModel | None = None,
    name: str | None = None,
    *,
    lookup: bool = True,
) -> DraftGate | None:
    """What guesses for stages; None where they take no guesses, or go on without knowing their tokens.

    Raises Unsupported where there is a draft model and they take none.
    """
    refusal = policy.draft_refusal(caps)
    if draft is None:
        return None if refusal is not None or caps.async_depth else DraftGate(lookup=lookup)
    if refusal is None and draft.pipeline.caps.rollback != "any":
        refusal = "the draft model's own memory cannot step back by a token"
    if refusal is not None:
        raise Unsupported(f"draft = {name!r}: {refusal}")
    return DraftGate(ModelOffer(draft), lookup=lookup)


def open_model(
    pipeline: Pipeline, store: KVStore, room: Room, *, n_rows: int, models: tuple[LoadedModel, ...]
) -> DraftModel:
    """A draft model over loaded stages; `models`: the two whose tokens it may see."""
    return DraftModel(
        pipeline,
        store,
        context=room.context,
        n_rows=n_rows,
        n_vocab=min(model.tokenizer.n_vocab for model in models),
    )
