"""Guards: near misses that no similarity may overrule, and paraphrases that they let pass."""

from __future__ import annotations

from array import array
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthd.cache.audit import Judged, Pair, bounds, report
from hearthd.cache.guards import differs
from hearthd.cache.vectors import cosine, nearest_signs, signs, unit

NEAR_MISSES = [
    ("What is 15 % of 80?", "What is 16 % of 80?", "number"),
    ("How far is 5 km?", "How far is 5 mi?", "number"),
    ("List three causes of the war", "List four causes of the war", "number"),
    ("Explain section 3.1", "Explain section 3.2", "number"),
    ("Is it safe to mix these?", "Is it not safe to mix these?", "negation"),
    ("Which birds can fly?", "Which birds can't fly?", "negation"),
    ("Recipes with eggs", "Recipes without eggs", "negation"),
    ("What is the capital of France?", "What is the capital of Spain?", "name"),
    ("Who wrote Emma?", "Who wrote Ivanhoe?", "name"),
    ("How far is Paris from London?", "How far is London from Paris?", "name"),
    ("Paris is in which country?", "Rome is in which country?", "name"),
    ("convert dollars to euros", "convert euros to dollars", "order"),
    ("What is the largest planet?", "What is the smallest planet?", "opposite"),
    ("How do I enable logging?", "How do I disable logging?", "opposite"),
    ("turn the light on", "turn the light off", "opposite"),
    ("What does 'affect' mean?", "What does 'effect' mean?", "quote"),
    ('Translate "good day"', 'Translate "good night"', "quote"),
    ("What does os.path.join do?", "What does os.path.split do?", "code"),
    ("Who founded the city?", "When was the city founded?", "asked"),
    ("Where was it found?", "Tell me who found it", "asked"),
    ("explain foo(x)", "explain bar(x)", "code"),
    ("What is in /etc/passwd?", "What is in /etc/shadow?", "code"),
    ("Don\u2019t translate this", "Do translate this", "negation"),
]
PARAPHRASES = [
    ("What is the capital of France?", "Tell me the capital of France"),
    ("How do I boil an egg?", "how should I boil an egg"),
    ("What is 15% of 80?", "Calculate 15 % of 80"),
    ("Why is the sky blue?", "Explain why the sky is blue"),
    ("Which birds can't fly?", "Name birds that cannot fly"),
    ("Who wrote 'Emma'?", "Please tell me who wrote 'Emma'"),
    ("Recipes without eggs", "Give me recipes without eggs"),
    ("I need a poem about rain", "Write a poem about rain"),
    ("When did it end?", "In which year did it end?"),
    ("May rabbits eat carrots?", "Can rabbits eat carrots?"),
]


@pytest.mark.parametrize(("one", "other", "reason"), NEAR_MISSES)
def test_near_misses_are_told_apart(one: str, other: str, reason: str) -> None:
    assert differs(one, other) == reason
    assert differs(other, one) == reason


@pytest.mark.parametrize(("one", "other"), PARAPHRASES)
def test_paraphrases_pass(one: str, other: str) -> None:
    assert differs(one, other) is None


def test_the_labelled_pairs_and_what_guards_make_of_them() -> None:
    lines = (Path(__file__).parents[2] / "bench" / "paraphrases.jsonl").read_bytes().splitlines()
    pairs = [msgspec.json.decode(line, type=Pair) for line in lines]
    same = [pair for pair in pairs if pair.same]
    others = [pair for pair in pairs if not pair.same]
    assert len(pairs) >= 400
    assert min(len(same), len(others)) >= 250
    assert sum(differs(pair.a, pair.b) is not None for pair in same) <= len(same) * 0.02
    assert sum(differs(pair.a, pair.b) is not None for pair in others) >= len(others) * 0.25


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(TEXTS, TEXTS)
def test_guards_are_symmetric_and_find_nothing_in_equal_texts(one: str, other: str) -> None:
    assert differs(one, other) == differs(other, one)
    assert differs(one, one) is None


@given(st.text("abc ", max_size=20), st.integers(0, 10**6), st.integers(0, 10**6))
def test_other_numbers_never_pass(text: str, one: int, other: int) -> None:
    reason = differs(f"{text} {one}", f"{text} {other}")
    assert (reason is None) == (one == other)


VECTORS = st.lists(st.floats(-1, 1, width=32), min_size=8, max_size=8).filter(
    lambda values: sum(v * v for v in values) > 1e-3
)


@given(VECTORS)
def test_a_vector_is_nearest_to_itself(values: list[float]) -> None:
    vector = unit(array("f", values).tobytes())
    assert cosine(vector, vector) == pytest.approx(1, abs=1e-5)
    opposite = array("f", [-value for value in vector])
    assert cosine(vector, opposite) == pytest.approx(-1, abs=1e-5)
    candidates = {1: signs(opposite), 2: signs(vector)}
    found = nearest_signs(
        signs(vector), {number: int.from_bytes(bits) for number, bits in candidates.items()}
    )
    assert found[0] == 2


def test_a_vector_without_a_direction_is_none() -> None:
    with pytest.raises(ValueError, match="no direction"):
        unit(bytes(32))


def test_the_report_of_an_audit() -> None:
    judged = [Judged(True, 0.9, None)] * 60 + [Judged(True, 0.8, "number")] * 40
    judged += [Judged(False, 0.85, None)] * 10 + [Judged(False, 0.99, "name")] * 190
    told = report(judged)
    assert (told.n_same, told.n_different) == (100, 200)
    assert (told.refused_same, told.refused_different) == (40, 190)
    assert told.chosen == 0.86
    row = next(row for row in told.rows if row.threshold == told.chosen)
    assert (row.hits, row.false_hits, row.hit_rate) == (60, 0, 0.6)
    assert row.hit_low == pytest.approx(0.502, abs=0.002)
    assert row.false_high == pytest.approx(0.0188, abs=0.001)
    assert report([Judged(True, 1.0, None)]).chosen is None  # nothing tells of false hits
    assert bounds(0, 0) == (0.0, 1.0)
