"""Compiles kernels for GPUs that are not here, and reads what came out: registers, spills, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel for one architecture."""

    registers: int
    stack_bytes: int  # what spilled, if anything
    local_bytes: int
    shared_bytes: int
    ptx: str

    def count(self, instruction: str) -> int:
        """How often an instruction stands in it."""
        return self.ptx.count(instruction)


def compile_for(
    arch: int,
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    *,
    num_warps: int = 4,
    num_stages: int = 3,
    odd: frozenset[str] = frozenset(),
) -> Compiled:
    """`types` of pointers and floats, the rest are integers; all are multiples of 16 but `odd` and what a kernel excludes."""
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in names
    }
    excluded = {*odd, *(p.name for p in kernel.params if _is_excluded(p))}
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if name not in constants and name not in excluded and signature[name] != "fp32"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(constants), attrs=attrs)
    made = triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    registers, stack, local = _usage(made.asm["cubin"])
    return Compiled(registers, stack, local, made.metadata.shared, made.asm["ptx"])


def _is_excluded(parameter: Any) -> bool:
    return bool(parameter.do_not_specialize or parameter.do_not_specialize_on_alignment)


def _usage(cubin: bytes) -> tuple[int, int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run(
            [_CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", told)
    assert found is not None, told
    registers, stack, local = found.groups()
    return int(registers), int(stack), int(local)
