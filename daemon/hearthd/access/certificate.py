"""Certificate: a pair of PEM files that TLS is spoken with, and what the certificate says of itself."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from hearthd.errors import ConfigError

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What clients check it by."""

    fingerprint: str  # "sha256:" and 64 hexadecimal digits, of the certificate itself
    names: tuple[str, ...]  # DNS names and addresses that it is for
    valid_from: float  # unix seconds
    valid_until: float
    self_signed: bool


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Where a certificate, followed by those that vouch for it, and its key are."""

    certificate: Path
    key: Path

    def stamps(self) -> tuple[tuple[int, int, int], ...] | None:
        """Differ after any change of the files; None while one of them is not there. Blocks."""
        try:
            stats = [path.stat() for path in (self.certificate, self.key)]
        except OSError:
            return None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


def load_context(files: PairFiles) -> ssl.SSLContext:
    """A server's context with this pair; raises ConfigError. Blocks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(
            f"tls: {files.certificate} and {files.key}: {_in_words(error)}"
        ) from error
    except OSError as error:
        for path in (files.certificate, files.key):
            _check_readable(path)
        raise ConfigError(f"tls: {files.certificate}: {error.strerror or error}") from error
    return context


def facts_of(pem: str) -> CertificateFacts:
    """Of the first certificate of a PEM text; raises ValueError. Loads cryptography."""
    from cryptography import x509

    begin = pem.find(_BEGIN)
    end = pem.find(_END, begin)
    if begin < 0 or end < 0:
        raise ValueError("there is no certificate in it")
    der = ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_END)])
    certificate = x509.load_der_x509_certificate(der)
    return CertificateFacts(
        fingerprint=fingerprint_of(der),
        names=_names(certificate),
        valid_from=certificate.not_valid_before_utc.timestamp(),
        valid_until=certificate.not_valid_after_utc.timestamp(),
        self_signed=certificate.issuer == certificate.subject,
    )


def read_facts(path: Path) -> CertificateFacts:
    """Of the first certificate in a file; raises ConfigError. Blocks, and loads cryptography."""
    try:
        return facts_of(path.read_text(errors="replace"))
    except OSError as error:
        raise ConfigError(f"tls: {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"tls: {path}: {error}") from error


def fingerprint_of(der: bytes) -> str:
    """The SHA-256 of a certificate, as it is told everywhere. Pure."""
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def _names(certificate: object) -> tuple[str, ...]:
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    dns = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*dns, *map(str, addresses))


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise ConfigError(f"tls: {path}: {error.strerror or error}") from error


def _no_password() -> NoReturn:
    raise ConfigError("tls.key: it is encrypted, and nobody is there to give the password")


def _in_words(error: ssl.SSLError) -> str:
    words = {
        "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
        "EE_KEY_TOO_SMALL": "the certificate's key is too short to be safe",
    }
    return words.get(error.reason or "", "they hold no certificate and key in PEM")
