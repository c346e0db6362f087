"""Account: the user that the daemon runs as, and what the file system lets that user do."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hearthd.hardware.tree import Tree

SERVICE: Final = "hearth"
"""The user of the system's service."""

_BITS: Final = {"r": 4, "w": 2, "x": 1}


@dataclass(frozen=True, slots=True)
class Account:
    """A user, and the groups it is in."""

    name: str
    uid: int
    gids: frozenset[int]

    def may(self, found: os.stat_result, want: str) -> bool:
        """Whether the permissions of a file let it do all of "rwx"; pure. Access control lists are not seen."""
        if self.uid == 0:
            return True
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.gids else 0
        bits = found.st_mode >> shift
        return all(bits & _BITS[letter] for letter in want)


@dataclass(frozen=True, slots=True)
class Barrier:
    """What keeps an account from a file: the file itself, or a folder on the way."""

    path: Path
    want: str
    is_folder: bool


def account_of(tree: Tree, uid: int, gids: frozenset[int]) -> Account:
    """Whom the daemon runs as: asked by root, the service's user where there is one; else who asks."""
    users = {
        line.split(":")[0]: line.split(":") for line in tree.lines("etc/passwd") if ":" in line
    }
    service = users.get(SERVICE)
    if uid == 0 and service is not None and len(service) > 3 and service[2].isdecimal():
        return Account(SERVICE, int(service[2]), _groups_of(tree, SERVICE, int(service[3])))
    name = next((n for n, fields in users.items() if fields[2:3] == [str(uid)]), str(uid))
    return Account(name, uid, gids)


def group_name(tree: Tree, gid: int) -> str:
    """Its name, or its number where it has none."""
    for line in tree.lines("etc/group"):
        fields = line.split(":")
        if fields[2:3] == [str(gid)]:
            return fields[0]
    return str(gid)


def barrier(path: Path, account: Account, want: str) -> Barrier | None:
    """The first thing on the way to a path that stops an account; None: nothing does. Raises OSError. Blocks."""
    for folder in reversed(path.parents):
        if not account.may(folder.stat(), "x"):
            return Barrier(folder, "x", is_folder=True)
    found = path.stat()
    if not account.may(found, want):
        return Barrier(path, want, stat.S_ISDIR(found.st_mode))
    return None


def _groups_of(tree: Tree, name: str, gid: int) -> frozenset[int]:
    gids = {gid}
    for line in tree.lines("etc/group"):
        fields = line.split(":")
        if len(fields) > 3 and name in fields[3].split(",") and fields[2].isdecimal():
            gids.add(int(fields[2]))
    return frozenset(gids)
