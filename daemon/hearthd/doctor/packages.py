"""Check: there is a backend to compute with, and each model's own where it names one."""

from __future__ import annotations

from collections.abc import Iterator

from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient
from hearthd.hardware.backend_view import BackendsSilent, BackendView

NAME = "backends"


def check(patient: Patient) -> Iterator[Finding]:
    """Asks a child process, as the daemon does."""
    try:
        view = patient.backends()
    except BackendsSilent as silent:
        yield Finding(NAME, "failed", silent.reason, "python3 -P -m hearthd.engine --probe")
        return
    here = [name for name, devices in view.backends.items() if devices]
    if not here:
        told = "; ".join(view.absent.values()) or "none finds a device"
        yield Finding(
            NAME, "failed", f"no backend can be used: {told}", _remedy(view, *view.absent)
        )
        return
    missing = [*_missing(patient, view)]
    yield from missing
    if not missing:
        yield Finding(NAME, "ok", f"{', '.join(here)} can be used")


def _missing(patient: Patient, view: BackendView) -> Iterator[Finding]:
    for name, model in patient.config.models.items():
        wanted = {model.backend, *(stage.backend for stage in model.stages)} - {None}
        for backend in sorted(filter(None, wanted)):
            if backend in view.absent:
                cause = f"models.{name} wants the backend {backend}: {view.absent[backend]}"
                yield Finding(NAME, "failed", cause, _remedy(view, backend))


def _remedy(view: BackendView, *backends: str) -> str | None:
    """The command in a backend's own words, which it ends with."""
    for backend in backends:
        _, found, command = view.absent[backend].partition("pip install")
        if found:
            return f"{found}{command}"
    return None
