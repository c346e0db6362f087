"""Check: SELinux and AppArmor have not denied the daemon anything lately."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient

NAME = "confinement"
_LOGS: Final = ("var/log/audit/audit.log", "var/log/kern.log", "var/log/syslog")
_TAIL_BYTES: Final = 1 << 20
_SELINUX: Final = re.compile(
    r'avc:\s+denied\s+\{ ([^}]+) \}.*?comm="(hearth[^"]*)"(?:.*?(?:path|name)="([^"]*)")?'
)
_APPARMOR: Final = re.compile(
    r'apparmor="DENIED".*?profile="([^"]*hearth[^"]*)"(?:.*?name="([^"]*)")?'
)


def check(patient: Patient) -> Iterator[Finding]:
    """The last denial of each, or none."""
    tree = patient.tree
    active = [
        name
        for name, on in (
            ("SELinux", tree.text("sys/fs/selinux/enforce") == "1"),
            ("AppArmor", tree.text("sys/module/apparmor/parameters/enabled") == "Y"),
        )
        if on
    ]
    if not active:
        yield Finding(NAME, "ok", "neither SELinux nor AppArmor is in force")
        return
    text = "\n".join(_tail(patient, name) for name in _LOGS)
    found = [*_selinux(patient, text), *_apparmor(patient, text)]
    yield from found
    if not found:
        yield Finding(
            NAME, "ok", f"{' and '.join(active)} denied nothing, as far as the logs can be read"
        )


def _selinux(patient: Patient, text: str) -> Iterator[Finding]:
    denials = _SELINUX.findall(text)
    if denials:
        what, who, where = denials[-1]
        search = patient.command("ausearch", "-m", "avc", "-c", who)
        module = patient.command("semodule", "-i", "hearthd-local.pp")
        yield Finding(
            NAME, "failed", f"SELinux denies {who} to {what} {where}".rstrip(),
            f"{search} | audit2allow -M hearthd-local && {module}",
        )  # fmt: skip


def _apparmor(patient: Patient, text: str) -> Iterator[Finding]:
    denials = _APPARMOR.findall(text)
    if denials:
        profile, where = denials[-1]
        yield Finding(
            NAME, "failed", f"AppArmor's profile {profile} denies {where or 'something'}",
            patient.command("aa-logprof"),
        )  # fmt: skip


def _tail(patient: Patient, name: str) -> str:
    try:
        with patient.tree.path(name).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
