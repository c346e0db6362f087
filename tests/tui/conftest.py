"""A box to talk to, and an environment that does not say where it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_box import FakeBox, serving


@pytest.fixture(autouse=True)
def _no_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HEARTH_", "XDG_")) or name == "COLUMNS":
            monkeypatch.delenv(name)


@pytest.fixture
def box() -> Iterator[FakeBox]:
    # Not tmp_path: a socket's path has 107 bytes at most.
    with (
        tempfile.TemporaryDirectory(prefix="hearth") as folder,
        serving(FakeBox(Path(folder) / "box.sock")) as running,
    ):
        yield running
