"""Followers: the processes of a group's other devices, what they are told, and what they do.

Nobody answers a step: a follower that fails ends, the sums stop, and the first device gives up after
`group.PATIENCE`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TypeAlias

import torch

from hearth_backends.base import Hidden, Lease, StageSpec
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.group import Group
from hearth_backends.cuda.rows import HostRows
from hearth_backends.cuda.runner import Runner
from hearth_backends.cuda.sampler import LOGITS, PlainDraws
from hearth_backends.cuda.shard import Shard
from hearth_backends.errors import BackendError
from hearth_backends.weights.spec import ModelSpec

_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Compute:
    """A step."""

    host: HostRows
    x: Hidden | None
    kind: str  # of step: all record the same at the same time


@dataclass(frozen=True, slots=True)
class TakeSamples:
    """The first device has sampled: everybody takes its last samples."""


@dataclass(frozen=True, slots=True)
class Read:
    """The first tokens of a block table are wanted; answered with bytes."""

    blocks: tuple[int, ...]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Write:
    """What was read once comes back."""

    blocks: tuple[int, ...]
    state: bytes
    n_tokens: int


Message: TypeAlias = Compute | TakeSamples | Read | Write | None
"""None: the end."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a follower has to know before it loads."""

    model: ModelSpec
    spec: StageSpec
    device: str
    lease: Lease
    shard: Shard
    meeting: Path


class Followers:
    """All but the first device of a group, as the first one sees them."""

    def __init__(self, members: Sequence[Membership]) -> None:
        """Start them; they load at once."""
        context = multiprocessing.get_context("spawn")
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []
        for member in members:
            ours, theirs = context.Pipe()
            process = context.Process(target=follow, args=(theirs, member), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def wait_until_loaded(self) -> None:
        """Raises what loading raised in one of them."""
        for connection in self._connections:
            try:
                failure = connection.recv()
            except EOFError:
                raise BackendError("the process of another device ended while it loaded") from None
            if failure is not None:
                raise failure

    def tell(self, message: Message) -> None:
        """All of them, the same; raises BackendError where one has ended."""
        for connection in self._connections:
            self._send(connection, message)

    def ask(self, message: Read) -> list[bytes]:
        """The answer of each, in their order."""
        self.tell(message)
        try:
            return [connection.recv() for connection in self._connections]
        except EOFError:
            raise BackendError("the process of another device has ended") from None

    def tell_each(self, messages: Sequence[Message]) -> None:
        """Each something else."""
        for connection, message in zip(self._connections, messages, strict=True):
            self._send(connection, message)

    @staticmethod
    def _send(connection: Connection, message: Message) -> None:
        try:
            connection.send(message)
        except OSError as error:
            raise BackendError("the process of another device has ended") from error

    def close(self) -> None:
        """End them, at the latest after a few seconds."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


class LeadingRunner(Runner):
    """The first device of a group: it tells the others what it does, and owns them."""

    def lead(self, followers: Followers, group: Group, stack: ExitStack) -> None:
        """From here on; `stack` closes what the group stands on."""
        self._followers = followers
        self._group = group
        self._stack = stack

    def run(self, host: HostRows, x: Hidden | None, kind: str = LOGITS) -> torch.Tensor:
        """See Runner."""
        self._followers.tell(Compute(host, x, kind))
        return super().run(host, x, kind)

    def sample(self, host: HostRows, draws: PlainDraws) -> torch.Tensor:
        """See Runner."""
        self._followers.tell(Compute(host, None, draws.kind))
        return super().sample(host, draws)

    def share_samples(self) -> None:
        """See Runner."""
        self._followers.tell(TakeSamples())
        self._group.from_first(self.rows.last)

    def read(self, blocks: Sequence[int], n_tokens: int) -> bytes:
        """Of all devices, one after the other."""
        others = self._followers.ask(Read(tuple(blocks), n_tokens))
        return b"".join([super().read(blocks, n_tokens), *others])

    def write(self, blocks: Sequence[int], state: bytes, n_tokens: int) -> None:
        """See Runner."""
        size = len(state) // self._group.shard.size
        own, *others = (state[i : i + size] for i in range(0, len(state), size))
        self._followers.tell_each([Write(tuple(blocks), part, n_tokens) for part in others])
        super().write(blocks, own, n_tokens)

    def token_bytes(self) -> int:
        """Of all devices."""
        return super().token_bytes() * self._group.shard.size

    @property
    def is_group(self) -> bool:
        """See Runner."""
        return True

    def close(self) -> None:
        """End the others, too."""
        super().close()
        self._stack.close()


def follow(connection: Connection, member: Membership) -> None:
    """The life of a follower: load, then do as it is told until the first device is gone."""
    from hearth_backends.cuda.opening import open_runner

    where = Accelerator(member.device)
    with closing(connection), torch.inference_mode():
        try:
            group = Group(member.shard, member.meeting, where)
            runner = open_runner(
                member.model, member.spec, where, member.lease, _nobody_watches, group
            )
        except BackendError as error:
            connection.send(error)
            return
        connection.send(None)
        with closing(group):
            _obey(connection, runner, group)


def _nobody_watches(fraction: float) -> None:
    """The first device's progress is everybody's."""


def _obey(connection: Connection, runner: Runner, group: Group) -> None:
    while (message := _next(connection)) is not None:
        match message:
            case Compute(host, x, kind):
                runner.run(host, x, kind)
            case TakeSamples():
                group.from_first(runner.rows.last)
            case Read(blocks, n_tokens):
                connection.send(runner.read(blocks, n_tokens))
            case Write(blocks, state, n_tokens):
                runner.write(blocks, state, n_tokens)


def _next(connection: Connection) -> Message:
    try:
        message: Message = connection.recv()
    except EOFError:
        return None
    return message
