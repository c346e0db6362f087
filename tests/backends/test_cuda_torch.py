"""Of torch the paged engine uses what the installed release has; run on the oldest that it allows, this proves that it may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch

from hearth_backends.cuda import stage

SOURCES = sorted(Path(stage.__file__).parent.rglob("*.py"))


def names_in(path: Path) -> Iterator[str]:
    """What stands in a file as torch.a.b, and as dist.a for torch.distributed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith(("torch.", "dist.")) and name.replace(".", "").isidentifier():
                yield name.replace("dist.", "torch.distributed.", 1) if name[0] == "d" else name


def has(name: str) -> bool:
    found: object = torch
    for part in name.split(".")[1:]:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_every_name_of_torch_is_there() -> None:
    import_module("torch.distributed")
    used = {name for path in SOURCES for name in names_in(path)}
    assert {"torch._scaled_mm", "torch.accelerator.empty_cache", "torch.cuda.CUDAGraph"} <= used
    assert not [name for name in sorted(used) if not has(name)]


def test_only_recorded_steps_and_their_questions_are_of_one_maker() -> None:
    """All else asks `torch.accelerator`, whoever made the device."""
    of_one = {
        path.stem: {name for name in names_in(path) if name.startswith("torch.cuda.")}
        for path in SOURCES
    }
    assert {stem for stem, names in of_one.items() if names} == {"device", "graphs"}
    assert of_one["device"] == {"torch.cuda.get_device_capability"}
