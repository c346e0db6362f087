"""An engine that misbehaves as it is told: `python scripted_engine.py --fd N ...`, the behaviour is the path.

It is a process of its own that speaks the real frames, without backend or scheduler.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Callable

from hearthd import wire

INFO = wire.ModelInfo(
    digest="d" * 64,
    architecture="scripted",
    quantization="F32",
    n_parameters=1,
    n_vocab=256,
    n_layers=1,
    context=64,
    concurrency=2,
    kv_tokens=128,
    backend="scripted",
    stages=[],
    has_chat_template=False,
    weights_bytes=1,
)
BEAT = wire.Beat(0, 0, 100, None, 0, 0, 0, 0, 0, 0)


class Engine:
    """One end of the socket and the behaviours, by name."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = wire.FrameBuffer()
        self._frames: list[wire.ToEngine] = []

    def send(self, *frames: wire.Frame) -> None:
        self._socket.sendall(b"".join(map(wire.encode, frames)))

    def receive(self) -> wire.ToEngine:
        """The next frame; exits where there will be none."""
        while not self._frames:
            data = self._socket.recv(1 << 16)
            if not data:
                sys.exit(0)
            self._frames += map(wire.to_engine_decoder.decode, self._buffer.feed(data))
        return self._frames.pop(0)

    def ready(self) -> None:
        self.send(wire.Ready(INFO, 0.0), BEAT)

    # --- behaviours ----------------------------------------------------------------------------

    def garbage(self) -> None:
        """Ready, then bytes that are no frame."""
        self.ready()
        self._socket.sendall(b"\0\0\0\3abc")
        time.sleep(60)

    def closes(self) -> None:
        """Closes its socket while loading and stays."""
        self._socket.shutdown(socket.SHUT_RDWR)
        time.sleep(60)

    def mute(self) -> None:
        """Ready, and never a beat again."""
        self.ready()
        time.sleep(60)

    def stuck(self) -> None:
        """Beats that tell of a step which does not end."""
        self.ready()
        while True:
            self.send(wire.Beat(1, 0, 0, 1000.0, 0, 0, 0, 0, 0, 0))
            time.sleep(0.1)

    def never(self) -> None:
        """Loads for ever."""
        self.send(wire.Loading("loading", 0.5))
        time.sleep(60)

    def exits(self) -> None:
        """Says why in words, and goes."""
        print("ERROR hearthd.engine.x cannot go on", flush=True)
        sys.exit(3)

    def stubborn(self) -> None:
        """Beats, whatever it is told."""
        self.ready()
        while True:
            self.send(BEAT)
            time.sleep(0.1)

    def chatty(self) -> None:
        """Answers, after a line longer than any buffer, and a last frame just before it goes."""
        print("x" * 200_000, flush=True)
        self.ready()
        while True:
            frame = self.receive()
            if isinstance(frame, wire.Submit):
                self.send(wire.Step([wire.Delta(frame.rid, "last words", [1], finish="stop")]))
                sys.exit(0)

    def rejects(self) -> None:
        """No to every request."""
        self.ready()
        while True:
            frame = self.receive()
            if isinstance(frame, wire.Submit | wire.Encode | wire.Decode):
                self.send(wire.Reject(frame.rid, 400, "context_length_exceeded", "9 > 8", "prompt"))
            elif isinstance(frame, wire.Stop):
                return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--log-level")
    engine = Engine(socket.socket(fileno=parser.parse_args().fd))
    load = engine.receive()
    assert isinstance(load, wire.Load)
    behaviour: Callable[[], None] = getattr(engine, load.path)
    behaviour()


if __name__ == "__main__":
    main()
