"""Import directions at run time: what each program really loads, and what it must never load."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnxruntime", "llama_cpp", "numpy", "gguf", "llguidance")


def loaded_by(statement: str) -> set[str]:
    """Top-level names, and Hearth's packages, in sys.modules after a statement in a fresh interpreter."""
    code = (
        f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names = set(out.stdout.split())
    return {n.split(".")[0] for n in names} | {n for n in names if n.startswith("hearth")}


def test_hearthd_never_loads_a_native_library_or_a_backend() -> None:
    loaded = loaded_by("import hearthd.main, hearthd.life")
    assert not loaded & {*HEAVY, "hearth_backends", "hearth_tui", "hearthd.engine"}


def test_an_engine_never_loads_the_control_plane() -> None:
    loaded = loaded_by("import hearthd.engine.worker, hearthd.engine.probe")
    assert not loaded & {
        "aiohttp",
        "zeroconf",
        "sqlite_utils",
        "hearthd.api",
        "hearthd.serving",
        "hearthd.app",
        "hearthd.life",
    }
    assert not loaded & {"torch", "onnxruntime", "llama_cpp", "llguidance"}


def test_the_terminal_loads_neither_the_daemon_nor_a_backend() -> None:
    loaded = loaded_by("import hearth_tui.cli")
    assert not loaded & {*HEAVY, "hearthd", "hearth_backends", "aiohttp"}


def test_only_screens_load_what_draws_them() -> None:
    modules = ("cli", "client", "commands.status", "commands.ask", "commands.top", "commands.chat")
    loaded = loaded_by("import " + ", ".join(f"hearth_tui.{module}" for module in modules))
    assert not loaded & {"textual", "hearth_tui.top.app", "hearth_tui.talk.app"}


@pytest.mark.parametrize("module", ["hearth_backends.base", "hearth_backends.registry"])
def test_the_contracts_load_no_backend(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert not loaded & {"torch", "onnxruntime", "llama_cpp", "gguf", "hearthd", "hearth_tui"}
    backends = ("cuda", "gguf", "onnx", "sim")
    assert not loaded & {f"hearth_backends.{name}" for name in backends}
