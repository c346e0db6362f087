"""Fingerprint: a request's canonical form as a hash; equal exactly where the answers must be equal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from hearthd import __version__, wire
from hearthd.serving.generation import GenerationRequest
from hearthd.serving.identity import ModelIdentity
from hearthd.serving.principal import Principal

KEY_BYTES: Final = 32
_FORMAT: Final = 1  # of what is hashed

_encoder = msgspec.msgpack.Encoder()


class Scope(msgspec.Struct, frozen=True):
    """Whose answers, of which model: nothing is ever found across scopes."""

    partition: str
    model: str  # name of the deployment
    digest: str


class Fingerprint(msgspec.Struct, frozen=True):
    """The key of an answer, and the scope that is part of it."""

    key: bytes
    scope: Scope

    @property
    def name(self) -> str:
        """For people: the beginning of the key."""
        return self.key.hex()[:16]


def partition_of(principal: Principal, *, group: str = "", shared: bool = False) -> str:
    """Among whom answers are shared: one key by default, wider only as the configuration says. Pure.

    A key with a salt of its own is never among those who share everything.
    """
    if group:
        return f"group:{group}"
    if shared:
        return f"shared:{principal.salt}"
    return f"key:{principal.name}"


def is_deterministic(requests: Sequence[GenerationRequest], *, seeded: bool) -> bool:
    """Whether the same requests give the same answers: greedy, or with a seed of the client's. Pure."""
    return seeded or all(request.submit.sampling.temperature == 0 for request in requests)


def fingerprint(
    requests: Sequence[GenerationRequest],
    identity: ModelIdentity,
    partition: str,
    *,
    seeded: bool,
) -> Fingerprint:
    """The fingerprint of all choices of one request. Pure.

    Every field of the frames counts but those named in `_canonical`. The order of keys inside schemas,
    tools and template arguments counts too: it shows in what models are told and in what they write.
    """
    scope = Scope(partition, identity.name, identity.digest)
    frames = [_canonical(request.submit, seeded=seeded) for request in requests]
    hashed = hashlib.blake2b(digest_size=KEY_BYTES)
    hashed.update(_encoder.encode((_FORMAT, __version__, scope, identity.numerics, frames)))
    return Fingerprint(hashed.digest(), scope)


def _canonical(submit: wire.Submit, *, seeded: bool) -> wire.Submit:
    """A frame without what says who asks, when, and how urgently; and without a seed that has no effect."""
    sampling = submit.sampling
    if sampling.seed and (sampling.temperature == 0 or not seeded):
        sampling = msgspec.structs.replace(sampling, seed=0)
    return msgspec.structs.replace(
        submit,
        rid=0,
        sampling=sampling,
        emitted=[],
        priority=0,
        key="",
        weight=1.0,
        salt="",
        deadline_seconds=None,
        arrived_seconds=0.0,
    )


class Question(msgspec.Struct, frozen=True):
    """What a chat asks, and a hash of all else that its answer depends on."""

    text: str
    context: bytes


def question_in(
    requests: Sequence[GenerationRequest],
    identity: ModelIdentity,
    partition: str,
    *,
    seeded: bool,
    embedder_digest: str,
) -> Question | None:
    """The question of a chat of one turn; None for anything else: what was said before would matter. Pure."""
    messages = requests[0].submit.messages
    if len(requests) != 1 or not messages:
        return None
    *before, last = messages
    text = last.get("content")
    if last.get("role") != "user" or not isinstance(text, str) or not text.strip():
        return None
    if len(before) > 1 or any(message.get("role") != "system" for message in before):
        return None
    blank = msgspec.structs.replace(requests[0].submit, messages=[*before, {**last, "content": ""}])
    asked = [replace(requests[0], submit=blank)]
    rest = fingerprint(asked, identity, partition, seeded=seeded)
    hashed = hashlib.blake2b(rest.key + embedder_digest.encode(), digest_size=KEY_BYTES)
    return Question(text, hashed.digest())
