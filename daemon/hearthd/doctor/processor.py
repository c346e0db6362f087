"""Check: the processor has the instructions that make models fast."""

from __future__ import annotations

from collections.abc import Iterator

from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient
from hearthd.hardware.tree import parse_fields

NAME = "processor"


def check(patient: Patient) -> Iterator[Finding]:
    """AVX2 on x86; others have what they need."""
    fields = parse_fields(patient.tree.lines("proc/cpuinfo"))
    flags = fields.get("flags", "").split()
    if not flags:
        yield Finding(NAME, "ok", "not an x86 processor")
    elif "avx2" in flags:
        yield Finding(NAME, "ok", "it has AVX2" + (" and AVX-512" if "avx512f" in flags else ""))
    elif "hypervisor" in flags:
        yield Finding(
            NAME, "warning", "this virtual machine hides AVX2: models run several times slower than they could",
            "virt-xml NAME --edit --cpu host-passthrough  # on its host; on Proxmox: qm set ID --cpu host",
        )  # fmt: skip
    else:
        yield Finding(
            NAME, "warning", "this processor has no AVX2: models run slowly, small ones best"
        )
