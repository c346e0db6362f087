"""Tests of grammars: whatever a senseless model wants to say, what comes out is what was asked for."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import jsonschema
import numpy as np
import pytest
from jsonschema_specifications import REGISTRY
from random_model import RandomModel
from schemas import SCHEMAS
from shared_models import shared_model

from hearth_backends.base import Tokenizer
from hearth_backends.registry import open_model
from hearth_backends.sim.tokenizer import ByteTokenizer
from hearthd import wire
from hearthd.engine.grammar import Grammar, GrammarFactory, GrammarRefused

BYTES = ByteTokenizer(300, add_bos=False)
MAX_TOKENS = 3000


def vocabulary(name: str) -> Tokenizer:
    if name == "bytes":
        return BYTES
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    return open_model(str(shared_model("stories260K.gguf"))).tokenizer


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


# --- the keywords of draft 2020-12 -----------------------------------------------------------------

ANNOTATIONS = [
    "$comment", "$vocabulary", "contentEncoding", "contentMediaType", "contentSchema", "default",
    "deprecated", "description", "examples", "readOnly", "title", "writeOnly",
]  # fmt: skip
"""Keywords that validate nothing."""

HONOURED: dict[str, dict[str, Any]] = {
    "$anchor": {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "boolean"}}},
    "$defs": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
    "$id": {"$id": "https://example.com/s", "$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
    "$schema": {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "integer"},
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "integer"}},
    "allOf": {"allOf": [{"type": "integer"}, {"minimum": 3}]},
    "anyOf": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "const": {"const": ["a", 1]},
    "enum": {"enum": ["a", 1]},
    "exclusiveMaximum": {"type": "number", "exclusiveMaximum": 1.5},
    "exclusiveMinimum": {"type": "number", "exclusiveMinimum": 1.5},
    "format": {"type": "string", "format": "time"},
    "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 9},
    "maxItems": {"type": "array", "maxItems": 1},
    "maxLength": {"type": "string", "maxLength": 2},
    "maxProperties": {"type": "object", "maxProperties": 1},
    "maximum": {"type": "integer", "maximum": 7},
    "minItems": {"type": "array", "minItems": 2, "maxItems": 4, "items": {"type": "null"}},
    "minLength": {"type": "string", "minLength": 7, "maxLength": 40},
    "minProperties": {"type": "object", "minProperties": 1},
    "minimum": {"type": "integer", "minimum": 7},
    "multipleOf": {"type": "integer", "multipleOf": 7},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "boolean"}]},
    "pattern": {"type": "string", "pattern": "^[a-c]+$", "maxLength": 30},
    "patternProperties": {"type": "object", "patternProperties": {"^.": {"type": "integer"}}},
    "prefixItems": {"type": "array", "prefixItems": [{"type": "null"}], "maxItems": 2},
    "properties": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "required": {"type": "object", "required": ["a"]},
    "type": {"type": ["boolean", "null"]},
}  # fmt: skip

REFUSED: dict[str, dict[str, Any]] = {
    "$dynamicAnchor": {"$dynamicAnchor": "a", "$dynamicRef": "#a"},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "contains": {"contains": {"type": "integer"}},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"dependentSchemas": {"a": {"required": ["b"]}}},
    "else": {"if": {"type": "integer"}, "else": {"type": "null"}},
    "if": {"if": {"type": "integer"}, "then": {"minimum": 3}},
    "maxContains": {"contains": True, "maxContains": 2},
    "minContains": {"contains": True, "minContains": 2},
    "not": {"not": {"type": "integer"}},
    "propertyNames": {"propertyNames": {"maxLength": 3}},
    "then": {"if": {"type": "integer"}, "then": {"type": "null"}},
    "unevaluatedItems": {"unevaluatedItems": False},
    "unevaluatedProperties": {"unevaluatedProperties": False},
    "uniqueItems": {"uniqueItems": True},
}

ASKING_NOTHING: list[dict[str, Any]] = [
    {"type": "array", "uniqueItems": False, "maxItems": 2},
    {"type": "integer", "not": False},
    {"type": "integer", "if": {"minimum": 3}},
    {"type": "integer", "then": {"minimum": 3}},
    {"type": "object", "propertyNames": {"type": "string"}, "maxProperties": 2},
    {"type": "object", "dependentRequired": {}, "unevaluatedProperties": True, "maxProperties": 2},
    {"type": "array", "minContains": 3, "unevaluatedItems": {}, "maxItems": 2},
    {"type": "integer", "$dynamicAnchor": "a"},
    {"type": "integer", "format": "int32"},
    {"type": "integer", "$defs": {"unused": {"not": {}}}},
]


def test_every_keyword_of_the_draft_is_one_or_the_other() -> None:
    vocabularies = ("core", "applicator", "unevaluated", "validation", "meta-data", "content")
    keywords = {"format"}
    for name in vocabularies:
        contents = REGISTRY.contents(f"https://json-schema.org/draft/2020-12/meta/{name}")
        keywords |= set(contents["properties"])
    assert keywords == set(HONOURED) | set(REFUSED) | set(ANNOTATIONS)


@pytest.mark.parametrize("keyword", HONOURED)
def test_a_keyword_is_honoured(factory: tuple[GrammarFactory, Tokenizer], keyword: str) -> None:
    schema = HONOURED[keyword]
    texts = complete(factory, schema, 12)
    for text in texts:
        validate(text, schema)
    assert keyword in json.dumps(schema)


@pytest.mark.parametrize("keyword", REFUSED)
def test_a_keyword_is_refused_by_name_and_place(plain: GrammarFactory, keyword: str) -> None:
    for schema, path in [
        (REFUSED[keyword], ""),
        (
            {"type": "object", "properties": {"x": {"items": REFUSED[keyword]}}},
            "properties.x.items.",
        ),
        ({"$ref": "#/$defs/d", "$defs": {"d": {"anyOf": [REFUSED[keyword]]}}}, "$defs.d.anyOf[0]."),
    ]:
        with pytest.raises(GrammarRefused) as caught:
            plain.compile(wire.JsonConstraint(schema, param="field"))
        assert caught.value.code == "unsupported"
        named = caught.value.param.removeprefix(f"field.{path}")
        assert named in REFUSED[keyword]
        assert repr(named) in caught.value.message
        assert caught.value.param in caught.value.message


@pytest.mark.parametrize("schema", ASKING_NOTHING, ids=repr)
def test_a_keyword_that_asks_nothing_is_no_obstacle(
    factory: tuple[GrammarFactory, Tokenizer], schema: dict[str, Any]
) -> None:
    for text in complete(factory, schema, 5):
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "path", "words"),
    [
        ({"type": "text"}, "type", "integer"),
        ({"type": "integer", "minimum": "3"}, "minimum", "a number"),
        ({"minimum": True}, "minimum", "a number"),
        ({"multipleOf": 0}, "multipleOf", "over 0"),
        ({"maxLength": -1}, "maxLength", "whole number"),
        ({"minItems": 1.5}, "minItems", "whole number"),
        ({"enum": []}, "enum", "not empty"),
        ({"items": [{"type": "null"}]}, "items", "prefixItems"),
        ({"required": "a"}, "required", "strings"),
        ({"properties": {"a": 3}}, "properties.a", "an object or a boolean"),
        ({"properties": {"a": {"allOf": [{"pattern": "(?=a)"}]}}}, "properties.a.allOf[0]", "look"),
        ({"items": {"pattern": "["}}, "items", "unclosed"),
        ({"format": "regex"}, "format", "'regex' is not supported; these are: date, "),
        ({"$ref": "https://example.com/s"}, "$ref", "inside the schema"),
        ({"$ref": "#/$defs/x"}, "", "does not exist"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "$schema", "2020-12"),
        ({"minProperties": 2}, "minProperties", "required"),
        ({"properties": {"a": {"enum": ["\x01"]}}}, "properties.a.enum", "control characters"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "", "anyOf"),
        ({"items": {"oneOf": [{"minimum": 3}, {"maximum": 5}]}}, "items", "anyOf"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not", "not supported"),
        ({"x-guidance": {"lenient": True}}, "x-guidance", "not supported"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "", "Unsatisfiable"),
        (False, "", "nothing is valid"),
        ({"$ref": "#"}, "", "no output at all"),
    ],
    ids=repr,
)
def test_a_schema_that_is_wrong_is_refused_with_its_place(
    plain: GrammarFactory, schema: Any, path: str, words: str
) -> None:
    with pytest.raises(GrammarRefused, match=re.escape(words)) as caught:
        plain.compile(wire.JsonConstraint(schema, param="field"))
    assert caught.value.param == (f"field.{path}" if path else "field")


def test_a_schema_may_not_be_endless() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(200):
        schema = {"properties": {"a": schema}}
    with pytest.raises(GrammarRefused, match="deep"):
        GrammarFactory(BYTES).compile(wire.JsonConstraint(schema))


def test_numbers_by_step_are_exact(plain: GrammarFactory) -> None:
    schema = {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 3}
    for text in complete((plain, BYTES), schema, 20):
        assert not Decimal(text) % Decimal("0.01")


def test_a_key_has_one_spelling(plain: GrammarFactory) -> None:
    schema = {
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": {"type": "string"},
        "type": "object",
    }
    assert not follow(plain.compile(wire.JsonConstraint(schema)), '{"\\u0061":"x"}')
    assert follow(plain.compile(wire.JsonConstraint(schema)), '{"a": 1, "b": "x"}')


def test_whitespace_comes_to_an_end(plain: GrammarFactory) -> None:
    constraint = wire.JsonConstraint({"type": "array"})
    assert follow(plain.compile(constraint), "[\n" + 40 * " " + "]")
    assert not follow(plain.compile(constraint), "[" + 60 * " " + "]")


def test_true_takes_any_json(plain: GrammarFactory) -> None:
    for text in ("1", '"a"', "null", '{"a": [true, -1.5e3]}'):
        assert follow(plain.compile(wire.JsonConstraint(True)), text)


# --- other constraints ------------------------------------------------------------------------------


def test_a_regular_expression_matches_the_whole(factory: tuple[GrammarFactory, Tokenizer]) -> None:
    pattern = r"(yes|no)/[0-9]{2,4}(\.[a-f]+)?"
    compiler, tokenizer = factory
    for seed in range(20):
        grammar = compiler.compile(wire.RegexConstraint(pattern))
        text, is_whole = RandomModel(tokenizer, seed).complete(grammar, 500)
        assert is_whole
        assert re.fullmatch(pattern, text)


def test_a_regular_expression_may_say_that_it_is_whole(plain: GrammarFactory) -> None:
    for pattern in ("^ab?$", "ab?", "^ab?"):
        assert follow(plain.compile(wire.RegexConstraint(pattern)), "ab")
        assert not follow(plain.compile(wire.RegexConstraint(pattern)), "abc")


def test_a_choice_is_one_of_the_strings(factory: tuple[GrammarFactory, Tokenizer]) -> None:
    choices = ["a", "ab", 'c"d', "e\\f", "g\nh", "ü😀", "i/j", "<|im_end|>"]
    compiler, tokenizer = factory
    said = set()
    for seed in range(60):
        grammar = compiler.compile(wire.ChoiceConstraint(choices))
        text, is_whole = RandomModel(tokenizer, seed).complete(grammar, 100)
        assert is_whole
        assert text in choices
        said.add(text)
    assert len(said) > 3


def test_a_grammar_in_either_notation(plain: GrammarFactory) -> None:
    lark = 'start: sum\nsum: NUMBER (" + " NUMBER)*\nNUMBER: /[0-9]+/'
    gbnf = 'root ::= [0-9]+ (" + " [0-9]+)*'
    for text in (lark, gbnf):
        assert follow(plain.compile(wire.GrammarConstraint(text)), "1 + 22 + 3")
        assert not follow(plain.compile(wire.GrammarConstraint(text)), "1 + ")


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (wire.RegexConstraint("a(?=b)"), "look-around"),
        (wire.RegexConstraint("("), "unclosed"),
        (wire.GrammarConstraint("start: rule"), 'unknown name: "rule"'),
        (wire.GrammarConstraint("x: y"), "no start rule"),
        (wire.GrammarConstraint("start: <|nonsense|>"), "unknown special token"),
        (wire.GrammarConstraint('start: start "a"'), "no output at all"),
        (wire.GrammarConstraint('start: %json {"not": {}}'), "not"),
        (wire.GrammarConstraint("root ::= ("), "GBNF"),
        (wire.GrammarConstraint("root ::= rule"), "GBNF"),
    ],
    ids=repr,
)
def test_a_grammar_that_does_not_compile_is_refused(
    plain: GrammarFactory, constraint: wire.Constraint, words: str
) -> None:
    with pytest.raises(GrammarRefused, match=re.escape(words)) as caught:
        plain.compile(constraint)
    assert caught.value.code == "invalid_value"
    assert caught.value.param == constraint.param
    assert "<state>" not in caught.value.message


# --- a grammar's life -------------------------------------------------------------------------------


def test_end_tokens_come_only_where_the_output_may_end(plain: GrammarFactory) -> None:
    grammar = plain.compile(wire.RegexConstraint("ab*c?"))
    assert allowed(grammar) == {ord("a")}
    assert not grammar.is_complete
    assert grammar.accept(ord("a"))
    assert allowed(grammar) == {ord("b"), ord("c"), *BYTES.end_ids}
    assert (grammar.is_complete, grammar.is_over) == (True, False)
    assert grammar.accept(ord("c"))
    assert allowed(grammar) == set(BYTES.end_ids)
    assert (grammar.is_complete, grammar.is_over) == (True, True)


def test_rollback_and_fork(plain: GrammarFactory) -> None:
    grammar = plain.compile(wire.ChoiceConstraint(["abc", "axy"]))
    assert grammar.accept(ord("a"))
    fork = grammar.fork()
    assert grammar.accept(ord("b"))
    assert allowed(grammar) == {ord("c")}
    assert allowed(fork) == {ord("b"), ord("x")}
    grammar.rollback(1)
    assert allowed(grammar) == {ord("b"), ord("x")}
    assert grammar.n_fitting(b"xyz") == 2
    assert allowed(grammar) == {ord("b"), ord("x")}


def test_the_masks_of_a_draft_assume_what_stands_before(plain: GrammarFactory) -> None:
    grammar = plain.compile(wire.RegexConstraint("[ab]1[cd]2"))
    rows = np.zeros((3, -(-BYTES.n_vocab // 32)), np.uint32)
    grammar.masks(rows, list(b"a1"))
    sets = [
        set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())
        for row in rows
    ]
    assert sets == [{*b"ab"}, {*b"1"}, {*b"cd"}]
    assert allowed(grammar) == {*b"ab"}


def test_a_broken_grammar_allows_nothing(plain: GrammarFactory) -> None:
    grammar = plain.compile(wire.ChoiceConstraint(["abc"]))
    assert not grammar.accept(ord("x"))
    assert grammar.error
    assert allowed(grammar) == set()
    assert (grammar.is_complete, grammar.is_over) == (False, False)


def test_a_compiled_grammar_is_used_again_from_its_beginning(plain: GrammarFactory) -> None:
    constraint = wire.ChoiceConstraint(["once", "twice"])
    first = plain.compile(constraint)
    assert follow(first, "once")
    assert follow(plain.compile(wire.ChoiceConstraint(["once", "twice"])), "twice")


def test_control_tokens_are_no_text(plain: GrammarFactory) -> None:
    grammar = plain.compile(wire.RegexConstraint(r"(?s:.*)"))
    assert not allowed(grammar) & set(range(256, 300)) - BYTES.end_ids


def test_a_vocabulary_without_an_end_is_refused() -> None:
    endless = ByteTokenizer(300, add_bos=False)
    endless.end_ids = frozenset()
    with pytest.raises(GrammarRefused, match="no token that ends"):
        GrammarFactory(endless).compile(wire.JsonConstraint(True))


# --- patterns -------------------------------------------------------------------------------------

PATTERNS = [
    '^[^"]a$', r"^[^\\]a$", r'^[^"\\]+$', r"^[^\n]a$", r'^[^\n"]a$', "^[^a-z]a$", r"^[\n-z]a$",
    r"^[\t ]a$", "^[^/]a$", r"^[\w\s]a$", r"^\Sa$", r"^\Da$", r"^[^\s]a$", "^[ -~]a$",
    r'^[^\x00-\x1f"]a$', r'^["\\]a$', r'^(\n|")a$', '^(?:[^"]|b)a$', "^[^,]+a$", "^.a$", r"^\.a$",
    r'^[^\]"]a$', r"^[]a]a$", r"^[^]]a$", "b", "^a|b$", r"^\x41?a$", r"^\x4ab?a$", r"^[\x20-\x7e]a$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_lets_nothing_else_through(plain: GrammarFactory, pattern: str) -> None:
    constraint = wire.JsonConstraint({"type": "string", "pattern": pattern})
    letters = [chr(code) for code in range(0x180)] + ["中", "😀", "\u2028"]
    taken = 0
    for letter in letters:
        for text in {json.dumps(letter + "a", ensure_ascii=False), json.dumps(letter + "a")}:
            if follow(plain.compile(constraint), text):
                assert re.search(pattern, letter + "a"), repr(letter)
                taken += 1
    assert taken


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_of_a_pattern_match_it(
    factory: tuple[GrammarFactory, Tokenizer], pattern: str
) -> None:
    schema = {"type": "string", "pattern": pattern, "maxLength": 20}
    for text in complete(factory, schema, 6):
        assert re.search(pattern, json.loads(text))


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": r"^a\x01$"},
        {"pattern": "^a\x01$"},
        {"pattern": r"^\u0001$"},
        {"pattern": r"^\x{1}$"},
        {"pattern": r"^\v$"},
        {"pattern": r"^[\x00-\x07]$"},
        {"pattern": r"^\p{Cc}$"},
        {"pattern": r"^[\p{Cc}]$"},
        {"pattern": "^[a[b]]$"},
        {"pattern": "^[a-z&&[^b]]$"},
        {"patternProperties": {'^[^"]$': True}},
    ],
    ids=repr,
)
def test_a_pattern_that_cannot_be_right_is_refused(
    plain: GrammarFactory, schema: dict[str, Any]
) -> None:
    with pytest.raises(GrammarRefused, match="not served"):
        plain.compile(wire.JsonConstraint(schema))
