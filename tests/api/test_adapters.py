"""LoRA adapters through a real `hearthd`: listed, asked for by name, and not found when there are none."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sim_oracle
from hearthd_process import Daemon, running
from openai import AsyncOpenAI, NotFoundError

from hearth_backends.sim.language import oracle
from hearthd import wire

CONFIG = """
[models.noise]
path = "sim:adapters=1"
aliases = ["default"]
lora = ["adapters/one.gguf", { name = "two", path = "sim:zwei" }]
[models.plain]
path = "sim:seed=2"
"""
GREEDY = sim_oracle.params_of(wire.Sampling(temperature=0.0))


@pytest.fixture(scope="module")
def box() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        config = Path(folder) / "hearthd.toml"
        config.write_text(CONFIG)
        with running(Path(folder), "--config", str(config)) as daemon:
            daemon.until_ready()
            yield daemon


@pytest.fixture
async def openai(box: Daemon) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://{box.address()}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def expected(adapter: str, prompt: str, n: int) -> str:
    language = sim_oracle.language_of("sim:adapters=1", adapter)
    return bytes(oracle(language, prompt.encode(), GREEDY, n, end_ids=frozenset())).decode()


async def test_adapters_are_listed_below_their_model(openai: AsyncOpenAI) -> None:
    listed = [model.model_dump() for model in (await openai.models.list()).data]
    assert [(model["id"], model["parent"]) for model in listed] == [
        ("noise", None), ("noise:one", "noise"), ("noise:two", "noise"), ("plain", None),
    ]  # fmt: skip
    assert listed[2]["hearth"]["path"] == "sim:zwei"
    assert listed[2]["hearth"]["state"] == "ready"
    for name in ("noise:two", "default:two"):
        one = (await openai.models.retrieve(name)).model_dump()
        assert (one["id"], one["parent"]) == ("noise:two", "noise")


async def test_a_request_gets_the_adapter_that_it_names(openai: AsyncOpenAI) -> None:
    prompt = "some words that somebody has said"
    said = {}
    for name, adapter in (("noise", ""), ("noise:two", "sim:zwei"), ("default:two", "sim:zwei")):
        answer = await openai.completions.create(
            model=name, prompt=prompt, max_tokens=20, temperature=0, extra_body={"ignore_eos": True}
        )
        said[name] = answer.choices[0].text
        assert said[name] == expected(adapter, prompt, 20)
        assert answer.model == name
    assert said["noise"] != said["noise:two"]


async def test_answers_of_one_adapter_are_not_those_of_another(openai: AsyncOpenAI) -> None:
    """Nor when the same is asked again, and answers may be kept."""
    texts = []
    for name in ("noise", "noise:two", "noise", "noise:two"):
        stream = await openai.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "hello"}],
            temperature=0, max_tokens=12, stream=True,
        )  # fmt: skip
        texts.append("".join([chunk.choices[0].delta.content or "" async for chunk in stream]))
    assert texts[0] == texts[2] != texts[1] == texts[3]


@pytest.mark.parametrize("name", ["noise:three", "plain:two", "noise:", ":two"])
async def test_an_adapter_that_is_not_there_is_a_model_that_is_not_there(
    openai: AsyncOpenAI, name: str
) -> None:
    with pytest.raises(NotFoundError, match=r"does not exist; there are: .*noise:two") as refused:
        await openai.completions.create(model=name, prompt="x")
    assert refused.value.code == "model_not_found"
    with pytest.raises(NotFoundError):
        await openai.models.retrieve(name)
