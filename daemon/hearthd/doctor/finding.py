"""Finding: what one check has found."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Outcome: TypeAlias = Literal["ok", "warning", "failed", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """`cause` fits one line; `fix` is a command for a shell, None where no command helps."""

    check: str
    outcome: Outcome
    cause: str
    fix: str | None = None


class Report(msgspec.Struct, frozen=True):
    """`passed`: nothing has failed."""

    passed: bool
    findings: list[Finding]
