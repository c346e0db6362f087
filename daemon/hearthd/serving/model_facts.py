"""Facts of a model that the planner goes by, asked of the engine's probe in a child process."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE

import msgspec

from hearthd.errors import HearthError, InvalidRequest
from hearthd.hardware.backend_view import KILL_SECONDS, PROBE_SECONDS, probe_command
from hearthd.placement.candidates import ModelFacts


class _Failure(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Said(msgspec.Struct, frozen=True):
    """The probe's word on a model."""

    error: _Failure | None = None


class _Probe(msgspec.Struct, frozen=True):
    models: dict[str, msgspec.Raw]


async def ask_facts(path: str) -> ModelFacts:
    """What the probe says of a model; raises HearthError, with the code of what is wrong. Cancelling kills the child."""
    try:
        child = await asyncio.create_subprocess_exec(
            *probe_command(), path, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, process_group=0
        )
    except OSError as error:
        raise HearthError(f"the probe could not be started: {error}") from error
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            output, _ = await child.communicate()
    except TimeoutError:
        raise InvalidRequest(
            f"{path}: its header was not read within {PROBE_SECONDS:g} s"
        ) from None
    finally:
        if child.returncode is None:
            child.kill()
            await asyncio.wait({asyncio.create_task(child.wait())}, timeout=KILL_SECONDS)
    return facts_from(output, path)


def facts_from(output: bytes, path: str) -> ModelFacts:
    """What the probe has printed of a model; raises InvalidRequest. Pure."""
    try:
        raw = msgspec.json.decode(output, type=_Probe).models[path]
        failure = msgspec.json.decode(raw, type=_Said).error
        if failure is not None:
            raise InvalidRequest(failure.message, code=failure.code)
        return msgspec.json.decode(raw, type=ModelFacts)
    except (msgspec.MsgspecError, KeyError) as error:
        raise InvalidRequest(f"{path}: the probe gave no report: {error}") from error
