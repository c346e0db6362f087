"""GET /v1/models: OpenAI's shape, and the state of each model, from what hearthd knows."""

from __future__ import annotations

import pytest
from fake_serving import DIGEST, FakeServing, model_status
from openai import AsyncOpenAI, NotFoundError


async def test_the_list_has_every_model_in_order(serving: FakeServing, openai: AsyncOpenAI) -> None:
    serving.statuses = (
        model_status("zeta"),
        model_status("alpha", state="loading", phase="loading", progress=0.5, info=None),
    )
    models = (await openai.models.list()).data
    assert [model.id for model in models] == ["zeta", "alpha"]
    assert {(model.object, model.owned_by, model.created) for model in models} == {
        ("model", "hearth", 1_700_000_000)
    }
    ready, loading = (model.model_dump() for model in models)
    assert ready["max_model_len"] == 2048
    facts = ready["hearth"]
    assert (facts["state"], facts["digest"], facts["backend"]) == ("ready", DIGEST, "sim")
    assert facts["stages"] == [{"backend": "sim", "device": "cpu:0", "layers": [0, 4]}]
    assert (facts["context"], facts["n_parameters"]) == (2048, 800_000)
    facts = loading["hearth"]
    assert (facts["state"], facts["phase"], facts["progress"]) == ("loading", "loading", 0.5)
    assert facts["digest"] is None
    assert loading["max_model_len"] is None


async def test_a_failed_model_says_why(serving: FakeServing, openai: AsyncOpenAI) -> None:
    serving.statuses = (
        model_status(state="failed", error="truncated", error_code="bad_file", info=None),
    )
    facts = (await openai.models.retrieve("canary")).model_dump()["hearth"]
    assert (facts["state"], facts["error"], facts["error_code"]) == (
        "failed", "truncated", "bad_file",
    )  # fmt: skip


async def test_a_name_may_have_slashes(serving: FakeServing, openai: AsyncOpenAI) -> None:
    serving.statuses = (model_status("org/model-7b"),)
    assert (await openai.models.retrieve("org/model-7b")).id == "org/model-7b"
    with pytest.raises(NotFoundError, match="org/model-7b"):
        await openai.models.retrieve("org/other")
