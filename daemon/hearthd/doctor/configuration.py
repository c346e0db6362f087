"""Check: the configuration can be used."""

from __future__ import annotations

from collections.abc import Iterator

from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient

NAME = "configuration"


def check(patient: Patient) -> Iterator[Finding]:
    """What `hearthd config check` would say."""
    if patient.config_error is None:
        where = patient.config_file or "the defaults"
        yield Finding(NAME, "ok", f"{where}; models: {', '.join(patient.config.models)}")
        return
    fix = None
    if patient.config_file is not None:
        fix = f"{patient.command('editor', patient.config_file)} && hearthd config check"
    yield Finding(NAME, "failed", patient.config_error, fix)
