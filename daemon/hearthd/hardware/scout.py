"""Scout: one source of findings in a child process, with a limit on how long it may be silent."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import msgspec

from hearthd.hardware.device import Findings

FIRST_SECONDS = 30.0
"""A driver that nobody uses may start its GPUs first."""
LATER_SECONDS = 5.0
KILL_SECONDS = 1.0
_LINE_BYTES = 1 << 20


class SourceSilent(Exception):
    """The child has not answered in time."""


class SourceFailed(Exception):
    """The child could not be started, or ended without a word."""


class Scout:
    """Asks one child at a time, and starts another after one that has ended.

    A child that hangs in its driver may not even die: then there is no other until it does.
    """

    def __init__(
        self,
        command: list[str],
        *,
        first_seconds: float = FIRST_SECONDS,
        later_seconds: float = LATER_SECONDS,
    ) -> None:
        self._command = command
        self._first_seconds = first_seconds
        self._later_seconds = later_seconds
        self._child: Process | None = None
        self._dying: Process | None = None
        self._has_answered = False

    async def look(self) -> Findings:
        """What the source has now; raises SourceSilent, SourceFailed. Cancelling kills the child."""
        if self._dying is not None:
            if self._dying.returncode is None:
                raise SourceSilent
            self._dying = None
        seconds = self._later_seconds if self._has_answered else self._first_seconds
        try:
            async with asyncio.timeout(seconds):
                line = await self._ask()
        except TimeoutError:
            await self._kill()
            raise SourceSilent from None
        except BaseException:
            await self._kill()
            raise
        self._has_answered = True
        return msgspec.json.decode(line, type=Findings)

    async def close(self) -> None:
        """End the child; waits for a moment only."""
        await self._kill()

    async def _ask(self) -> bytes:
        """The answer of the child, or of a new one where it had ended after its last answer."""
        if self._child is not None and self._child.returncode is None:
            line = await _answer(self._child)
            if line is not None:
                return line
        self._child = await self._start()
        line = await _answer(self._child)
        if line is None:
            status = await self._child.wait()
            raise SourceFailed(f"its process ended (status {status}) without an answer")
        return line

    async def _start(self) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                limit=_LINE_BYTES,
                process_group=0,
            )
        except OSError as error:
            raise SourceFailed(f"it could not be started: {error}") from error

    async def _kill(self) -> None:
        child, self._child = self._child, None
        self._has_answered = False
        if child is None or child.returncode is not None:
            return
        child.kill()
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await child.wait()
        except TimeoutError:
            self._dying = child


async def _answer(child: Process) -> bytes | None:
    """One line for one; None where the child ends instead."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(b"\n")
        await child.stdin.drain()
        line = await child.stdout.readline()
    except ConnectionError:
        return None
    except ValueError as error:
        raise SourceFailed(f"its answer is too long: {error}") from error
    return line if line.endswith(b"\n") else None


def scan_command(source: str, root: Path, library: str | None) -> list[str]:
    """argv of the child that asks a source."""
    command = [sys.executable, "-P", "-m", "hearthd.hardware.scan", source, "--root", str(root)]
    return command if library is None else [*command, "--library", library]
