"""EngineProcess: one engine process from its start to its end; `run` is the only writer of its state."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

from hearthd import wire
from hearthd.errors import DeviceUnavailable, EngineFailed, InsufficientMemory, ModelFailed
from hearthd.placement.corrections import Key
from hearthd.placement.holding import Holding
from hearthd.placement.ledger import Ledger, MemoryLease, Need
from hearthd.serving.channel import EngineChannel
from hearthd.serving.output_log import EngineLog
from hearthd.serving.progress import Progress
from hearthd.serving.restart import EngineEnd
from hearthd.serving.vitals import (
    Patience,
    Phase,
    Vitals,
    cause_of_death,
    must_be_asked,
    why_not_answering,
)

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.5
"""Between two looks at the vitals."""
SAVE_SHARE = 0.6
"""Of the time that an engine has to end, what it may write prefixes to disk for."""
LAST_WORDS_SECONDS = 1.0
"""For what an ended process had still said to be read."""
REAP_SECONDS = 5.0
"""For the kernel to end a process that was killed."""


class EngineListener(Protocol):
    """Who hears what an engine says, in the loop's own callbacks."""

    def on_loading(self, process: EngineProcess, phase: str, fraction: float) -> None: ...
    def on_ready(self, process: EngineProcess, info: wire.ModelInfo) -> None: ...
    def on_beat(self, beat: wire.Beat) -> None: ...
    def on_step(self, step: wire.Step) -> None: ...
    def on_embedded(self, frame: wire.Embedded) -> None: ...
    def on_answer(self, frame: wire.Reject | wire.Encoded | wire.Decoded) -> None: ...


def engine_command(fd: int, log_level: str) -> list[str]:
    """argv of an engine that inherits the socket `fd`."""
    options = ["-P", "-X", "faulthandler", "-m", "hearthd.engine"]
    return [sys.executable, *options, "--fd", str(fd), "--log-level", log_level.upper()]


EngineCommand: TypeAlias = Callable[[int, str], list[str]]
"""argv for an inherited socket and a log level."""


class EngineProcess:
    """Spawns, loads and watches one engine; its leases last until the process is gone."""

    def __init__(
        self,
        load: wire.Load,
        listener: EngineListener,
        ledger: Ledger,
        patience: Patience,
        *,
        log_level: str = "info",
        command: EngineCommand = engine_command,
        cpus: frozenset[int] | None = None,
        progress: Progress | None = None,
        held: Iterable[MemoryLease] = (),
        devices: Mapping[str, str] | None = None,
    ) -> None:
        """`command` makes the argv; tests put a program of their own there. `cpus`: all it may use.

        `progress` hears of each look at the process. `held` was leased for it as planned, and is given for what it
        asks for; `devices`: names of the inventory by what the engine calls them, where these differ.
        """
        self.load = load
        self.pid: int | None = None
        self._listener = listener
        self._patience = patience
        self._log_level = log_level
        self._command = command
        self._cpus = cpus
        self._progress = progress or Progress()
        self._output = EngineLog(load.name)
        self._vitals = Vitals(Phase.LOADING, time.monotonic())
        self._ready_seconds: float | None = None
        self._holding = Holding(ledger, load.name, held)
        self._devices = devices or {}
        self._device: str | None = None  # that is loaded on, or memory was refused on
        self._channel: EngineChannel | None = None
        self._n_probes = 0
        self._failed: wire.Failed | None = None  # the engine's own word
        self._killed: str | None = None  # why hearthd killed it
        self._displaced = False  # for its device's sake
        self._closed = asyncio.Event()  # the socket, after the last frame was read

    async def run(self) -> EngineEnd:
        """Live one life; returns when the process is gone and its leases are back.

        Cancelling kills the process.
        """
        try:
            ours, child = await self._spawn()
        except OSError as error:
            self._holding.give_back()
            return EngineEnd(ModelFailed.code, f"could not be started: {error}", None)
        except BaseException:
            self._holding.give_back()
            raise
        self.pid = child.pid
        assert child.stdout is not None
        output = asyncio.create_task(self._output.read(child.stdout))
        exited = asyncio.create_task(child.wait())
        try:
            self._channel = await EngineChannel.open(ours, self._receive, self._on_close)
            self._channel.send(self.load)
            await self._watch(exited)
            await self._hear_out(output)
        finally:
            await self._bury(exited, output)
        return self._obituary(exited.result() if exited.done() else None)

    def send(self, frame: wire.ToEngine) -> None:
        """Send a frame; dropped where the engine is about to be gone."""
        if self._channel is not None:
            self._channel.send(frame)

    def why_not_answering(self) -> str | None:
        """Why it cannot be said to answer now, in words; None where it does, or does not serve."""
        if self._vitals.phase is not Phase.SERVING:
            return None
        return why_not_answering(self._vitals, time.monotonic())

    def stop(self) -> None:
        """Ask it to end now: what runs is dropped, prefixes are saved. `run` returns soon after `stop_seconds`."""
        if self._vitals.phase is Phase.STOPPING:
            return
        was, self._vitals.phase = self._vitals.phase, Phase.STOPPING
        self._vitals.stop_by_seconds = time.monotonic() + self._patience.stop_seconds
        if was is Phase.SERVING:
            self.send(wire.Stop(0.0, save_seconds=SAVE_SHARE * self._patience.stop_seconds))
        else:
            self._kill("was stopped while it loaded")  # it reads no frames, and has nothing to lose

    def lose(self, why: str) -> None:
        """End it at once, for a reason that is not its own; a replacement goes on with what it had."""
        self._displaced = True
        self._kill(why)

    # --- birth, life and death -----------------------------------------------------------------

    async def _spawn(self) -> tuple[socket.socket, asyncio.subprocess.Process]:
        """A process and our end of its socket; raises OSError.

        It leads a group of its own: a terminal's Ctrl-C is for hearthd, and what it starts ends with it.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                child = await asyncio.create_subprocess_exec(
                    *self._command(theirs.fileno(), self._log_level),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    process_group=0,
                )
            except BaseException:  # also when it is cancelled
                ours.close()
                raise
        self._keep_to_cpus(child.pid)
        return ours, child

    def _keep_to_cpus(self, pid: int) -> None:
        """Before it has threads; they all stay there, and so does the memory they touch first."""
        if self._cpus is None:
            return
        try:
            os.sched_setaffinity(pid, self._cpus)
        except OSError as error:  # it is gone, or a control group has just taken them away
            log.warning("the engine is not kept to processors %s: %s", sorted(self._cpus), error)

    async def _watch(self, exited: asyncio.Task[int]) -> None:
        """Return when the process has ended; kill it when it must end, and ask it for tokens."""
        while not exited.done():
            self._progress.step()
            if must_be_asked(self._vitals, self._patience, time.monotonic()):
                self._ask()
            cause = self._killed or cause_of_death(self._vitals, self._patience, time.monotonic())
            if cause is not None:
                self._kill(cause)
            looked_seconds = time.monotonic()
            await asyncio.wait({exited}, timeout=CHECK_SECONDS)
            self._forgive(time.monotonic() - looked_seconds - CHECK_SECONDS)

    def _ask(self) -> None:
        """For a sign that work gets done."""
        vitals, now = self._vitals, time.monotonic()
        self._n_probes += 1
        vitals.asked_again_seconds = now
        if vitals.asked_seconds is None:
            vitals.asked_seconds = now
        self.send(wire.Probe(self._n_probes))

    def _forgive(self, late_seconds: float) -> None:
        """While hearthd itself stood still, it could not hear anything: that is not the engine's silence."""
        if late_seconds < CHECK_SECONDS:
            return
        vitals = self._vitals
        vitals.sign_seconds += late_seconds
        vitals.beat_seconds += late_seconds
        if vitals.asked_seconds is not None:
            vitals.asked_seconds += late_seconds

    async def _hear_out(self, output: asyncio.Task[None]) -> None:
        """Read what it said before it ended; a child of it may hold the pipes open for longer."""
        closed = asyncio.create_task(self._closed.wait())
        await asyncio.wait({output, closed}, timeout=LAST_WORDS_SECONDS)
        closed.cancel()

    def _kill(self, cause: str) -> None:
        """May be called again until it is gone, and before it is there."""
        known, self._killed = self._killed, cause
        if known is None and self._vitals.phase is not Phase.STOPPING:
            log.warning("engine %d %s: killed", self.pid, cause, extra={"model": self.load.name})
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: int) -> None:
        if self.pid is None:
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            log.debug("engine %d had ended by itself", self.pid)

    async def _bury(self, exited: asyncio.Task[int], output: asyncio.Task[None]) -> None:
        """Leave nothing of it behind: process, socket, reader, leases."""
        self._progress.step()
        if not exited.done():
            self._signal_group(signal.SIGKILL)
            await asyncio.wait({exited}, timeout=REAP_SECONDS)
        if self._channel is not None:
            self._channel.close()
        output.cancel()
        await asyncio.gather(output, return_exceptions=True)
        self._holding.give_back()

    def _obituary(self, status: int | None) -> EngineEnd:
        served = None
        if self._ready_seconds is not None:
            served = time.monotonic() - self._ready_seconds
        if self._displaced:
            message = f"the engine {self._killed}"
            return EngineEnd(DeviceUnavailable.code, message, served, status, self._device)
        if self._failed is not None:
            failed = self._failed
            return EngineEnd(failed.code, failed.message, served, status, self._device)
        code = ModelFailed.code if served is None else EngineFailed.code
        cause = self._killed or _how_it_ended(status)
        message = f"the engine {cause}"
        if self._killed is None and self._output.last_words:
            message += f"; its last words: {self._output.last_words}"
        return EngineEnd(code, message, served, status, self._device)

    # --- what the engine says ------------------------------------------------------------------

    def _receive(self, frame: wire.FromEngine) -> None:
        vitals = self._vitals
        vitals.sign_seconds = time.monotonic()
        if type(frame) is wire.Step:  # first, for it is by far the most frequent
            if any(delta.tokens for delta in frame.deltas):
                self._prove()
            self._listener.on_step(frame)
            return
        match frame:
            case wire.Beat():
                vitals.step_age_seconds = frame.step_age_seconds
                vitals.beat_seconds = vitals.sign_seconds
                if frame.n_steps > vitals.n_steps:
                    vitals.n_steps = frame.n_steps
                    self._prove()
                if frame.peak_bytes is not None:
                    self._holding.measured(frame.peak_bytes)
                self._listener.on_beat(frame)
            case wire.Reject() | wire.Encoded() | wire.Decoded():
                self._listener.on_answer(frame)
            case wire.Embedded():
                self._prove()
                self._listener.on_embedded(frame)
            case wire.Probed():
                self._prove()
            case wire.LeaseRequest():
                self.send(self._lease(frame))
            case wire.Loading(device=str()):
                self._device = frame.device
            case wire.Loading():
                self._listener.on_loading(self, frame.phase, frame.fraction)
            case wire.Ready():
                self._become_ready(frame)
            case wire.Failed():
                self._failed = frame

    def _become_ready(self, ready: wire.Ready) -> None:
        if self._vitals.phase is not Phase.LOADING:
            return
        self._vitals.phase = Phase.SERVING
        self._ready_seconds = time.monotonic()
        self._listener.on_ready(self, ready.info)
        self._ask()

    def _prove(self) -> None:
        """It has done something just now."""
        self._vitals.proof_seconds = self._vitals.sign_seconds
        self._vitals.asked_seconds = None

    def _lease(self, request: wire.LeaseRequest) -> wire.LeaseGrant | wire.LeaseRefusal:
        device = self._devices.get(request.device, request.device)
        need = Need(request.weights_bytes, request.kv_bytes, request.workspace_bytes, device)
        key = Key(self.load.path, request.backend, device, request.settings)
        try:
            lease = self._holding.ask(need, key)
        except InsufficientMemory as error:
            self._device = request.device
            return wire.LeaseRefusal(error.message)
        return wire.LeaseGrant(lease.id)

    def _on_close(self, fault: str | None) -> None:
        self._vitals.deaf = True
        self._closed.set()
        if fault is not None:
            self._kill(fault)


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "was killed, but the kernel does not let it end"
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (the kernel does this when memory runs out)" if -status == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
