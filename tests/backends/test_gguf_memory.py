"""What the GGUF backend estimates and takes, its progress, and its stores."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hearth_backends.base import Bytes, Lease, LoadedModel
from hearth_backends.errors import (
    BackendError,
)
from hearth_backends.kv.contract import BLOCK_TOKENS, Want

pytest.importorskip("llama_cpp")

from gguf_runner import BACKEND, CPU, MakeGguf, Runner, cut_specs, noise, whole_spec

from hearth_backends.gguf.vocab import open_gguf


def test_the_estimate_is_what_a_load_takes(make_gguf: MakeGguf) -> None:
    path = make_gguf(
        n_layers=6, d_model=512, n_heads=8, n_kv_heads=4, head_dim=64, d_ff=1536, context=8192
    )
    estimated, measured = (int(n) for n in run_measurement(path))
    assert 0.8 < measured / estimated < 1.2


def run_measurement(path: Path) -> list[str]:
    """Estimated bytes, and the growth of a process that loads and fills a stage."""
    script = Path(__file__).with_name("measure_load.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    values: list[str] = json.loads(done.stdout)
    return values


def test_estimates_of_two_stages_are_about_that_of_the_whole(make_gguf: MakeGguf) -> None:
    model = open_gguf(str(make_gguf(architecture="qwen2")))
    whole = BACKEND.estimate(model.spec, whole_spec(model), CPU)
    parts = [BACKEND.estimate(model.spec, spec, CPU) for spec in cut_specs(model, 2)]
    assert sum(part.kv for part in parts) == whole.kv
    layers = model.spec.layer_bytes(0, 4)
    assert layers < sum(part.weights for part in parts) <= whole.weights
    assert whole.weights == layers + model.spec.outer_bytes()


def test_more_cells_take_exactly_their_keys_and_values(tiny: LoadedModel) -> None:
    for kv_dtype, n_bytes in (("f32", 4), ("f16", 2)):
        some, more = (
            BACKEND.estimate(tiny.spec, whole_spec(tiny, kv_tokens=n, kv_dtype=kv_dtype), CPU).kv
            for n in (1536, 12288)
        )
        assert more - some == 10752 * 2 * 4 * 2 * 16 * n_bytes


def test_progress_that_raises_ends_the_load(tiny: LoadedModel) -> None:
    def give_up(_fraction: float) -> None:
        raise ConnectionError("nobody listens")

    with pytest.raises(ConnectionError, match="nobody listens"):
        BACKEND.load(tiny.spec, whole_spec(tiny), (CPU,), (), give_up)


def test_progress_ends_at_one(tiny: LoadedModel) -> None:
    seen: list[float] = []
    lease = Lease(1, "cpu:0", Bytes(0, 0, 0))
    stage = BACKEND.load(tiny.spec, whole_spec(tiny), (CPU,), (lease,), seen.append)
    stage.close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_foreign_handle_is_refused(tiny_runner: Runner) -> None:
    with pytest.raises(BackendError, match="not a handle"):
        tiny_runner.stages[0].poll(object())


# --- stores ------------------------------------------------------------------------------------


@dataclass
class View:
    """A sequence as a store sees it."""

    id: int
    tokens: list[int]
    shares: bool = True

    @property
    def block_hashes(self) -> list[bytes]:
        blocks = range(BLOCK_TOKENS, len(self.tokens) + 1, BLOCK_TOKENS)
        return [bytes(str(self.tokens[:end]), "ascii") for end in blocks]


@pytest.mark.parametrize(
    ("architecture", "window", "n_ctx", "shared"),
    [("llama", 0, 256, 32), ("gemma3", 64, 256, 0), ("gemma3", 256, 256, 32)],
)
def test_a_prefix_is_shared_unless_it_may_leave_a_sliding_window(
    make_gguf: MakeGguf, architecture: str, window: int, n_ctx: int, shared: int
) -> None:
    model = open_gguf(str(make_gguf(architecture=architecture, window=window)))
    spec = whole_spec(model, n_ctx=n_ctx)
    store = BACKEND.store(model.spec, spec)
    first, second = View(1, noise(40, 30)), View(2, noise(40, 30))
    assert store.match(first) == 0
    reservation = store.reserve([Want(first, 40)])
    assert reservation is not None
    store.commit(reservation, {})
    store.release(first)
    assert store.match(second) >= shared
    assert bool(store.match(second)) is bool(shared)
    store.check()
