"""Nothing is put on a pair of backend and device in quarantine."""

from __future__ import annotations

import pytest

from hearth_backends.errors import Unsupported
from hearth_backends.registry import open_model
from hearthd import wire
from hearthd.engine.load_plan import plan_load
from hearthd.engine.quarantine import best_backend

CANARY = "builtin:canary"
WRONG = {"gguf cpu:0": "it says 5: get another device"}

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


def test_the_next_backend_is_taken_where_none_was_asked_for() -> None:
    model = open_model(CANARY)
    assert best_backend(wire.Load("m", CANARY), model) == "gguf"
    assert best_backend(wire.Load("m", CANARY, quarantined=WRONG), model) == "onnx"
    elsewhere = {"gguf cuda:0": "no"}
    assert best_backend(wire.Load("m", CANARY, quarantined=elsewhere), model) == "gguf"


@pytest.mark.parametrize(
    "fields",
    [
        {"backend": "gguf"},
        {"stages": [wire.StageConfig("gguf", "cpu:0", (0, 2)), wire.StageConfig("onnx", "cpu:0", (2, 4))]},
    ],
    ids=["asked for", "a stage"],
)  # fmt: skip
def test_what_was_asked_for_is_refused_with_the_reason(fields: dict[str, object]) -> None:
    load = wire.Load("m", CANARY, quarantined=WRONG, **fields)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="backend gguf on cpu:0 is in quarantine: it says 5"):
        plan_load(load)


def test_where_all_are_in_quarantine_the_first_is_refused() -> None:
    load = wire.Load("m", CANARY, quarantined={**WRONG, "onnx cpu:0": "too", "cuda cpu:0": "too"})
    with pytest.raises(Unsupported, match="backend gguf on cpu:0"):
        plan_load(load)
