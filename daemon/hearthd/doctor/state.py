"""Check: the state directory is there for the daemon to write, and its disk has room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hearthd.doctor.account import barrier
from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient
from hearthd.placement.ledger import format_bytes

LEAST_BYTES: Final = 256 << 20
LOW_BYTES: Final = 1 << 30
_LARGE_BYTES: Final = 64 << 20


def check(patient: Patient) -> Iterator[Finding]:
    """Both, or why one of them cannot be told."""
    state = patient.state
    there = next(path for path in (state, *state.parents) if path.exists())
    try:
        yield _writable(patient, there)
        yield _room(patient, there)
    except OSError as error:
        yield Finding(
            "state", "skipped", f"{there}: {error.strerror or error}; look again as root", "sudo hearth doctor"
        )  # fmt: skip


def _writable(patient: Patient, there: Path) -> Finding:
    state, account = patient.state, patient.account
    disk = patient.disk(there)
    if disk.read_only:
        return Finding(
            "state", "failed", f"the file system of {there} is read-only",
            patient.command("mount", "-o", "remount,rw", _mount_of(patient, there)),
        )  # fmt: skip
    if there != state:
        if patient.is_service or barrier(there, account, "wx") is None:
            return Finding("state", "ok", f"{state} is made at the first start")
        return Finding(
            "state", "failed", f"{state} is not there, and {account.name} cannot make it in {there}",
            patient.command("install", "-d", "-o", account.name, "-m", "750", state),
        )  # fmt: skip
    own = patient.command("chown", "-R", f"{account.name}:", state)
    blocked = barrier(state, account, "rwx")
    if blocked is not None and blocked.path == state:
        return Finding("state", "failed", f"{account.name} cannot write {state}", own)
    if blocked is not None:
        return Finding(
            "state", "failed", f"{account.name} does not get through {blocked.path} to {state}",
            patient.command("chmod", "o+x", blocked.path),
        )  # fmt: skip
    for path in sorted(state.iterdir()):
        if not account.may(path.lstat(), "rw"):
            return Finding(
                "state", "failed", f"{account.name} cannot write {path}: has hearthd run as another user?", own
            )  # fmt: skip
    return Finding("state", "ok", f"{account.name} can write {state}")


def _room(patient: Patient, there: Path) -> Finding:
    disk = patient.disk(there)
    free = format_bytes(disk.free_bytes)
    if disk.free_bytes >= LOW_BYTES:
        return Finding("disk", "ok", f"{free} free for {patient.state}")
    cause = f"only {free} of {format_bytes(disk.total_bytes)} are free for {patient.state}"
    outcome = "failed" if disk.free_bytes < LEAST_BYTES else "warning"
    return Finding(
        "disk", "failed" if outcome == "failed" else "warning", cause, _room_made(patient)
    )


def _room_made(patient: Patient) -> str:
    """What gives most room back: the cache of answers where it is large, else whatever is found to be."""
    cache = patient.state / "cache.db"
    if cache.exists() and cache.stat().st_size >= _LARGE_BYTES:
        return "hearth cache drop --all"
    return f"{patient.command('du', '-xhd2', _mount_of(patient, patient.state))} | sort -h | tail"


def _mount_of(patient: Patient, path: Path) -> str:
    """Where the file system of a path is mounted, as the kernel lists them."""
    mounts = {
        fields[1].replace("\\040", " ")
        for line in patient.tree.lines("proc/mounts")
        if len(fields := line.split()) > 1
    }
    for folder in (path, *path.parents):
        if str(folder) in mounts:
            return str(folder)
    return "/"
