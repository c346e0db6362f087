"""Self-signed: a certificate that a box makes for itself at its first start, to be known by its fingerprint."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from hearthd.access.certificate import PairFiles
from hearthd.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

VALID_DAYS: Final = 3650
"""A new one would have another fingerprint, which everybody would have to be told."""
_EARLIER_DAYS: Final = 2
"""It is valid before it is made, for clients whose clocks are behind."""
_MOST_NAMES: Final = 100


def own_files(state: Path) -> PairFiles:
    """Where the certificate that a box makes for itself is."""
    return PairFiles(state / "tls" / "certificate.pem", state / "tls" / "key.pem")


def ensure(files: PairFiles, names: Iterable[str]) -> bool:
    """Make the pair unless it is there; returns whether it was made. Raises ConfigError. Blocks."""
    if files.certificate.exists() and files.key.exists():
        return False
    certificate, key = make(names, datetime.now(UTC))
    try:
        files.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(files.key, key, 0o600)
        _write(files.certificate, certificate, 0o644)
    except OSError as error:
        raise ConfigError(f"tls: {error.filename}: {error.strerror or error}") from error
    return True


def make(names: Iterable[str], now: datetime) -> tuple[bytes, bytes]:
    """Certificate and key in PEM, for these DNS names and addresses. Loads cryptography."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    # Clients that trust several boxes find the right certificate by this name.
    name = f"hearth {secrets.token_hex(8)}"
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=_EARLIER_DAYS))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([*map(_general_name, names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def names_of_this_machine(listen_host: str, more: Iterable[str] = ()) -> list[str]:
    """What clients may call it: its names, and the addresses that it has now. Blocks."""
    host = socket.gethostname().lower()
    short = host.partition(".")[0]
    names = [*more, host, short, f"{short}.local", "localhost", "127.0.0.1", "::1", listen_host]
    for addresses in psutil.net_if_addrs().values():
        names += [
            address.address.partition("%")[0]
            for address in addresses
            if address.family in (socket.AF_INET, socket.AF_INET6)
        ]
    return [name for name in dict.fromkeys(names) if _can_be_named(name)][:_MOST_NAMES]


def _can_be_named(name: str) -> bool:
    """Not for every address at once, and not for what DNS has no letters for."""
    try:
        return not ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return name.isascii() and 0 < len(name) <= 253 and not any(c in name for c in " /:")


def _general_name(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable for others meanwhile."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
