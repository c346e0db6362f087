"""Check: the daemon's user can read the files of every configured model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hearthd.doctor.account import Barrier, barrier
from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient

NAME = "models"
_HOMES: Final = ("/home/", "/root/", "/run/user/")


def check(patient: Patient) -> Iterator[Finding]:
    """One finding for each file that cannot be read, or one that all can."""
    found = [finding for where, path in _paths(patient) for finding in _look(patient, where, path)]
    yield from found
    if not found:
        read = ", ".join(str(path) for _, path in _paths(patient)) or "the built-in model"
        yield Finding(NAME, "ok", f"{patient.account.name} can read {read}")


def model_path(path: str) -> Path | None:
    """The file or folder; None for models that are none, such as the built-in one."""
    return None if re.match(r"[a-z]+:", path) else Path(path)


def _paths(patient: Patient) -> list[tuple[str, Path]]:
    """Where the configuration names them, and the files themselves."""
    config = patient.config
    named: list[tuple[str, str]] = []
    for name, model in config.models.items():
        named.append((f"models.{name}", model.path))
        if model.draft is not None and model.draft not in config.models:
            named.append((f"models.{name}.draft", model.draft))
        named += [(f"models.{name}.lora", adapter.path) for adapter in model.lora]
    return [(where, path) for where, text in named if (path := model_path(text)) is not None]


def _look(patient: Patient, where: str, path: Path) -> Iterator[Finding]:
    if patient.is_service and str(path).startswith(_HOMES):
        yield Finding(
            NAME, "failed", f"{where}: the service sees no home folders, and {path} is in one",
            patient.command("mv", path, f"/srv/{path.name}") + f" and say so in {where}.path",
        )  # fmt: skip
        return
    try:
        blocked = barrier(path, patient.account, "r")
        files = sorted(path.iterdir()) if blocked is None and path.is_dir() else []
        for file in files:
            blocked = blocked or barrier(file, patient.account, "r")
    except FileNotFoundError as error:
        yield Finding(
            NAME, "failed", f"{where}: there is no {error.filename or path}",
            patient.command("find", "/", "-xdev", "-name", path.name),
        )  # fmt: skip
        return
    except OSError as error:
        yield Finding(
            NAME, "skipped", f"{where}: {error.filename}: {error.strerror}; look again as root", "sudo hearth doctor"
        )  # fmt: skip
        return
    if blocked is not None:
        yield _closed(patient, where, path, blocked)


def _closed(patient: Patient, where: str, path: Path, blocked: Barrier) -> Finding:
    kind = "folder" if blocked.is_folder else "file"
    rights = "o+x" if blocked.want == "x" else "o+rX" if blocked.is_folder else "o+r"
    return Finding(
        NAME, "failed",
        f"{where}: {patient.account.name} cannot read {path}: the {kind} {blocked.path} is closed to it",
        patient.command("chmod", rights, blocked.path),
    )  # fmt: skip
