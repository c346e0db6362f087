"""ManagerEnd: the socket on which a service manager hears its service, and what it has heard."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType


class ManagerEnd:
    """Datagrams wait in the socket until they are looked at."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.heard: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> ManagerEnd:
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def fill(self) -> None:
        """Leave no room for another word until somebody listens; what fills it is not heard."""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as crowd,
            contextlib.suppress(BlockingIOError),
        ):
            while True:
                crowd.sendto(b"", str(self.path))

    def listen(self) -> list[dict[str, str]]:
        """All that was heard so far."""
        while True:
            try:
                message = self._socket.recv(65536).decode()
            except BlockingIOError:
                return self.heard
            if message:
                self.heard.append(dict(line.split("=", 1) for line in message.splitlines()))

    def count(self, **assignment: str) -> int:
        """How often this was among what was said."""
        return sum(assignment.items() <= message.items() for message in self.listen())

    def statuses(self) -> list[str]:
        return [message["STATUS"] for message in self.listen() if "STATUS" in message]

    def drain(self, seconds: float) -> list[dict[str, str]]:
        """Forget what was said, and return what is said in the next so many seconds."""
        self.listen()
        self.heard.clear()
        time.sleep(seconds)
        return self.listen()


async def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something; TimeoutError where it never comes."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # what it looks at is another process's
            await asyncio.sleep(0.01)
