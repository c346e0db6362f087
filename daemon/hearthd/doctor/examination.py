"""Examination: every check, one after the other, whatever one of them runs into."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from hearthd.config import Config, Flags, load
from hearthd.config.paths import default_paths
from hearthd.doctor import (
    certificate,
    configuration,
    confinement,
    devices,
    memory,
    models,
    operators,
    packages,
    ports,
    processor,
    state,
)
from hearthd.doctor.account import account_of
from hearthd.doctor.finding import Finding, Report
from hearthd.doctor.patient import Patient
from hearthd.errors import ConfigError
from hearthd.hardware.tree import Tree

Check: TypeAlias = Callable[[Patient], Iterator[Finding]]

CHECKS: Final[Mapping[str, Check]] = {
    "configuration": configuration.check,
    "access": operators.check,
    "state": state.check,
    "models": models.check,
    "memory": memory.check,
    "port": ports.check,
    "devices": devices.check,
    "processor": processor.check,
    "tls": certificate.check,
    "confinement": confinement.check,
    "backends": packages.check,
}

_MARKS: Final = {"ok": "ok", "warning": "warning", "failed": "FAILED", "skipped": "skipped"}


def examine(patient: Patient, hear: Callable[[Finding], None]) -> Report:
    """All findings; `hear` is called with each as it comes. A check that fails itself is one of them."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            for finding in check(patient):
                hear(finding)
                findings.append(finding)
        except Exception as error:  # a broken box must not hide what the others find
            finding = Finding(
                name, "skipped", f"the check itself failed: {type(error).__name__}: {error}"
            )
            hear(finding)
            findings.append(finding)
    return Report(all(finding.outcome != "failed" for finding in findings), findings)


def admit(flags: Flags, environ: Mapping[str, str], uid: int, gids: frozenset[int]) -> Patient:
    """The box that these flags mean; a configuration that cannot be used is its first complaint."""
    defaults = default_paths(environ, uid)
    file = Path(flags.config) if flags.config else defaults.config
    trouble = None
    try:
        config = load(flags, environ, uid).config
    except ConfigError as error:
        trouble = error.message
        config = Config(
            socket=flags.socket or str(defaults.socket), state=flags.state or str(defaults.state)
        )
    tree = Tree(Path(config.hardware.root))
    return Patient(
        config,
        account_of(tree, uid, gids),
        config_error=trouble,
        config_file=file if file.is_file() else None,
        is_root=uid == 0,
        tree=tree,
    )


def text_of(finding: Finding) -> str:
    """One line, and one more for what mends it; pure."""
    text = f"{_MARKS[finding.outcome]:8} {finding.check:14} {finding.cause}\n"
    return text + (f"{'':8} {'fix':14} {finding.fix}\n" if finding.fix else "")


def run(flags: Flags, *, as_json: bool) -> bool:
    """Examine this machine and print what was found; returns whether nothing has failed."""

    def hear(finding: Finding) -> None:
        if not as_json:
            sys.stdout.write(text_of(finding))
            sys.stdout.flush()

    patient = admit(flags, os.environ, os.getuid(), frozenset({os.getegid(), *os.getgroups()}))
    report = examine(patient, hear)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    return report.passed
