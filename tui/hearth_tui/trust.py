"""Why a box is believed to be the box: a certificate known by its fingerprint, or vouched for by an authority."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from hearth_tui.errors import BoxUnreachable, BoxUntrusted, UsageError

PROBE_SECONDS = 5.0
FILE_NAME = "boxes.json"

_HEX = re.compile(r"(?:sha-?256[:=]?)?([0-9a-f]{64})")


class CertificateChanged(ssl.SSLError):
    """A box shows another certificate than the one that it is known by."""


class PinnedContext(ssl.SSLContext):
    """Takes the certificate that has the fingerprint, whatever its names and dates, and no other."""

    fingerprint: str


class _PinnedSocket(ssl.SSLSocket):
    """Nothing is sent, no key above all, before the certificate is known."""

    def do_handshake(self, block: bool = False) -> None:
        """Raises CertificateChanged."""
        super().do_handshake(block)
        context = self.context
        assert isinstance(context, PinnedContext)
        shown = fingerprint_of(self.getpeercert(binary_form=True) or b"")
        if not hmac.compare_digest(shown, context.fingerprint):
            raise CertificateChanged(shown)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says of whom to believe."""

    fingerprint: str | None = None
    authority: str | None = None  # a file of certificates


def fingerprint_of(der: bytes) -> str:
    """As a box tells it: "sha256:" and hexadecimal digits. Pure."""
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def parse_fingerprint(text: str) -> str:
    """In any of the forms that people write it in; raises UsageError. Pure."""
    match = _HEX.fullmatch(
        text.strip().lower().replace("fingerprint=", "").replace(" ", "").replace(":", "")
    )
    if match is None:
        raise UsageError(f"--fingerprint {text}: it must be the 64 hexadecimal digits of a SHA-256")
    return f"sha256:{match[1]}"


def context_for(
    url: str, wanted: Wanted, boxes: KnownBoxes, ask: Callable[[str], bool] | None
) -> ssl.SSLContext | None:
    """How to speak to a box; None where its address is not https. Blocks; may connect to it once.

    `ask` puts a question to a person (None: nobody is there). Raises UsageError, BoxUnreachable, BoxUntrusted.
    """
    if not url.startswith("https:"):
        if wanted.fingerprint or wanted.authority:
            raise UsageError("--fingerprint and --ca are for boxes with an https:// address")
        return None
    if wanted.authority is not None:
        return _authority(wanted.authority)
    host, port = _place(url)
    if wanted.fingerprint is not None:
        context = pinned(parse_fingerprint(wanted.fingerprint))
        if boxes.fingerprint(f"{host}:{port}") != context.fingerprint:
            _check(url, host, port, context)
            boxes.remember(f"{host}:{port}", context.fingerprint)
        return context
    known = boxes.fingerprint(f"{host}:{port}")
    if known is not None:
        return pinned(known)
    shown = _unvouched(host, port)
    if shown is None:
        return ssl.create_default_context()
    told = f"nobody vouches for the certificate of the box at {url}: {shown}"
    if ask is None:
        raise BoxUntrusted(
            f"{told}; if that is what 'hearth status' says on the box, say --fingerprint {shown}"
        )
    if not ask(
        f"{told}\nis that what 'hearth status' says on the box, and shall it be trusted from now on?"
    ):
        raise BoxUntrusted(f"the box at {url} is not trusted")
    boxes.remember(f"{host}:{port}", shown)
    return pinned(shown)


def pinned(fingerprint: str) -> PinnedContext:
    """A context that believes one certificate."""
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.fingerprint = fingerprint
    context.sslsocket_class = _PinnedSocket
    return context


class KnownBoxes:
    """Boxes whose certificates somebody has said yes to, in a file of the user's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_user(cls, environment: Mapping[str, str]) -> KnownBoxes:
        """Where the user's configuration is."""
        home = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '')}/.config"
        return cls(Path(home) / "hearth" / FILE_NAME)

    def fingerprint(self, place: str) -> str | None:
        """Of the box at HOST:PORT; raises UsageError for a file that cannot be read."""
        return self._read().get(place)

    def remember(self, place: str, fingerprint: str) -> None:
        """From now on; raises UsageError."""
        boxes = self._read()
        if boxes.get(place) == fingerprint:
            return
        fresh = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_bytes(
                msgspec.json.format(msgspec.json.encode({**boxes, place: fingerprint}))
            )
            fresh.replace(self.path)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from error

    def _read(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError:
            raise UsageError(f"{self.path} is damaged: take it away to begin anew") from None


def _authority(file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise UsageError(f"--ca {file}: there is no certificate in it") from None
    except OSError as error:
        raise UsageError(f"--ca {file}: {error.strerror}") from error


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 443


def _unvouched(host: str, port: int) -> str | None:
    """The fingerprint that a box shows; None where an authority that the system knows vouches for it."""
    try:
        _handshake(host, port, ssl.create_default_context())
    except ssl.SSLCertVerificationError:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            return fingerprint_of(_handshake(host, port, context))
        except OSError as error:
            raise _unreachable(host, port, error) from error
    except OSError as error:
        raise _unreachable(host, port, error) from error
    return None


def _check(url: str, host: str, port: int, context: PinnedContext) -> None:
    try:
        _handshake(host, port, context)
    except CertificateChanged as error:
        raise BoxUntrusted(
            f"the certificate of the box at {url} has another fingerprint: {error.args[0]}"
        ) from error
    except OSError as error:
        raise _unreachable(host, port, error) from error


def _handshake(host: str, port: int, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection((host, port), timeout=PROBE_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def _unreachable(host: str, port: int, error: OSError) -> BoxUnreachable:
    if isinstance(error, ssl.SSLError):
        return BoxUnreachable(
            f"what answers at {host}:{port} speaks no TLS; try http://{host}:{port}"
        )
    reason = error.strerror or str(error) or type(error).__name__
    return BoxUnreachable(
        f"no box answers at https://{host}:{port} ({reason}); is hearthd running?"
    )
