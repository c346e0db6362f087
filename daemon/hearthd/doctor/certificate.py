"""Check: the clock is right, and the certificate of TLS can be used by it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from hearthd.access.certificate import CertificateFacts, PairFiles, load_context, read_facts
from hearthd.access.tls import files_of
from hearthd.doctor.account import barrier
from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient
from hearthd.errors import ConfigError

CLOCK, TLS = "clock", "tls"
MADE: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""No clock that is right shows less."""
_SOON_SECONDS: Final = 14 * 86400


def check(patient: Patient) -> Iterator[Finding]:
    """Both."""
    yield _clock(patient)
    if not patient.config.tls.on:
        yield Finding(TLS, "ok", "TLS is off")
        return
    files = files_of(patient.config.tls, patient.state)
    if patient.config.tls.certificate is None and not files.certificate.exists():
        yield Finding(TLS, "ok", "a certificate is made at the first start")
        return
    yield _certificate(patient, files)


def _clock(patient: Patient) -> Finding:
    now = patient.unix_now()
    sync = patient.command("timedatectl", "set-ntp", "true")
    if now < MADE:
        return Finding(
            CLOCK, "failed", f"the clock shows {_day(now)}: no certificate is valid then", sync
        )
    follows = patient.tree.exists("run/systemd/timesync")
    if follows and not patient.tree.exists("run/systemd/timesync/synchronized"):
        return Finding(CLOCK, "warning", "the clock is not set by any time server yet", sync)
    return Finding(CLOCK, "ok", f"{_day(now)}")


def _certificate(patient: Patient, files: PairFiles) -> Finding:
    try:
        for path in (files.certificate, files.key):
            blocked = barrier(path, patient.account, "r")
            if blocked is not None:
                rights = "o+x" if blocked.want == "x" else "u+r"
                mend = ("chmod", rights) if blocked.want == "x" else ("chown", patient.account.name)
                return Finding(
                    TLS, "failed", f"{patient.account.name} cannot read {path}", patient.command(*mend, blocked.path)
                )  # fmt: skip
        load_context(files)
        facts = read_facts(files.certificate)
    except OSError as error:
        return Finding(
            TLS, "failed", f"{error.filename}: {error.strerror}", patient.command("ls", "-l", files.certificate, files.key)
        )  # fmt: skip
    except ConfigError as error:
        return Finding(TLS, "failed", error.message, _renewed(patient, files))
    return _dates(patient, files, facts)


def _dates(patient: Patient, files: PairFiles, facts: CertificateFacts) -> Finding:
    now = patient.unix_now()
    if facts.valid_from > now:
        return Finding(
            TLS, "failed",
            f"{files.certificate} is valid from {_day(facts.valid_from)}, and the clock shows {_day(now)}",
            patient.command("timedatectl", "set-ntp", "true"),
        )  # fmt: skip
    if facts.valid_until < now:
        cause = f"{files.certificate} has expired on {_day(facts.valid_until)}"
        return Finding(TLS, "failed", cause, _renewed(patient, files))
    if facts.valid_until < now + _SOON_SECONDS:
        cause = f"{files.certificate} expires on {_day(facts.valid_until)}"
        return Finding(TLS, "warning", cause, _renewed(patient, files))
    return Finding(TLS, "ok", f"{facts.fingerprint}, valid until {_day(facts.valid_until)}")


def _renewed(patient: Patient, files: PairFiles) -> str:
    if patient.config.tls.certificate is None:
        removed = patient.command("rm", "-f", files.certificate, files.key)
        return f"{removed} && {patient.restart()}"
    if "letsencrypt" in str(files.certificate):
        return patient.command("certbot", "renew")
    return f"openssl verify {files.certificate}  # and put a good pair in its place: hearthd takes it at once"


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
