"""A system prompt outlives real engine processes, stopped and killed, on the simulated model and the canary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_process import EngineProcess
from sim_oracle import expected

import hearth_backends
from hearth_backends.kv.contract import BLOCK_TOKENS
from hearthd import wire

CANARY = str(Path(hearth_backends.__file__).parent / "canary" / "canary.gguf")
SIM = "sim:layers=2,variant=cells"
GREEDY = wire.Sampling(temperature=0.0)
N_SYSTEM = 1500
SYSTEM = [97 + (i * i * 7 + i) % 26 for i in range(N_SYSTEM)]
SUFFIX = 40


@dataclass
class Asked:
    """What one request got."""

    n_cached: int
    output: list[int]


@pytest.fixture(params=["sim", "canary"])
def path(request: pytest.FixtureRequest) -> str:
    if request.param == "canary" and find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    return SIM if request.param == "sim" else CANARY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@pytest.fixture
def engine(path: str, folder: Path) -> Iterator[EngineProcess]:
    with started(path, folder) as process:
        yield process


def started(path: str, folder: Path, **fields: object) -> EngineProcess:
    engine = EngineProcess()
    sizes = {"context": 2048, "concurrency": 2, "prefix_disk_bytes": 1 << 30, **fields}
    engine.load(path, prefix_folder=str(folder), **sizes)
    return engine


def ask(engine: EngineProcess, number: int, system: list[int] = SYSTEM) -> Asked:
    """The system prompt and something else after it each time."""
    prompt = [*system, *[97 + (number * 5 + i * number) % 26 for i in range(SUFFIX)]]
    engine.send(
        wire.Submit(rid=number, sampling=GREEDY, tokens=prompt, max_tokens=8, ignore_eos=True)
    )
    deltas = engine.deltas_until_finish(number)
    assert deltas[-1].finish == "length", deltas[-1].error
    assert deltas[-1].usage is not None
    return Asked(deltas[-1].usage.n_cached, [t for delta in deltas for t in delta.tokens])


def until_file(folder: Path) -> None:
    until = time.monotonic() + 10
    while not list(folder.glob("*.prefix")):
        assert time.monotonic() < until, "nothing was saved"
        time.sleep(0.05)


def test_a_system_prompt_outlives_a_stop(path: str, engine: EngineProcess, folder: Path) -> None:
    answers = {number: ask(engine, number) for number in (1, 2)}
    assert answers[1].n_cached == 0
    engine.send(wire.Stop(0.0, save_seconds=10.0))
    assert engine.exit_status() == 0
    with started(path, folder) as again:
        for number in (2, 3):
            asked = ask(again, number)
            assert N_SYSTEM + SUFFIX - asked.n_cached <= BLOCK_TOKENS + SUFFIX
            if number in answers:
                assert asked.output == answers[number].output
            if path == SIM:
                prompt = [*SYSTEM, *[97 + (number * 5 + i * number) % 26 for i in range(SUFFIX)]]
                assert asked.output == expected(SIM, prompt, max_tokens=8, ignore_eos=True)
        beat = again.wait_for(wire.Beat, lambda beat: beat.n_recalls > 0)
        assert (beat.n_recalls, beat.n_disk_recalls) == (1, 1)
        assert N_SYSTEM - BLOCK_TOKENS < beat.n_recalled_tokens <= N_SYSTEM + SUFFIX
        assert beat.prefix_disk_bytes > 0


def test_a_hot_one_outlives_a_kill(path: str, engine: EngineProcess, folder: Path) -> None:
    for number in (1, 2):
        ask(engine, number)
    until_file(folder)
    engine.process.kill()
    engine.exit_status()
    with started(path, folder) as again:
        assert ask(again, 3).n_cached >= N_SYSTEM - BLOCK_TOKENS


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign"])
def test_a_bad_file_is_a_miss_and_deleted(
    path: str, engine: EngineProcess, folder: Path, damage: str
) -> None:
    answers = [ask(engine, number) for number in (1, 2)]
    until_file(folder)
    engine.send(wire.Stop())
    assert engine.exit_status() == 0
    (file,) = folder.glob("*.prefix")
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-100] ^= 64
    file.write_bytes(data[:-1] if damage == "truncated" else data)
    fields = {"kv_dtype": "f32"} if damage == "foreign" else {}
    if damage == "foreign" and path == SIM:
        path += ",seed=2"
    with started(path, folder, **fields) as again:
        asked = ask(again, 2)
        assert asked.n_cached == 0
        assert damage == "foreign" or asked.output == answers[1].output
        assert not list(folder.glob("*.prefix"))


def test_a_client_that_goes_while_its_prefix_is_read_leaves_nothing(
    path: str, engine: EngineProcess, folder: Path
) -> None:
    for number in (1, 2):
        ask(engine, number)
    engine.send(wire.Stop(0.0, save_seconds=10.0))
    assert engine.exit_status() == 0
    with started(path, folder) as again:
        prompt = [*SYSTEM, 65, 66]
        for rid in range(10, 20):
            again.send(wire.Submit(rid=rid, sampling=GREEDY, tokens=prompt, max_tokens=200))
            again.send(wire.Cancel(rid))
        assert ask(again, 3).n_cached >= N_SYSTEM - BLOCK_TOKENS
        beat = again.wait_for(wire.Beat)
        assert (beat.n_running, beat.n_waiting) == (0, 0)
