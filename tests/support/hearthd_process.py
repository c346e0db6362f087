"""Daemon: `python -m hearthd` as users run it, in a process and a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

HEARTHD = [sys.executable, "-m", "hearthd"]
PATIENCE_SECONDS = 30.0
COMMAND_SECONDS = 100.0
"""Of a command that ends by itself; one of them tests every device with every backend."""


def hearthd(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        [*HEARTHD, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=COMMAND_SECONDS,
    )


class Daemon:
    """A daemon in the background; its log lines are in `log`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.state = folder / "state"
        self.socket = folder / "d.sock"
        self._log = folder / "log"
        self.began_seconds = time.monotonic()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*HEARTHD, *self.flags, "--listen", "127.0.0.1:0", *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONWARNINGS": "error"},
            )

    @property
    def flags(self) -> list[str]:
        """Of a second daemon that would be in this one's way."""
        return ["--state", str(self.state), "--socket", str(self.socket)]

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def address(self) -> str:
        """HOST:PORT, once it listens."""
        self.until(lambda: self._note().get("pid") == self.process.pid, 0.002)
        listen: str = self._note()["listen"]
        return listen

    def _note(self) -> dict[str, Any]:
        """What it says of itself, or what a predecessor that was killed had said."""
        try:
            note: dict[str, Any] = json.loads((self.state / "hearthd.json").read_text())
        except FileNotFoundError:
            return {}
        return note

    def get(self, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        connection = HTTPConnection(self.address(), timeout=PATIENCE_SECONDS)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except ConnectionError as error:  # a daemon that ended while it started, perhaps
            error.add_note(self._log.read_text())
            raise
        finally:
            connection.close()

    def model(self, name: str = "m") -> dict[str, Any]:
        """What /v1/models says of one, without what OpenAI's shape adds."""
        details: dict[str, Any] = self.get(f"/v1/models/{name}")[1]["hearth"]
        return details

    def until(self, holds: Callable[[], bool], pause_seconds: float = 0.05) -> None:
        """Wait for something; fails with the log where it never comes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(pause_seconds)

    def until_ready(self) -> None:
        self.until(lambda: self.get("/readyz")[0] == 200)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Daemon]:
    """A daemon that is gone at the end, whatever happened."""
    daemon = Daemon(folder, *arguments)
    try:
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()
