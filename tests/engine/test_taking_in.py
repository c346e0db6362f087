"""The engine's intake: whatever one request brings about, those after it are heard."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from engine_rig import Rig

from hearthd import wire
from hearthd.engine.intake import Arrival, Intake
from hearthd.engine.link import EngineLink, HearthdGone
from hearthd.engine.worker import Worker


class Surprised(Intake):
    """Fails in a way that nobody has foreseen, at the text that says so."""

    def submit(self, frame: wire.Submit) -> Arrival:
        if frame.text == "surprise":
            raise LookupError(frame.text)
        return super().submit(frame)

    def encode(self, frame: wire.Encode) -> wire.Encoded:
        if frame.text == "surprise":
            raise LookupError(frame.text)
        return super().encode(frame)


@pytest.fixture
def hearthd() -> Iterator[socket.socket]:
    """The other end of a worker that runs, and that has ended when the test is over."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    with ours, Rig("sim:layers=2,says=echo") as rig:
        link = EngineLink(theirs)
        intake = Surprised(rig.model, context=256)

        def work() -> None:
            with pytest.raises(HearthdGone):
                Worker(link, rig.core, intake).run()

        thread = threading.Thread(target=work)
        thread.start()
        yield ours
        ours.close()
        thread.join(20)
        assert not thread.is_alive()
        link.close()


def until_last(ours: socket.socket, rid: int) -> list[wire.FromEngine]:
    """All frames up to the one that is the last of a request."""
    buffer, frames = wire.FrameBuffer(), list[wire.FromEngine]()
    while True:
        for body in buffer.feed(ours.recv(1 << 16)):
            frame = wire.from_engine_decoder.decode(body)
            frames.append(frame)
            if isinstance(frame, wire.Step) and any(
                d.rid == rid and d.finish for d in frame.deltas
            ):
                return frames


def test_a_request_that_fails_in_the_intake_is_answered_and_the_next_is_heard(
    hearthd: socket.socket,
) -> None:
    greedy, constraint = wire.Sampling(temperature=0.0), wire.ChoiceConstraint(["a"])
    for frame in (
        wire.Submit(1, greedy, text="surprise"),
        wire.Submit(2, greedy, text="surprise", constraint=constraint),
        wire.Encode(3, text="surprise"),
        wire.Submit(4, greedy, text="hello\n", max_tokens=5, ignore_eos=True),
    ):
        hearthd.sendall(wire.encode(frame))
    frames = until_last(hearthd, 4)
    rejects = {frame.rid: frame for frame in frames if isinstance(frame, wire.Reject)}
    assert {(r.status, r.code) for r in rejects.values()} == {(500, "internal_error")}
    assert set(rejects) == {1, 2, 3}


def test_an_engine_that_hears_no_frames_any_more_ends(hearthd: socket.socket) -> None:
    hearthd.sendall(b"\0\0\0\1\xc1")
