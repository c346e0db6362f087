"""Check: somebody but root may look after the box, and it is not open to everybody."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from hearthd.access.peer import OPERATORS
from hearthd.access.stored import FILE_NAME, count
from hearthd.config import split_address
from hearthd.config.parse import is_loopback
from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient

NAME = "access"


def check(patient: Patient) -> Iterator[Finding]:
    """Keys where others reach the box; the group of its operators."""
    config = patient.config
    host, _ = split_address(config.listen)
    n_keys = len(config.keys) + count(patient.state)
    if config.insecure and not is_loopback(host):
        yield Finding(
            NAME, "warning", f"insecure = true: whoever reaches {config.listen} uses the box"
        )
    elif not is_loopback(host) and not n_keys:
        yield Finding(
            NAME, "failed", f"{config.listen} is open to others, and there is no key: hearthd does not start",
            _first_key(patient),
        )  # fmt: skip
    elif not is_loopback(host) and not config.tls.on:
        yield Finding(
            NAME,
            "warning",
            f"keys cross the network in clear text on {config.listen}: set tls.enabled",
        )
    else:
        yield Finding(NAME, "ok", f"{config.listen}, {n_keys} keys")
    yield from _kept_keys(patient)
    groups = {line.split(":")[0] for line in patient.tree.lines("etc/group")}
    if patient.is_service and OPERATORS not in groups:
        yield Finding(
            NAME, "failed", f"there is no group {OPERATORS}", patient.command("systemd-sysusers")
        )


def _first_key(patient: Patient) -> str:
    """Back to loopback, where `hearth keys add` needs no key."""
    if patient.config_file is None:
        return "hearthd --listen 127.0.0.1:4327  # and meanwhile: hearth keys add NAME"
    back = patient.command("sed", "-i", "s/^listen *=/#&/", patient.config_file)
    return f"{back} && {patient.restart()} && {patient.command('hearth', 'keys', 'add', 'NAME')}"


def _kept_keys(patient: Patient) -> Iterator[Finding]:
    """What `hearth keys add` has kept can be read."""
    path = patient.state / FILE_NAME
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
            file.execute("SELECT count(*) FROM keys").fetchone()
    except sqlite3.DatabaseError as error:
        set_aside = patient.command("mv", path, f"{path}.damaged")
        yield Finding(
            NAME,
            "failed",
            f"the keys in {path} cannot be read ({error}): they open nothing",
            f"{set_aside} && {patient.restart()}",
        )
