"""Tests of grammars: whatever a senseless model wants to say, what comes out is what was asked for."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from random_model import RandomModel
from schemas import SCHEMAS

from hearth_backends.base import Tokenizer
from hearth_backends.registry import open_model
from hearth_backends.sim.tokenizer import ByteTokenizer
from hearthd import wire
from hearthd.engine.grammar import Grammar, GrammarFactory, GrammarRefused

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K.gguf"
BYTES = ByteTokenizer(300, add_bos=False)
MAX_TOKENS = 3000


def vocabulary(name: str) -> Tokenizer:
    if name == "bytes":
        return BYTES
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    if not STORIES.exists():
        pytest.skip(f"{STORIES} is not there")
    return open_model(str(STORIES)).tokenizer


@pytest.fixture(scope="module", params=["bytes", "stories"])
def factory(request: pytest.FixtureRequest) -> tuple[GrammarFactory, Tokenizer]:
    tokenizer = vocabulary(request.param)
    return GrammarFactory(tokenizer), tokenizer


@pytest.fixture(scope="module")
def plain() -> GrammarFactory:
    return GrammarFactory(BYTES)


def follow(grammar: Grammar, text: str) -> bool:
    """Whether a grammar takes a whole text, and may end there."""
    return all(grammar.accept(byte) for byte in text.encode()) and grammar.is_complete


def allowed(grammar: Grammar) -> set[int]:
    row = np.zeros(-(-BYTES.n_vocab // 32), np.uint32)
    grammar.mask(row)
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def validate(text: str, schema: dict[str, Any] | bool) -> None:
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    validator.validate(json.loads(text))


def complete(
    factory: tuple[GrammarFactory, Tokenizer], schema: dict[str, Any], n: int
) -> list[str]:
    """n texts that came to their end; those that did not are as good as random text is."""
    compiler, tokenizer = factory
    texts: list[str] = []
    for seed in range(4 * n):
        model = RandomModel(tokenizer, seed, awkward=(0.0, 1.0, 2.5)[seed % 3])
        text, is_whole = model.complete(compiler.compile(wire.JsonConstraint(schema)), MAX_TOKENS)
        if is_whole:
            texts.append(text)
        if len(texts) == n:
            return texts
    raise AssertionError(f"only {len(texts)} of {4 * n} came to their end")


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_comes_out_is_valid(factory: tuple[GrammarFactory, Tokenizer], name: str) -> None:
    for text in complete(factory, SCHEMAS[name], 20):
        validate(text, SCHEMAS[name])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCHEMAS)
def test_two_hundred_of_each_are_valid(
    factory: tuple[GrammarFactory, Tokenizer], name: str
) -> None:
    for text in complete(factory, SCHEMAS[name], 200):
        validate(text, SCHEMAS[name])
