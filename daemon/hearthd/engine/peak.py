"""Peak: the most memory that this process has held."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int | None:
    """Resident bytes at their highest; None where the system does not say."""
    try:
        text = _STATUS.read_text()
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("VmHWM:")), "")
    words = line.split()
    return int(words[1]) * 1024 if len(words) == 3 else None
