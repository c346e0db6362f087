"""What a box says of itself fits into the records of DNS-SD."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthd.lan.card import MOST_LABEL_BYTES, MOST_TEXT_BYTES, SERVICE_TYPES, Card, instance_label

CARD = Card("Ember", "0123abcd", 4327, "0.1.0", ("qwen", "canary"), True, None)


def test_what_is_told() -> None:
    assert CARD.texts("_hearth._tcp.local.") == {
        "txtvers": "1", "id": "0123abcd", "version": "0.1.0", "auth": "key", "tls": "no", "api": "/v1",
        "path": "/", "n_models": "2", "models": "qwen,canary",
    }  # fmt: skip
    open_box = replace(CARD, needs_key=False, fingerprint="sha256:" + "0" * 64)
    texts = open_box.texts("_openai._tcp.local.")
    assert (texts["auth"], texts["tls"], texts["path"]) == ("none", "yes", "/v1")
    assert texts["fp"] == open_box.fingerprint
    assert CARD.host == "hearth-0123abcd.local."


@given(st.lists(st.text(min_size=1, max_size=80), max_size=40))
def test_texts_fit_and_hold_whole_names(names: list[str]) -> None:
    card = replace(CARD, models=tuple(names))
    for service_type in SERVICE_TYPES:
        texts = card.texts(service_type)
        assert all(
            len(f"{key}={value}".encode()) <= MOST_TEXT_BYTES for key, value in texts.items()
        )
        assert texts["n_models"] == str(len(names))
        told = texts["models"].split(",") if texts["models"] else []
        assert [name for name in told if name not in names] == []


@given(st.text(max_size=200), st.integers(1, 60))
def test_labels_fit(name: str, n: int) -> None:
    label = instance_label(name, n)
    assert 0 < len(label.encode()) <= MOST_LABEL_BYTES
    assert label == label.strip()


@pytest.mark.parametrize(
    ("name", "n", "label"),
    [("Ember", 1, "Ember"), ("Ember", 2, "Ember (2)"), ("a\nb", 1, "a b"), ("", 1, "hearth")],
)
def test_labels_of_namesakes(name: str, n: int, label: str) -> None:
    assert instance_label(name, n) == label
