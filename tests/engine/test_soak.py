"""Engines under random load for a long time, with faults, restarts and every tier of prefixes: nothing leaks."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
from engine_rig import Answer, Rig
from recurrent_models import ARCHITECTURES, write_recurrent
from sim_oracle import expected

import hearth_backends
from hearthd import wire
from hearthd.engine.drafting.gate import DraftGate
from hearthd.engine.prefixes.file import SavedPrefix

CANARY = str(Path(hearth_backends.__file__).parent / "canary" / "canary.gguf")
SIM = "sim:layers=2,context=512"
GREEDY = wire.Sampling(temperature=0.0)
LARGER = {"prefix_ram_bytes": 4_000_000, "prefix_disk_bytes": 6_000_000, "threads": 1}
LORA = [wire.AdapterConfig(name, f"sim:{name}") for name in ("one", "two")]
WORLDS: list[tuple[str, dict[str, Any]]] = [
    (f"{SIM},variant=blocks,depth=1", {"kv_tokens": 512, "prefix_ram_bytes": 40_000}),
    (f"{SIM},variant=slots", {"kv_tokens": 768}),
    (f"{SIM},variant=cells,fail_every=97", {"kv_tokens": 400, "n_stages": 2}),
    (f"{SIM},variant=cells,starve_every=53", {"kv_tokens": 400, "drafter": DraftGate}),
    (f"{SIM},variant=cells,starve_every=61", {"kv_tokens": 400, "draft": f"{SIM},fail_every=29"}),
    (f"{SIM},variant=states", {"kv_tokens": 768}),
    (f"{SIM},variant=cells,adapters=1", {"kv_tokens": 512, "lora": LORA}),
    (CANARY, {**LARGER, "kv_tokens": 512, "drafter": DraftGate}),
    (CANARY, {**LARGER, "kv_tokens": 512, "draft": CANARY}),
    (CANARY, {**LARGER, "kv_tokens": 768, "n_stages": 2, "kv_dtype": "f32"}),
    ("mamba", {"threads": 1}),
    ("lfm2", {"threads": 1, "kv_tokens": 400}),
]
CONTEXT = 256


class Engine:
    """One engine and its clients; it is stopped and started again now and then."""

    def __init__(self, path: str, sizes: dict[str, Any], folder: Path, random: Random) -> None:
        self._path = path
        self._sizes = {"prefix_folder": str(folder), "prefix_disk_bytes": 200_000, **sizes}
        self._random = random
        self._rig = self._start()
        self._asked: dict[
            int, tuple[list[int], list[int] | None]
        ] = {}  # under way: prompt and output
        self._chats: list[list[int]] = []
        self.n_requests = 0
        self.n_recalled_tokens = 0

    def _start(self) -> Rig:
        sizes = {"concurrency": 3, "context": CONTEXT, "prefix_ram_bytes": 150_000, **self._sizes}
        if "drafter" in sizes:
            sizes["drafter"] = sizes["drafter"]()
        return Rig(self._path, **sizes)

    def act(self) -> None:
        """Something happens."""
        random, rig = self._random, self._rig
        what = random.random()
        if what < 0.45:
            self._submit()
        elif what < 0.5 and self._asked:
            rid = random.choice(list(self._asked))
            del self._asked[rid]
            rig.cancel(rid)
        elif what < 0.55 and rig.core.prefixes is not None and not rig.core.has_work:
            rig.core.prefixes.save_hot()
        elif what < 0.56:
            self._restart()
        for _ in range(random.choice([0, 1, 5, 40])):
            self._step()

    def _submit(self) -> None:
        if len(self._asked) > 12:
            return
        random = self._random
        if self._chats and random.random() < 0.5:
            prompt = random.choice(self._chats)[: CONTEXT - 60]
        else:
            family = Random(random.randrange(4))
            prompt = [family.randrange(97, 123) for _ in range(random.choice([20, 100, 180]))]
        prompt = prompt + [random.randrange(97, 123) for _ in range(random.randrange(1, 20))]
        n_output = random.randrange(1, 40)
        rig, rid = self._rig, len(self._rig.answers) + 1
        rig.answers[rid] = Answer()
        adapter = random.choice([None, *self._rig.plan.adapters])
        frame = wire.Submit(
            rid=rid, adapter=adapter, sampling=GREEDY, tokens=prompt, max_tokens=n_output, ignore_eos=True,
            salt=random.choice(["", "", "", "s"]), priority=random.choice([0, 0, 1, -1]),
        )  # fmt: skip
        arrival = rig.intake.submit(frame)
        prefixes = rig.core.prefixes
        if prefixes is not None and prefixes.wants_fetch(arrival.request):
            box: queue.SimpleQueue[SavedPrefix | None] = queue.SimpleQueue()
            prefixes.fetch(arrival.request, box.put)
            prefixes.fetched(arrival.request, box.get(timeout=60))
        rig.core.add(arrival)
        self.n_requests += 1
        output = None
        if self._path.startswith("sim:"):
            path = f"sim:{adapter}" if adapter else ""
            output = expected(SIM, prompt, adapter=path, max_tokens=n_output, ignore_eos=True)
        self._asked[rid] = prompt, output

    def _step(self) -> None:
        if not self._rig.core.has_work:
            return
        self._rig.step()
        if self._rig.core.prefixes is not None:
            self._rig.core.prefixes.check()
        for rid in [rid for rid in self._asked if self._rig.answers[rid].finish]:
            self._judge(self._rig.answers[rid], *self._asked.pop(rid))

    def _judge(self, answer: Answer, prompt: list[int], output: list[int] | None) -> None:
        assert answer.finish == "length", answer.error
        assert output is None or answer.output == output
        self._chats = [*self._chats[-5:], [*prompt, *answer.output]]

    def _restart(self) -> None:
        self.drain()
        prefixes = self._rig.core.prefixes
        if prefixes is not None:
            self.n_recalled_tokens += prefixes.counters.n_recalled_tokens
            prefixes.flush(time.monotonic() + 60)
        self.close()
        self._rig = self._start()

    def drain(self) -> None:
        """All requests end, and then every cell can be had by one alone."""
        while self._rig.core.has_work:
            self._step()
        assert not self._asked
        self._rig.assert_nothing_leaked()
        n_failed = self._rig.core.counters.n_step_failures
        answer = self._rig.answer([97] * (CONTEXT - 1), GREEDY, max_tokens=1, ignore_eos=True)
        assert answer.finish == "length"
        assert "every" in self._path or self._rig.core.counters.n_step_failures == n_failed
        self._rig.assert_nothing_leaked()

    def close(self) -> None:
        """The engine ends."""
        if self._rig.core.prefixes is not None:
            self._rig.core.prefixes.close()
        self._rig.core.close()


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[list[Engine]]:
    has_llama = find_spec("llama_cpp") is not None
    worlds = [w for w in WORLDS if w[0].startswith("sim:") or has_llama]
    with ExitStack() as stack:
        engines = []
        for i, (path, sizes) in enumerate(worlds):
            at = path
            if path in ARCHITECTURES:
                at = str(tmp_path / f"{path}.gguf")
                write_recurrent(Path(at), path)
            engines.append(Engine(at, sizes, tmp_path / str(i), Random(i)))
            stack.callback(engines[-1].close)
        yield engines


def soak(engines: list[Engine], seconds: float) -> None:
    random = Random(seconds)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        random.choice(engines).act()
    for engine in engines:
        engine.drain()
    assert sum(engine.n_recalled_tokens for engine in engines) > 0
    for engine in engines:
        print(
            f"{engine.n_requests} requests, {engine.n_recalled_tokens} tokens recalled before restarts"
        )


@pytest.mark.slow
def test_nothing_leaks_in_a_little_while(engines: list[Engine]) -> None:
    soak(engines, 20.0)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nothing_leaks_in_ten_minutes(engines: list[Engine]) -> None:
    soak(engines, 600.0)
