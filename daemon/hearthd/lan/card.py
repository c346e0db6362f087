"""Card: what a box says of itself by DNS-SD, in the sizes that RFC 6763 allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

SERVICE_TYPES: Final = ("_hearth._tcp.local.", "_openai._tcp.local.", "_http._tcp.local.")
"""Of one box: its own, that of programs which look for OpenAI's API, and that of browsers."""

MOST_LABEL_BYTES: Final = 63
MOST_TEXT_BYTES: Final = 255
_PATHS: Final = {"_openai._tcp.local.": "/v1", "_http._tcp.local.": "/"}
_API: Final = "/v1"


@dataclass(frozen=True, slots=True)
class Card:
    """One box, as those on its network are told of it."""

    name: str  # as people call it
    box_id: str
    port: int
    version: str
    models: tuple[str, ...]  # that answer now
    needs_key: bool
    fingerprint: str | None  # of the certificate; None: TLS is off

    @property
    def host(self) -> str:
        """A name that no other box has, since nobody probes for those; with the final dot."""
        return f"hearth-{self.box_id}.local."

    def texts(self, service_type: str) -> dict[str, str]:
        """The TXT record: keys and values that fit into a string of 255 bytes each."""
        texts = {
            "txtvers": "1",
            "id": self.box_id,
            "version": self.version,
            "auth": "key" if self.needs_key else "none",
            "tls": "no" if self.fingerprint is None else "yes",
            "api": _API,
            "path": _PATHS.get(service_type, "/"),
            "n_models": str(len(self.models)),
            "models": ",".join(_fitting(self.models, MOST_TEXT_BYTES - len("models="))),
        }
        if self.fingerprint is not None:
            texts["fp"] = self.fingerprint
        return texts


def instance_label(name: str, n: int = 1) -> str:
    """A service's name of at most 63 bytes: the box's, and from the second of that name on its number."""
    suffix = "" if n == 1 else f" ({n})"
    plain = " ".join("".join(c if c.isprintable() else " " for c in name).split()) or "hearth"
    room = MOST_LABEL_BYTES - len(suffix.encode())
    return plain.encode()[:room].decode(errors="ignore").rstrip() + suffix


def _fitting(names: Sequence[str], n_bytes: int) -> Iterable[str]:
    """Whole names, the first ones, that fit with a comma between; one with a comma in it is left out."""
    left = n_bytes
    for name in names:
        size = len(name.encode()) + 1
        if "," in name or size > left + 1:
            continue
        left -= size
        yield name
