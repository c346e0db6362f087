"""A Serving with real engine processes, which is ended whatever happens to the test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import scripted_engine
from planned_boxes import Watch
from serving_rig import ServingRig, Start

from hearthd.config import ModelConfig
from hearthd.placement.ledger import Ledger
from hearthd.serving.model_facts import ask_facts
from hearthd.serving.placer import Placer
from hearthd.serving.process import engine_command
from hearthd.serving.restart import RestartPolicy
from hearthd.serving.service import Serving
from hearthd.serving.supervisor import Supervisor, SupervisorOptions
from hearthd.serving.vitals import Patience
from hearthd.telemetry.metrics import Metrics


def scripted_command(fd: int, _log_level: str) -> list[str]:
    return [sys.executable, str(Path(scripted_engine.__file__)), "--fd", str(fd)]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a Serving of models by name; keyword arguments say what differs from a patient default."""
    async with AsyncExitStack() as stack:

        def start_rig(
            models: dict[str, ModelConfig],
            *,
            patience: Patience | None = None,
            restarts: RestartPolicy | None = None,
            budget_bytes: int = 1 << 40,
            queue_limit: int = 64,
            call_seconds: float = 30.0,
            scripted: bool = False,
            watch: Watch | None = None,
        ) -> ServingRig:
            metrics, ledger = Metrics(), Ledger({"cpu": budget_bytes})
            options = SupervisorOptions(
                patience=patience or Patience(stop_seconds=2.0),
                restarts=restarts or RestartPolicy(),
                log_level="warning",
                command=scripted_command if scripted else engine_command,
            )
            ask = ask_facts if watch is None else watch.facts_of
            placer = Placer(ledger, watch, ask=ask)
            serving = Serving(
                models,
                Supervisor(ledger, options, placer),
                metrics,
                queue_limit=queue_limit,
                call_seconds=call_seconds,
            )
            serving.start()
            stack.push_async_callback(serving.stop)
            return ServingRig(serving, ledger, metrics)

        yield start_rig
