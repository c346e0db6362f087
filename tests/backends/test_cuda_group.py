"""Two devices that share every layer of a model compute what one does, and end together."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from gguf_runner import CPU, MakeGguf, Rows, cut_specs, whole_spec

from hearth_backends.base import Bytes, Lease, LoadedModel, Sampled, StageSpec
from hearth_backends.errors import BackendError, Unsupported
from hearth_backends.registry import open_model

pytest.importorskip("torch")
pytest.importorskip("llama_cpp")
import torch
from cuda_runner import CUDA, N_CTX, PagedRunner, in_chunks, place

from hearth_backends.cuda.followers import LeadingRunner
from hearth_backends.cuda.shard import Shard
from hearth_backends.cuda.stage import CudaStage

pytestmark = pytest.mark.slow

SIZES = {"n_seq": 4, "n_ctx": N_CTX, "kv_tokens": 4 * N_CTX}
TEXT = list(
    b"two devices share every layer, and each has half of the heads; what they add up is one"
)


class GroupRunner(PagedRunner):
    """A runner whose only stage is on two devices."""

    def __init__(self, model: LoadedModel, spec: StageSpec) -> None:
        super().__init__(model, [])
        self.lengths = [0] * spec.n_seq
        leases = tuple(Lease(i, CPU.name, Bytes(0, 0, 0)) for i in (1, 2))
        stage = CUDA.load(model.spec, spec, (CPU, CPU), leases, lambda _: None)
        self.stages = [self._stack.enter_context(closing(stage))]


@pytest.fixture(scope="module")
def model(make_gguf: MakeGguf) -> LoadedModel:
    return open_model(str(make_gguf(architecture="qwen3", n_layers=2)))


def test_two_compute_what_one_does(model: LoadedModel) -> None:
    spec = whole_spec(model, weight_kind="fp32", **SIZES)
    with closing(PagedRunner(model, [spec])) as one:
        expected, output = in_chunks(one, TEXT), one.greedy(1, TEXT[:20], 8)
    with closing(GroupRunner(model, spec)) as two:
        assert np.abs(in_chunks(two, TEXT) - expected).max() < 1e-4
        assert two.greedy(1, TEXT[:20], 8) == output
        _check_leisure(two)
        _check_samples_stay_on_devices(two, output)
        _check_states(two)
        with pytest.raises(Unsupported, match="not two"):
            GroupRunner(model, spec)


def _check_leisure(two: PagedRunner) -> None:
    """Steps of nobody are computed by both devices; what comes after is as it was."""
    (stage,) = two.stages
    assert isinstance(stage, CudaStage)
    two.step(Rows(0, [5]), Rows(3, [6]))
    with torch.inference_mode():
        assert [stage._runner.rehearse() for _ in range(2)] == [True, False]


def _check_samples_stay_on_devices(two: PagedRunner, output: list[int]) -> None:
    (stage,) = two.stages
    tokens = []
    for rows in (Rows(2, TEXT[:20]), *(Rows(2, [-1]) for _ in range(7))):
        sampled = stage.poll(stage.submit(two.batch([rows]), None))
        assert isinstance(sampled, Sampled)
        tokens.append(int(sampled.tokens[0]))
        two.lengths[2] += len(rows.tokens)
    assert tokens == output


def _check_states(two: PagedRunner) -> None:
    """What is exported is of both devices."""
    (stage,) = two.stages
    blob = stage.export(place(1), 20)
    two.lengths[1] = 20
    expected = two.step(Rows(1, [7]))
    two.lengths[3] = stage.restore(place(3), blob)
    assert np.array_equal(two.step(Rows(3, [7])), expected)


def test_if_another_device_is_lost_the_stage_is(model: LoadedModel) -> None:
    with closing(GroupRunner(model, whole_spec(model, weight_kind="fp32", **SIZES))) as two:
        (stage,) = two.stages
        assert isinstance(stage, CudaStage)
        two.step(Rows(0, TEXT))
        assert isinstance(stage._runner, LeadingRunner)
        (process,) = stage._runner._followers._processes
        process.kill()
        process.join()
        with pytest.raises(BackendError):
            two.step(Rows(0, [5]))


def test_what_cannot_be_shared_is_refused(model: LoadedModel) -> None:
    assert Shard(0, 2).support(model.spec).ok
    assert "cannot be shared by 3" in Shard(0, 3).support(model.spec).reason
    odd = replace(model.spec, n_kv_heads=1)
    assert "1 heads of keys and values" in Shard(0, 2).support(odd).reason


def test_a_share_of_some_layers(model: LoadedModel) -> None:
    """A stage of a pipeline can be on a group, too."""
    first, last = cut_specs(model, 1, weight_kind="fp32", **SIZES)
    with closing(PagedRunner(model, [first, last])) as one:
        expected = in_chunks(one, TEXT)
    with closing(PagedRunner(model, [first])) as head, closing(GroupRunner(model, last)) as tail:
        tail.stages = [*head.stages, *tail.stages]
        assert np.abs(in_chunks(tail, TEXT) - expected).max() < 1e-4
