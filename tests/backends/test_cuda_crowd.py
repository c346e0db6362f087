"""Many requests at once on the paged backend say what each says alone on llama.cpp, whatever happens under way."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from engine_rig import Rig
from gguf_runner import MakeGguf
from shells import Starving
from sim_oracle import ScriptedDrafter

from hearth_backends.base import Stage

pytest.importorskip("torch")
pytest.importorskip("llama_cpp")

N_REQUESTS, N_OUTPUT = 16, 24
_EXACT: dict[str, Any] = {"kv_dtype": "f32", "threads": 1, "context": 128}


def _prompts() -> list[list[int]]:
    """Of four families, each with a beginning of 50 tokens in common."""
    random = Random(3)
    beginnings = [[random.randrange(256) for _ in range(50)] for _ in range(4)]
    return [
        beginnings[i % 4] + [random.randrange(256) for _ in range(1 + i)] for i in range(N_REQUESTS)
    ]


def _outputs(rig: Rig) -> dict[int, list[int]]:
    for prompt in _prompts():
        rig.submit(prompt, max_tokens=N_OUTPUT, ignore_eos=True)
    return {rid: answer.output for rid, answer in rig.run().items()}


@pytest.fixture(
    params=[
        {"architecture": "llama", "rope_factors": True},
        {"architecture": "qwen3", "tied": True},
    ],
    ids=["llama 3", "qwen 3"],
)
def path(request: pytest.FixtureRequest, make_gguf: MakeGguf) -> str:
    return str(make_gguf(**request.param))


@pytest.fixture
def expected(path: str) -> dict[int, list[int]]:
    with Rig(path, backend="gguf", concurrency=1, **_EXACT) as rig:
        return _outputs(rig)


@pytest.mark.parametrize("wrong_every", [None, 0, 3], ids=["no drafts", "right", "wrong"])
def test_greedy_tokens_are_those_of_llama_cpp(
    path: str, expected: dict[int, list[int]], wrong_every: int | None
) -> None:
    drafter = None if wrong_every is None else ScriptedDrafter(expected, wrong_every)
    sizes: dict[str, Any] = {"concurrency": 16, "kv_tokens": 448, "step_tokens": 96}
    with Rig(path, backend="cuda", weights="fp32", drafter=drafter, wrap=_starving, **_EXACT, **sizes) as rig:  # fmt: skip
        assert _outputs(rig) == expected
        assert rig.core.scheduler.n_preemptions
        cached = [answer.usage.n_cached for answer in rig.answers.values() if answer.usage]
        assert sum(n >= 48 for n in cached) >= 8
        rig.assert_nothing_leaked()
    if drafter is not None:
        assert drafter.n_accepted > N_REQUESTS
        assert (drafter.n_proposed > drafter.n_accepted) or not wrong_every


def _starving(stage: Stage) -> Stage:
    return Starving(stage, every=7)
