"""Check: the configured models fit into the memory that they may have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hearthd.doctor.finding import Finding
from hearthd.doctor.models import model_path
from hearthd.doctor.patient import Patient
from hearthd.hardware.memory import HostMemory, less_reserve, memory_of, model_budget_bytes
from hearthd.placement.ledger import format_bytes

NAME = "memory"
_WEIGHTS: Final = {".gguf", ".safetensors", ".onnx", ".onnx_data"}


def check(patient: Patient) -> Iterator[Finding]:
    """Weights of all models on the host, against the budget; caches come on top of them."""
    sizes = {name: size for name in patient.config.models if (size := _size(patient, name))}
    need = sum(sizes.values())
    memory, limits = memory_of(patient.tree), patient.config.memory
    if not memory.usable_bytes:
        yield Finding(NAME, "skipped", "the memory of this machine cannot be told")
        return
    most = most_bytes(memory, limits.budget, limits.reserve)
    told = f"{format_bytes(need)} of weights for {format_bytes(most)} of memory"
    if need > most:
        yield _too_much(patient, sizes, told, memory)
        return
    free = model_budget_bytes(memory, budget=limits.budget, reserve=limits.reserve)
    if need > free and patient.daemon_pid() is None:
        yield Finding(
            NAME, "warning", f"{told} would fit, but others have taken all but {format_bytes(free)} of it",
            "ps -eo rss,pid,args --sort=-rss | head",
        )  # fmt: skip
        return
    yield Finding(NAME, "ok", told)


def most_bytes(memory: HostMemory, budget: int | None, reserve: int | None) -> int:
    """What models may have on a machine that does nothing else; pure."""
    usable = memory.usable_bytes or 0
    return min(usable, budget) if budget is not None else less_reserve(usable, reserve)


def _too_much(patient: Patient, sizes: dict[str, int], told: str, memory: HostMemory) -> Finding:
    limits = patient.config.memory
    if limits.budget is not None and sum(sizes.values()) <= less_reserve(memory.usable_bytes or 0):
        file = patient.config_file or Path("/etc/hearthd/hearthd.toml")
        return Finding(
            NAME, "failed", f"{told}: memory.budget is too small",
            patient.command("sed", "-i", "/^budget *=/d", file) + f" && {patient.restart()}",
        )  # fmt: skip
    largest = max(sizes, key=lambda name: sizes[name])
    path = model_path(patient.config.models[largest].path)
    return Finding(
        NAME, "failed", f"{told}; the largest is {largest} with {format_bytes(sizes[largest])}",
        f"hearthd quantize {path} --to int4 --out {path}-int4  # and say so in models.{largest}.path",
    )  # fmt: skip


def _size(patient: Patient, name: str) -> int:
    """Bytes of a model's weights where it is for the host; 0 where that is not so, or cannot be told."""
    model = patient.config.models[name]
    path = model_path(model.path)
    if path is None or not all(device.startswith("cpu") for device in model.devices or ()):
        return 0
    try:
        if path.is_dir():
            return sum(f.stat().st_size for f in path.iterdir() if f.suffix in _WEIGHTS)
        return path.stat().st_size
    except OSError:
        return 0  # the check of models tells that
