"""Check: the API's port is free, or the daemon's; and mDNS can be shared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hearthd.config import split_address
from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient
from hearthd.doctor.sockets import Holder, holder_of

MDNS_PORT: Final = 5353
_AVAHI: Final = "etc/avahi/avahi-daemon.conf"
_ALONE: Final = re.compile(r"^\s*disallow-other-stacks\s*=\s*yes", re.MULTILINE)


def check(patient: Patient) -> Iterator[Finding]:
    """Both."""
    yield _port(patient)
    yield _mdns(patient)


def _port(patient: Patient) -> Finding:
    listen = patient.config.listen
    host, port = split_address(listen)
    holder = holder_of(patient.tree, "tcp", port, host) if port else None
    if holder is None:
        return Finding("port", "ok", f"{listen} is free")
    daemon = patient.daemon_pid()
    if daemon is not None and holder.pid in (daemon, None):
        return Finding("port", "ok", f"hearthd (pid {daemon}) listens on {listen}")
    if holder.unit == "hearthd.service":
        return Finding("port", "ok", f"{holder} listens on {listen}")
    return Finding("port", "failed", f"{holder} listens on {listen}", _ended(patient, holder, port))


def _ended(patient: Patient, holder: Holder, port: int) -> str:
    if holder.unit is not None:
        return patient.command("systemctl", "disable", "--now", holder.unit)
    if holder.pid is not None:
        return patient.command("kill", str(holder.pid))
    return f"sudo ss -Hltnp 'sport = :{port}'"


def _mdns(patient: Patient) -> Finding:
    holder = holder_of(patient.tree, "udp", MDNS_PORT)
    if holder is None:
        return Finding("mdns", "ok", f"UDP port {MDNS_PORT} is free")
    if _ALONE.search(patient.tree.text(_AVAHI) or ""):
        sed = patient.command(
            "sed", "-i", "s/^\\s*disallow-other-stacks=yes/disallow-other-stacks=no/", f"/{_AVAHI}"
        )
        return Finding(
            "mdns", "failed", f"{holder} keeps UDP port {MDNS_PORT} to itself (disallow-other-stacks=yes)",
            f"{sed} && {patient.command('systemctl', 'restart', 'avahi-daemon')}",
        )  # fmt: skip
    return Finding("mdns", "ok", f"{holder} has UDP port {MDNS_PORT}, and shares it")
