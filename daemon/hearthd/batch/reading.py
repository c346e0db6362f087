"""LineReader: the lines of a batch's input, some at a time, however large the file is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Final

from hearthd.batch.batch import Fault
from hearthd.batch.line import Parsed, bad_line, parse_line

_SLICE_BYTES: Final = 4 << 20
"""Of lines that are skipped, before the caller has a say again."""
_PIECE_BYTES: Final = 1 << 16
_BOM: Final = b"\xef\xbb\xbf"


class LineReader:
    """Blocks; belongs to one thread at a time. Opens the file when it is first read; `close` it."""

    def __init__(self, path: Path, endpoint: str, *, most_line_bytes: int) -> None:
        self._path = path
        self._opened: IO[bytes] | None = None
        self._endpoint = endpoint
        self._most_line_bytes = most_line_bytes
        self._number = 0
        self._seen: dict[bytes, int] = {}  # digests of custom_ids, and their lines
        self.at_end = False

    def read(self, n: int, done: Collection[int]) -> list[Parsed]:
        """Up to n lines that are not done, fewer only at the end or after many that are; raises OSError."""
        file = self._opened = self._opened or self._path.open("rb")
        found: list[Parsed] = []
        n_bytes = 0
        while len(found) < n and n_bytes < _SLICE_BYTES:
            data = file.readline(self._most_line_bytes + 1)
            if not data:
                self.at_end = True
                break
            n_bytes += len(data)
            parsed = self._parse(data, file)
            if parsed is not None and parsed.number not in done:
                found.append(parsed)
        return found

    def close(self) -> None:
        """Let go of the file."""
        if self._opened is not None:
            self._opened.close()

    def _parse(self, data: bytes, file: IO[bytes]) -> Parsed | None:
        self._number += 1
        if len(data) > self._most_line_bytes and not data.endswith(b"\n"):
            _skip_rest(file)
            what = f"it has more than {self._most_line_bytes} bytes"
            return bad_line(self._number, "line_too_long", what)
        if self._number == 1:
            data = data.removeprefix(_BOM)
        if not data.strip():
            return None
        return self._unique(parse_line(data, self._number, self._endpoint))

    def _unique(self, parsed: Parsed) -> Parsed:
        """A custom_id belongs to the line that has it first."""
        if parsed.custom_id is None:
            return parsed
        name = parsed.custom_id.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(name, digest_size=16).digest()
        first = self._seen.setdefault(digest, parsed.number)
        if first == parsed.number:
            return parsed
        what = f"the custom_id {parsed.custom_id[:64]!r} stands on line {first} already"
        return bad_line(parsed.number, "duplicate_custom_id", what, param="custom_id")


def _skip_rest(file: IO[bytes]) -> None:
    while (piece := file.readline(_PIECE_BYTES)) and not piece.endswith(b"\n"):
        pass


def count_lines(path: Path) -> int:
    """Lines that are not blank; blocks, raises OSError."""
    n, in_line = 0, False
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            first, *others = piece.split(b"\n")
            in_line = in_line or bool(first.strip())
            for part in others:
                n += in_line
                in_line = bool(part.strip())
    return n + in_line


def fault_of_input(n_lines: int, most_lines: int) -> Fault | None:
    """Why an input is none for a batch. Pure."""
    if n_lines == 0:
        return Fault("empty_file", "the input file has no lines")
    if n_lines > most_lines:
        what = f"the input file has {n_lines} lines; a batch has at most {most_lines} (batch.lines)"
        return Fault("too_many_lines", what)
    return None
