"""EngineProcess: a real engine child and hearthd's end of its socket, for tests that speak frames."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

from hearthd import wire

F = TypeVar("F", bound=wire.Frame)


class EngineProcess:
    """`python -m hearthd.engine --fd N`, or another program, on a socket pair; use as a context manager, which ends it."""

    def __init__(self, program: Sequence[str] = ("-m", "hearthd.engine")) -> None:
        """`program`: what Python runs."""
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(20)
        command = [sys.executable, *program, "--fd", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE, text=True
        )
        theirs.close()
        self.seen: list[wire.FromEngine] = []
        self._buffer = wire.FrameBuffer()
        self._waiting: list[wire.FromEngine] = []

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()
        self.process.kill()
        self.process.communicate()

    def send(self, frame: wire.Frame) -> None:
        self.socket.sendall(wire.encode(frame))

    def receive(self) -> wire.FromEngine:
        """The next frame; raises EOFError when the engine has closed its end."""
        while not self._waiting:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the engine has closed its end")
            bodies = self._buffer.feed(data)
            self._waiting += map(wire.from_engine_decoder.decode, bodies)
        frame = self._waiting.pop(0)
        self.seen.append(frame)
        return frame

    def wait_for(self, kind: type[F], where: Callable[[F], bool] = lambda _: True) -> F:
        """The next frame of a kind; what comes before it is kept in `seen`."""
        while True:
            frame = self.receive()
            if isinstance(frame, kind) and where(frame):
                return frame

    def load(self, path: str, **fields: object) -> wire.Ready:
        """Load a model, granting what it asks for."""
        self.send(wire.Load(name="m", path=path, **{"context": 512, "concurrency": 4, **fields}))  # type: ignore[arg-type]
        self.wait_for(wire.LeaseRequest)
        self.send(wire.LeaseGrant(1))
        return self.wait_for(wire.Ready)

    def deltas_until_finish(self, rid: int) -> list[wire.Delta]:
        """The deltas of a request up to its last."""
        deltas: list[wire.Delta] = []
        while not deltas or deltas[-1].finish is None:
            deltas += [d for d in self.wait_for(wire.Step).deltas if d.rid == rid]
        return deltas

    def exit_status(self, within_seconds: float = 10.0) -> int:
        """The status the engine exits with; raises TimeoutExpired."""
        return self.process.wait(timeout=within_seconds)

    def rest(self, within_seconds: float = 10.0) -> list[wire.FromEngine]:
        """All frames until the engine closes its end."""
        frames: list[wire.FromEngine] = []
        until = time.monotonic() + within_seconds
        while time.monotonic() < until:
            try:
                frames.append(self.receive())
            except EOFError:
                return frames
        raise TimeoutError("the engine does not close its end")
