"""Contest: the servers of a row, started afresh for every load, and the loads of each kind of row."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hearth_bench.daemon import Daemon, free_port, plan_daemon
from hearth_bench.endpoint import Endpoint
from hearth_bench.intrusion import run_intrusion
from hearth_bench.load import run_load
from hearth_bench.report import Report, make_report
from hearth_bench.rounds import Comparison, compare, run_rounds
from hearth_bench.rows import Row
from hearth_bench.server import running
from hearth_bench.work import Work

_FILL_SECONDS = 6.0
"""For a load in the background to take every seat."""


@dataclass(frozen=True, slots=True)
class Rig:
    """What the servers are made of."""

    models: dict[str, Path]  # by Row.model
    llama_server: str  # a command
    hearthd: str | None = None  # a command; None: this Python's
    threads: int = 2
    settings: tuple[str, ...] = ()  # more of hearthd's

    def daemon(self, row: Row, folder: Path, keys: dict[str, dict[str, object]]) -> Daemon:
        """hearthd for a row; `keys` are its [keys.NAME] without their hashes, which are of their names."""
        memory = row.n_clients * row.context
        settings = [
            f"models.bench.concurrency={row.n_clients}",
            f"models.bench.context={row.context}",
            f"models.bench.kv_tokens={memory}",
            f"models.bench.threads={self.threads}",
            *self.settings,
        ]
        for name, fields in keys.items():
            settings.append(f"keys.{name}.hash={hashlib.sha256(name.encode()).hexdigest()}")
            settings += [f"keys.{name}.{field}={value}" for field, value in fields.items()]
        model = f"bench={self.models[row.model]}"
        return plan_daemon(folder, model, settings, self.hearthd)

    def rival(self, row: Row, folder: Path) -> Daemon:
        """llama-server with its defaults, as many slots, and the same key-value memory."""
        port = free_port()
        command = (
            f"{self.llama_server} -m {self.models[row.model]} --host 127.0.0.1 --port {port}"
            f" -t {self.threads} -np {row.n_clients} -c {row.n_clients * row.context}"
        )
        return Daemon(command, Endpoint(f"http://127.0.0.1:{port}"), port, folder / "log")


class Contest:
    """One row on one rig; `commands` are those that it has started."""

    def __init__(self, rig: Rig, row: Row) -> None:
        self._rig = rig
        self._row = row
        self.commands: list[str] = []

    async def run(self) -> Comparison:
        """All rounds; raises EndpointError where a server cannot be measured."""
        row = self._row
        if row.kind == "shares":
            return compare([await self._shares(i) for i in range(row.n_rounds)])
        if row.kind == "interactive":
            sides = self._interactive(batch=True), self._interactive(batch=False)
        else:
            sides = self._measure(self._hearthd), self._measure(self._llama)
        return await run_rounds(*sides, row.work, row.n_rounds)

    def _measure(self, plan: Callable[[Path], Daemon]) -> Callable[[Work], Awaitable[Report]]:
        async def measure(work: Work) -> Report:
            async with self._up(plan) as endpoint:
                if self._row.kind == "intrusion":
                    return await run_intrusion(endpoint, work, self._row.intruder_tokens)
                return make_report(await run_load(endpoint, work))

        return measure

    def _interactive(self, *, batch: bool) -> Callable[[Work], Awaitable[Report]]:
        keys: dict[str, dict[str, object]] = {
            "urgent": {"class": "interactive"},
            "nightly": {"class": "batch"},
        }

        async def measure(work: Work) -> Report:
            async with self._up(lambda folder: self._hearthd(folder, keys)) as endpoint:
                urgent = replace(endpoint, api_key="urgent")
                nightly = replace(endpoint, api_key="nightly")
                background = Work(
                    concurrency=2 * self._row.n_clients,
                    seconds=3600.0,
                    prompt_tokens=256,
                    seed=work.seed + 1000,
                    n_warmup=0,
                )
                if not batch:
                    return make_report(await run_load(urgent, work))
                async with _beside(nightly, background):
                    return make_report(await run_load(urgent, work))

        return measure

    async def _shares(self, i: int) -> tuple[Report, Report]:
        keys: dict[str, dict[str, object]] = {"three": {"weight": 3}, "one": {"weight": 1}}
        work = replace(self._row.work, seed=2 * i)
        async with self._up(lambda folder: self._hearthd(folder, keys)) as endpoint:
            results = await asyncio.gather(
                run_load(replace(endpoint, api_key="three"), work),
                run_load(replace(endpoint, api_key="one"), replace(work, seed=2 * i + 1)),
            )
        return make_report(results[0]), make_report(results[1])

    def _hearthd(self, folder: Path, keys: dict[str, dict[str, object]] | None = None) -> Daemon:
        return self._rig.daemon(self._row, folder, keys or {})

    def _llama(self, folder: Path) -> Daemon:
        return self._rig.rival(self._row, folder)

    @asynccontextmanager
    async def _up(self, plan: Callable[[Path], Daemon]) -> AsyncIterator[Endpoint]:
        """A fresh server with nothing on disk, for one load."""
        with tempfile.TemporaryDirectory() as folder:
            daemon = plan(Path(folder))
            self.commands.append(daemon.command)
            server = running(daemon.command, daemon.endpoint, daemon.log)
            await asyncio.to_thread(server.__enter__)
            try:
                yield daemon.endpoint
            finally:
                await asyncio.to_thread(server.__exit__, None, None, None)


@asynccontextmanager
async def _beside(endpoint: Endpoint, work: Work) -> AsyncIterator[None]:
    """A load that goes on meanwhile; what it sees is not reported."""
    load = asyncio.create_task(run_load(endpoint, work))
    try:
        await asyncio.sleep(_FILL_SECONDS)
        if load.done():
            load.result()
        yield
    finally:
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
