"""What a child that tests or measures one device with one backend prints."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hearth_backends.errors import BackendError, Unsupported


def report(word: str, backend: str, device: str, *, threads: int, folder: str | None) -> bytes:
    """JSON: what was found under `word`, or `unsupported` or `error` in words."""
    try:
        found: object
        if word == "selftest":
            from hearthd.engine.checkup.selftest import self_test

            found = self_test(backend, device, threads=threads)
        else:
            from hearthd.engine.checkup.calibration import calibrate

            where = None if folder is None else Path(folder)
            found = calibrate(backend, device, threads=threads, folder=where)
    except Unsupported as error:
        return msgspec.json.encode({"unsupported": str(error)})
    except BackendError as error:
        return msgspec.json.encode({"error": str(error), "error_code": error.code})
    return msgspec.json.encode({word: found})
