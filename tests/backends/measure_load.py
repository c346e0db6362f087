"""Loads a model in a process of its own and prints, as JSON, the estimate and what it took in bytes."""

from __future__ import annotations

import json
import sys

import numpy as np
import psutil

from hearth_backends.base import Batch, Bytes, Lease, StageSpec
from hearth_backends.gguf.backend import GgufBackend
from hearth_backends.gguf.vocab import open_gguf
from hearth_backends.kv.contract import Placement


def main() -> None:
    model = open_gguf(sys.argv[1])
    spec = StageSpec(
        first=0, last=model.spec.n_layers, embed=True, head=True, n_seq=4, n_ctx=4096, n_rows=256,
        kv_tokens=8192, kv_dtype="f16", weight_kind="file", threads=1, state_bytes=0,
    )  # fmt: skip
    backend = GgufBackend()
    device = backend.devices()[0]
    need = backend.estimate(model.spec, spec, device)
    before = psutil.Process().memory_info().rss
    lease = Lease(1, device.name, Bytes(0, 0, 0))
    stage = backend.load(model.spec, spec, (device,), (lease,), lambda _fraction: None)
    for i in range(3):  # key-value memory was zeroed at load, so it is there already
        n = spec.n_rows
        pos = np.arange(i * n, (i + 1) * n, dtype=np.int32)
        zeros = np.zeros(n, np.int32)
        batch = Batch(zeros, zeros, pos, np.zeros(n, np.bool_), (), (Placement(0),), None)
        stage.submit(batch, None)
    print(json.dumps([need.total, psutil.Process().memory_info().rss - before]))
    stage.close()


if __name__ == "__main__":
    main()
