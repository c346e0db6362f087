"""Fingerprints: every field that changes an answer changes the key, nothing else does; no scope meets another."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from fake_serving import INFO
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthd import wire
from hearthd.api.body import decode
from hearthd.api.messages import template_messages
from hearthd.api.schema import ChatRequest
from hearthd.api.submission import Submissions
from hearthd.cache.control import Directives, directives_of
from hearthd.cache.fingerprint import Fingerprint, fingerprint, partition_of
from hearthd.config.schema import ModelConfig
from hearthd.serving.generation import GenerationRequest
from hearthd.serving.identity import ModelIdentity, identity_of
from hearthd.serving.principal import Principal

MODEL = identity_of("m", INFO, ModelConfig())
ADAPTED = msgspec.structs.replace(INFO, adapters={"x": "1" * 64})
FRAME = wire.Submit(rid=0, sampling=wire.Sampling(seed=7), text="Q", arrived_seconds=1.0)

CHANGES: dict[str, object] = {
    "text": "Q ",
    "tokens": [1],
    "messages": [{"role": "user", "content": "Q"}],
    "template_args": {"enable_thinking": False},
    "add_special": False,
    "max_tokens": 5,
    "min_tokens": 1,
    "stop": ["x"],
    "stop_token_ids": [3],
    "ignore_eos": True,
    "include_stop": True,
    "echo": True,
    "prompt_logprobs": 0,
    "adapter": "lora",
    "constraint": wire.RegexConstraint("a+"),
    "calls_tools": True,
}
WITHOUT_EFFECT: dict[str, object] = {
    "rid": 9,
    "priority": 1,
    "key": "ann",
    "weight": 2.0,
    "salt": "s",
    "deadline_seconds": 5.0,
    "arrived_seconds": 9.0,
    "emitted": [1],
}
SAMPLING: dict[str, object] = {
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "logit_bias": [(1, 1.0)],
    "seed": 8,
    "n_logprobs": 0,
}


def key_of(
    *frames: wire.Submit,
    model: ModelIdentity = MODEL,
    partition: str = "key:a",
    seeded: bool = True,
) -> Fingerprint:
    requests = [GenerationRequest(model.name, frame, "r") for frame in frames]
    return fingerprint(requests, model, partition, seeded=seeded)


def test_every_field_of_a_frame_is_spoken_of() -> None:
    fields = set(wire.Submit.__struct_fields__)
    assert fields == {*CHANGES, *WITHOUT_EFFECT, "sampling"}
    assert set(wire.Sampling.__struct_fields__) == set(SAMPLING)


@pytest.mark.parametrize("field", CHANGES)
def test_what_changes_the_answer_changes_the_key(field: str) -> None:
    changed = msgspec.structs.replace(FRAME, **{field: CHANGES[field]})
    assert key_of(changed).key != key_of(FRAME).key


@pytest.mark.parametrize("field", WITHOUT_EFFECT)
def test_who_asks_and_when_does_not(field: str) -> None:
    changed = msgspec.structs.replace(FRAME, **{field: WITHOUT_EFFECT[field]})
    assert key_of(changed) == key_of(FRAME)


@pytest.mark.parametrize("field", SAMPLING)
def test_how_it_is_sampled_changes_the_key(field: str) -> None:
    sampling = msgspec.structs.replace(FRAME.sampling, **{field: SAMPLING[field]})
    assert key_of(msgspec.structs.replace(FRAME, sampling=sampling)).key != key_of(FRAME).key


@pytest.mark.parametrize(
    "other",
    [
        identity_of("other", INFO, ModelConfig()),
        identity_of("m", msgspec.structs.replace(INFO, digest="0" * 64), ModelConfig()),
        identity_of("m", msgspec.structs.replace(INFO, backend="gguf"), ModelConfig()),
        identity_of("m", msgspec.structs.replace(INFO, context=64), ModelConfig()),
        identity_of("m", msgspec.structs.replace(INFO, stages=[]), ModelConfig()),
        identity_of("m", INFO, ModelConfig(kv_dtype="q8_0")),
        identity_of("m", INFO, ModelConfig(weights="int8")),
        identity_of("m", INFO, ModelConfig(options={"x": 1})),
        identity_of("m", ADAPTED, ModelConfig(), "x"),
    ],
)
def test_another_model_or_another_way_to_compute_it_changes_the_key(other: ModelIdentity) -> None:
    assert key_of(FRAME, model=other).key != key_of(FRAME).key


def test_an_adapter_counts_by_its_file_and_not_by_its_name() -> None:
    again = msgspec.structs.replace(INFO, adapters={"y": "1" * 64})
    other = msgspec.structs.replace(INFO, adapters={"x": "2" * 64})
    first = key_of(FRAME, model=identity_of("m", ADAPTED, ModelConfig(), "x"))
    assert key_of(FRAME, model=identity_of("m", again, ModelConfig(), "y")) == first
    assert key_of(FRAME, model=identity_of("m", other, ModelConfig(), "x")).key != first.key
    assert key_of(FRAME, model=identity_of("m", ADAPTED, ModelConfig())) == key_of(FRAME)


def test_the_number_and_the_order_of_choices_change_the_key() -> None:
    other = msgspec.structs.replace(FRAME, text="R")
    keys = {
        key_of(*frames).key
        for frames in ((FRAME,), (FRAME, FRAME), (FRAME, other), (other, FRAME), (other,))
    }
    assert len(keys) == 5


# --- whole requests, as clients write them -----------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
BODIES = st.fixed_dictionaries(
    {
        "model": st.just("m"),
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXTS}
            ),
            min_size=1,
            max_size=3,
        ),
        "temperature": st.just(0),
    },
    optional={
        "max_tokens": st.integers(1, 50),
        "top_p": st.floats(0.1, 1),
        "seed": st.integers(0, 9),
        "stop": st.lists(st.text("abc", min_size=1, max_size=3), max_size=2),
        "min_tokens": st.integers(0, 1),
        "presence_penalty": st.floats(-2, 2),
        "chat_template_kwargs": st.dictionaries(st.text("xyz", min_size=1), SCALARS, max_size=2),
        "user": TEXTS,
        "stream": st.booleans(),
    },
)


def key_of_body(body: dict[str, Any], partition: str = "key:a") -> bytes:
    asked = decode(json.dumps(body).encode(), msgspec.json.Decoder(ChatRequest))
    frames = Submissions(asked, max_tokens=asked.max_tokens, n_logprobs=None, arrived_seconds=0)
    frame = frames.frame(
        0,
        messages=template_messages(asked.messages),
        template_args=asked.chat_template_kwargs,
    )
    return key_of(frame, partition=partition, seeded=asked.seed is not None).key


@settings(deadline=None)  # of a machine that does other things too
@given(BODIES, st.randoms(use_true_random=False))
def test_neither_the_order_of_fields_nor_defaults_written_out_change_the_key(
    body: dict[str, Any], rng: random.Random
) -> None:
    defaults = {"n": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "ignore_eos": False}
    items = list({**defaults, **body, "metadata": {"x": "y"}, "logit_bias": None}.items())
    rng.shuffle(items)
    assert key_of_body(dict(items)) == key_of_body(body)


@settings(deadline=None)  # of a machine that does other things too
@given(BODIES, BODIES)
def test_other_requests_have_other_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    def meaning(body: dict[str, Any]) -> dict[str, Any]:
        """What of a greedy request may change its answer."""
        without = {k: v for k, v in body.items() if k not in ("user", "stream", "seed")}
        defaults = {"stop": [], "min_tokens": 0, "presence_penalty": 0.0, "top_p": 1.0}
        return {"chat_template_kwargs": {}, **defaults, **without}

    if json.dumps(meaning(one), sort_keys=True) != json.dumps(meaning(other), sort_keys=True):
        assert key_of_body(one) != key_of_body(other)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(NAMES, NAMES, NAMES)
def test_partitions_are_apart_whatever_keys_and_groups_are_called(
    one: str, other: str, group: str
) -> None:
    partitions = {
        partition_of(Principal(one)),
        partition_of(Principal(one), group=group),
        partition_of(Principal(one, salt=other), shared=True),
        partition_of(Principal(one), shared=True),
    }
    assert len(partitions) == 4
    if one != other:
        assert partition_of(Principal(other)) not in partitions


def test_ten_thousand_pairs_of_tenants_share_no_key() -> None:
    """The same questions from everybody: whoever asks, no key is anybody else's."""
    rng = random.Random(1)
    questions = [
        {"model": "m", "messages": [{"role": "user", "content": f"{i}"}]} for i in range(5)
    ]
    seen: dict[bytes, tuple[str, int]] = {}
    tenants = [f"tenant-{rng.getrandbits(40):x}" for _ in range(150)]
    for tenant in tenants:
        for i, question in enumerate(questions):
            body = {**question, "temperature": 0}
            key = key_of_body(body, partition_of(Principal(tenant)))
            assert seen.setdefault(key, (tenant, i)) == (tenant, i)
    assert len(seen) * (len(tenants) - 1) // 2 >= 10_000
    assert len(seen) == len(tenants) * len(questions)


@pytest.mark.parametrize(
    ("header", "directives"),
    [
        (None, Directives()),
        ("no-store", Directives(no_store=True)),
        ("No-Cache, max-age=10", Directives(no_cache=True, max_age_seconds=10)),
        ('max-age="60" , only-if-cached', Directives(only_if_cached=True, max_age_seconds=60)),
        ("max-age=-1, max-age=x, public, ,=", Directives()),
        ("max-age=99999999999999", Directives(max_age_seconds=2**31)),
        ("max-age=٣", Directives()),
    ],
)
def test_cache_control(header: str | None, directives: Directives) -> None:
    assert directives_of(header) == directives
