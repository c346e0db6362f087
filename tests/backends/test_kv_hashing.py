"""Chained block hashes: what they tell apart, and that nothing is computed twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hearth_backends.kv.contract import BLOCK_TOKENS
from hearth_backends.kv.hashing import HashChain


@given(st.lists(st.integers(0, 1 << 20), max_size=100), st.integers(0, 100))
def test_growing_tokens_give_the_hashes_of_all_at_once(tokens: list[int], cut: int) -> None:
    grown = HashChain("m")
    grown.upto(tokens[:cut])
    assert list(grown.upto(tokens)) == list(HashChain("m").upto(tokens))
    assert len(grown.upto(tokens)) == len(tokens) // BLOCK_TOKENS


@given(st.lists(st.integers(0, 3), min_size=48, max_size=48), st.integers(0, 47))
def test_one_other_token_changes_its_block_and_all_after_it(tokens: list[int], at: int) -> None:
    other = [*tokens]
    other[at] += 1
    ours, theirs = HashChain("m").upto(tokens), HashChain("m").upto(other)
    same = [a == b for a, b in zip(ours, theirs, strict=True)]
    assert same == [block < at // BLOCK_TOKENS for block in range(3)]


def test_model_adapter_and_salt_are_never_confused() -> None:
    tokens = list(range(BLOCK_TOKENS))
    chains = [
        HashChain("ab"),
        HashChain("a", adapter="b"),
        HashChain("a", salt="b"),
        HashChain("", adapter="ab"),
        HashChain("", adapter="a", salt="b"),
    ]
    assert len({chain.upto(tokens)[0] for chain in chains}) == len(chains)


def test_nothing_new_returns_the_same_list() -> None:
    chain, tokens = HashChain("m"), list(range(40))
    hashes = chain.upto(tokens)
    first = hashes[0]
    tokens += range(7)
    assert chain.upto(tokens) is hashes
    tokens.append(1)
    assert chain.upto(tokens)[0] is first
    assert len(chain.upto(tokens)) == 3
