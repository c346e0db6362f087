"""Models that nobody here wrote, where they are at hand; a test that wants one is skipped where it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = "HEARTH_SHARED_MODELS"
REPOSITORY = Path(__file__).resolve().parents[2]


def shared_model(name: str) -> Path:
    """The file, in the folder that the environment names or beside the checkout."""
    path = Path(os.environ.get(FOLDER, REPOSITORY.parent / "shared" / "models")) / name
    if not path.is_file():
        pytest.skip(f"{name} is not at hand; set {FOLDER} to the folder that holds it")
    return path
