"""Prefixes beyond key-value memory: what is evicted comes back, and everybody still gets the oracle's tokens."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
from engine_rig import Answer, Rig
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from shells import Flaky, StageShell
from sim_oracle import expected

from hearth_backends.base import Stage
from hearth_backends.errors import ForeignState, StepError
from hearth_backends.kv.contract import BLOCK_TOKENS, Placement
from hearthd import wire
from hearthd.engine.prefixes.file import SavedPrefix
from hearthd.engine.prefixes.tiers import PrefixTiers

PATH = "sim:layers=2,context=1024"
GREEDY = wire.Sampling(temperature=0.0)
MIB = 1 << 20


def text(seed: int, n_tokens: int) -> list[int]:
    return [32 + (seed * 31 + i * i + i * seed) % 95 for i in range(n_tokens)]


SYSTEM = text(0, 150)


def tiers(rig: Rig) -> PrefixTiers:
    assert rig.core.prefixes is not None
    return rig.core.prefixes


def ask(rig: Rig, prompt: list[int], n_output: int = 6, **fields: object) -> Answer:
    """A request that has the engine for itself, its prefix fetched from disk as the worker does."""
    rid = len(rig.answers) + 1
    rig.answers[rid] = Answer()
    frame = wire.Submit(
        rid=rid, sampling=GREEDY, tokens=prompt, max_tokens=n_output, ignore_eos=True,
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip
    arrival = rig.intake.submit(frame)
    if tiers(rig).wants_fetch(arrival.request):
        box: queue.SimpleQueue[SavedPrefix | None] = queue.SimpleQueue()
        tiers(rig).fetch(arrival.request, box.put)
        tiers(rig).fetched(arrival.request, box.get(timeout=10))
    rig.core.add(arrival)
    answer = rig.run()[rid]
    tiers(rig).check()
    assert answer.output == expected(PATH, prompt, max_tokens=n_output, ignore_eos=True)
    return answer


def cached(answer: Answer) -> int:
    assert answer.usage is not None
    return answer.usage.n_cached


def crowd(rig: Rig, n: int = 6) -> None:
    """Other requests, until nothing of those before is left in memory."""
    for seed in range(1, n + 1):
        ask(rig, text(100 + seed, 150))


def variants() -> list[str]:
    return [
        f"{PATH},variant={variant},depth={depth}"
        for variant in ("blocks", "slots", "cells")
        for depth in (0, 1)
    ]


def small(path: str = PATH, n_stages: int = 1, **sizes: Any) -> Rig:
    """Two sequences of 256 tokens at once."""
    return Rig(
        path, n_stages=n_stages,
        **{"concurrency": 2, "kv_tokens": 512, "prefix_ram_bytes": MIB, **sizes},
    )  # fmt: skip


# --- host memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_stages", [1, 2])
@pytest.mark.parametrize("path", variants())
def test_what_was_evicted_is_put_back_and_not_computed(path: str, n_stages: int) -> None:
    with small(path, n_stages) as rig:
        first = ask(rig, [*SYSTEM, *text(1, 20)])
        crowd(rig)
        n_steps = rig.core.counters.n_steps
        again = ask(rig, [*SYSTEM, *text(2, 20)])
        assert cached(first) == 0
        assert cached(again) == len(SYSTEM) - len(SYSTEM) % BLOCK_TOKENS
        assert rig.core.counters.n_steps - n_steps <= 8
        assert tiers(rig).counters.n_recalls == 1
        assert tiers(rig).counters.n_recalled_tokens == cached(again)
        assert not rig.core.counters.n_step_failures
        rig.assert_nothing_leaked()


def test_what_memory_still_has_is_not_put_back() -> None:
    with small() as rig:
        ask(rig, SYSTEM)
        assert cached(ask(rig, [*SYSTEM, 65])) >= 144
        assert not tiers(rig).counters.n_recalls
        assert not tiers(rig).counters.n_exports


def test_a_preempted_request_goes_on_where_it_was() -> None:
    with small(f"{PATH},variant=cells", context=224, kv_tokens=224, step_tokens=512) as rig:
        asks = [(text(1, 60), 150), (text(2, 100), 60)]
        rids = [
            rig.submit(prompt, GREEDY, max_tokens=n, ignore_eos=True, priority=-i)
            for i, (prompt, n) in enumerate(asks)
        ]
        rig.run()
        for rid, (prompt, n) in zip(rids, asks, strict=True):
            output = expected(PATH, prompt, max_tokens=n, ignore_eos=True)
            assert rig.answers[rid].output == output
        assert rig.core.scheduler.n_preemptions
        assert tiers(rig).counters.n_recalled_tokens >= 112
        rig.assert_nothing_leaked()


def test_copies_stay_within_their_bytes_and_the_oldest_go() -> None:
    with small(prefix_ram_bytes=8000) as rig:
        ask(rig, SYSTEM)
        crowd(rig, 12)
        assert 0 < tiers(rig).ram_bytes <= 8000
        assert cached(ask(rig, [*SYSTEM, 65])) == 0


def test_prefixes_of_another_salt_or_adapter_stay_theirs() -> None:
    with small() as rig:
        ask(rig, SYSTEM, salt="a")
        crowd(rig)
        assert cached(ask(rig, SYSTEM, salt="b")) == 0
        assert cached(ask(rig, SYSTEM)) == 0
        crowd(rig)
        assert cached(ask(rig, SYSTEM, salt="a")) == 144


def test_states_have_no_copies(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with small(f"{PATH},variant=states") as rig:
        assert rig.core.prefixes is None
    assert "carries a state" in caplog.text


class Refusing(StageShell):
    """Takes no exported state."""

    error: type[StepError] = ForeignState

    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        raise self.error("not mine")

    def submit(self, batch: object, x: object) -> object:
        self.recall(batch)  # type: ignore[arg-type]
        return self.inner.submit(batch, x)  # type: ignore[arg-type]


class NoRoom(Refusing):
    """Has no room for one."""

    error = StepError


@pytest.mark.parametrize("wrap", [Refusing, NoRoom])
def test_a_copy_that_is_refused_is_computed(wrap: type[Stage]) -> None:
    with small(wrap=wrap) as rig:
        ask(rig, SYSTEM)
        crowd(rig)
        copy = next(saved for saved in tiers(rig)._ram if saved.begins(SYSTEM, 144))
        assert cached(ask(rig, SYSTEM)) == 0
        assert rig.core.counters.n_step_failures == 1
        assert not tiers(rig).counters.n_recalls
        assert (copy in list(tiers(rig)._ram)) == (wrap is NoRoom)
        rig.assert_nothing_leaked()


# --- disk ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def on_disk(folder: Path, path: str = PATH, **sizes: Any) -> Rig:
    return small(path, prefix_folder=str(folder), prefix_disk_bytes=MIB, **sizes)


def save_hot(rig: Rig) -> None:
    """What the engine does while it is idle."""
    while tiers(rig).wants_idle_time:
        tiers(rig).save_hot()


@pytest.mark.parametrize("n_stages", [1, 2])
@pytest.mark.parametrize("path", variants())
def test_a_hot_prefix_outlives_the_engine(path: str, n_stages: int, folder: Path) -> None:
    with on_disk(folder, path, n_stages=n_stages) as rig:
        ask(rig, [*SYSTEM, *text(1, 20)])
        save_hot(rig)
        assert not files(folder)
        ask(rig, [*SYSTEM, *text(2, 20)])
        save_hot(rig)
        tiers(rig).close()
        assert len(files(folder)) == 1
    with on_disk(folder, path, n_stages=n_stages) as rig:
        assert tiers(rig).disk_bytes
        prompt = [*SYSTEM, *text(3, 20)]
        assert len(prompt) - cached(ask(rig, prompt)) <= BLOCK_TOKENS + 20
        assert tiers(rig).counters.n_disk_recalls == 1
        assert cached(ask(rig, [*SYSTEM, *text(4, 20)])) >= 144
        assert tiers(rig).counters.n_disk_recalls == 1
        tiers(rig).close()


def test_without_memory_for_copies_files_serve_all_the_same(folder: Path) -> None:
    answers: list[Answer] = []
    for _ in range(2):
        with on_disk(folder, prefix_ram_bytes=0) as rig:
            answers = [ask(rig, [*SYSTEM, 65 + i]) for i in range(2)]
            tiers(rig).flush(1e18)
            tiers(rig).close()
            assert not tiers(rig).ram_bytes
    assert cached(answers[0]) == 144


def test_a_long_prefix_is_kept_when_the_engine_stops_a_short_one_is_not(folder: Path) -> None:
    long = text(9, 180) * 2 + text(8, 170)
    answers: list[Answer] = []
    for _ in range(2):
        with on_disk(folder, kv_tokens=1024, context=560) as rig:
            answers = [ask(rig, prompt, 1) for prompt in (long, SYSTEM)]
            tiers(rig).flush(1e18)
            tiers(rig).close()
    assert [cached(answer) for answer in answers] == [528, 0]


def test_a_growing_chat_is_not_written_at_every_turn(folder: Path) -> None:
    with on_disk(folder, context=512) as rig:
        chat = text(5, 64)
        for turn in range(20):
            chat = [*chat, *text(50 + turn, 16)]
            ask(rig, chat, 1)
            save_hot(rig)
        tiers(rig).close()
        assert tiers(rig).counters.n_exports <= 5
        assert len(files(folder)) == 1


@pytest.mark.parametrize("change", ["seed=2", "layers=1", "variant=slots"])
def test_files_of_another_model_are_missed_and_deleted(change: str, folder: Path) -> None:
    with on_disk(folder) as rig:
        for i in range(2):
            ask(rig, [*SYSTEM, 65 + i])
        save_hot(rig)
        tiers(rig).close()
    assert len(files(folder)) == 1
    with on_disk(folder, f"sim:context=512,{change}") as rig:
        assert not files(folder)
        assert not tiers(rig).disk_bytes


# --- whatever happens ------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> tuple[str, int, dict[str, Any]]:
    variant = draw(st.sampled_from(["blocks", "slots", "cells"]))
    fault = draw(st.sampled_from(["", "", ",fail_every=5", ",starve_every=6"]))
    path = f"{PATH},variant={variant},depth={draw(st.integers(0, 1))}{fault}"
    sizes: dict[str, Any] = {
        "concurrency": draw(st.integers(1, 4)),
        "step_tokens": draw(st.sampled_from([7, 64, 256])),
        "kv_tokens": draw(st.sampled_from([176, 176, 256])),
        "context": 176,
        "prefix_ram_bytes": draw(st.sampled_from([MIB, 20_000, 4000, 0])),
    }
    return path, draw(st.integers(1, 2)), sizes


ASK = st.tuples(
    st.integers(0, 3),
    st.sampled_from([130, 128, 127, 97, 64, 20]),
    st.integers(0, 20),
    st.integers(1, 12),
    st.integers(0, 8),
    st.sampled_from([None, None, None, 2, 7]),
)
ASKS = st.integers(4, 20).flatmap(lambda n: st.lists(ASK, min_size=n, max_size=n))
"""Family, tokens of it, tokens of its own, output, steps until the next, steps until its client goes."""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), ASKS, st.booleans())
def test_everybody_gets_what_the_oracle_says(
    world: tuple[str, int, dict[str, Any]],
    asks: list[tuple[int, int, int, int, int, int | None]],
    flaky: bool,
) -> None:
    path, n_stages, sizes = world
    wrap = (lambda stage: Flaky(stage, 7)) if flaky and "every" not in path else (lambda s: s)
    with Rig(path, n_stages=n_stages, wrap=wrap, **sizes) as rig:
        outputs: dict[int, list[int]] = {}
        goes: dict[int, int] = {}

        def run(n_steps: int) -> None:
            for _ in range(n_steps):
                if not rig.core.has_work:
                    return
                rig.step()
                for rid in [rid for rid, at in goes.items() if at <= rig.n_steps]:
                    del goes[rid]
                    rig.cancel(rid)
                if rig.core.prefixes is not None:
                    rig.core.prefixes.check()

        for i, (family, n_shared, n_own, n_output, pause, gone) in enumerate(asks):
            prompt = text(family, n_shared) + text(70 + i, n_own)
            rid = rig.submit(prompt, GREEDY, max_tokens=n_output, ignore_eos=True)
            outputs[rid] = expected(PATH, prompt, max_tokens=n_output, ignore_eos=True)
            if gone is not None:
                goes[rid] = rig.n_steps + gone
                del outputs[rid]
            run(pause * 3)
        run(5000)
        assert not rig.core.has_work
        for rid, output in outputs.items():
            assert rig.answers[rid].output == output
        rig.assert_nothing_leaked()
        if rig.core.prefixes is not None:
            event(f"recalled: {rig.core.prefixes.counters.n_recalls > 0}")
            event(f"exported: {rig.core.prefixes.counters.n_exports > 0}")
