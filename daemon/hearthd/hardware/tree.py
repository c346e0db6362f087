"""Tree: the files of /proc and /sys below a root that a test, or a container, puts elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tree:
    """Reads small files; what is not there, or cannot be read, is None or empty. Blocks."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        """Where a file is, by its usual name without the first slash."""
        return self.root / name

    def text(self, name: str) -> str | None:
        """What a file says, without the white space around it."""
        try:
            return self.path(name).read_text(errors="replace").strip().strip("\0")
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        """The number in a file, decimal or 0x…; None for any other text."""
        return parse_number(self.text(name))

    def lines(self, name: str) -> list[str]:
        """The lines of a file."""
        return (self.text(name) or "").splitlines()

    def names(self, name: str) -> list[str]:
        """What is in a folder, sorted."""
        try:
            return sorted(entry.name for entry in self.path(name).iterdir())
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        """Whether something is there."""
        return self.path(name).exists()

    def target(self, name: str) -> str | None:
        """The last name of what a link leads to, such as a driver's; None where there is no link."""
        try:
            return self.path(name).readlink().name
        except OSError:
            return None


def parse_number(text: str | None) -> int | None:
    """An integer in decimal or 0x…; None for what is none."""
    try:
        return int(text, 0) if text else None
    except ValueError:
        return None


def parse_list(text: str | None) -> frozenset[int]:
    """The kernel's lists: "0-3,8,10-11"; empty for what is none."""
    numbers: set[int] = set()
    for part in (text or "").strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def parse_fields(lines: list[str]) -> dict[str, str]:
    """Lines of "key: value" (meminfo, status); the first of a key counts."""
    fields: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields
