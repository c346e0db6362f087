"""Tls: the certificate that is spoken with, taken anew whenever its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from hearthd.access.certificate import CertificateFacts, PairFiles, load_context, read_facts
from hearthd.access.selfsigned import ensure, names_of_this_machine, own_files
from hearthd.config.schema import TlsConfig
from hearthd.errors import ConfigError
from hearthd.tasks import going_on

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
"""Between two looks at the files."""
_SOON_DAYS: Final = 14


class Tls:
    """Off until `open`, and for ever where the configuration has none. Owned by the event loop's thread."""

    def __init__(
        self,
        config: TlsConfig,
        state: Path,
        listen_host: str,
        *,
        look_seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._listen_host = listen_host
        self._look_seconds = look_seconds
        self._clock = clock
        self._files = files_of(config, state)
        self._stamps: object = None  # of the files that were read last, good or bad
        self._current: ssl.SSLContext | None = None
        self.context: ssl.SSLContext | None = None
        """To listen with; the same for ever: each handshake gets the certificate of its moment."""
        self.facts: CertificateFacts | None = None
        """Of the certificate in force; None where TLS is off."""

    @property
    def fingerprint(self) -> str | None:
        """ "sha256:…" of the certificate in force; None where TLS is off."""
        return None if self.facts is None else self.facts.fingerprint

    async def open(self) -> None:
        """Read the certificate, or make one at the first start; raises ConfigError."""
        if not self._config.on:
            return
        if self._config.certificate is None and await asyncio.to_thread(self._make):
            log.info("made a certificate for this box: %s", self._files.certificate)
        await self._read()
        self.context = self._current
        if self.context is not None:
            self.context.sni_callback = self._choose  # asked by clients that name no host, too

    async def reload(self) -> bool:
        """Read the files again; returns whether another certificate is in force. A bad one is told and left."""
        if self.context is None:
            return False
        before = self.fingerprint
        try:
            await self._read()
        except ConfigError as error:
            log.error("the new certificate is refused, the old one stays in force: %s", error)
            return False
        return self.fingerprint != before

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Take what changes in the files, as long as it lasts."""
        if self.context is None:
            yield
            return
        async with going_on(self._watch(), "certificate"):
            yield

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            stamps = await asyncio.to_thread(self._files.stamps)
            if stamps is not None and stamps != self._stamps:
                await self.reload()

    async def _read(self) -> None:
        """Take the pair in the files where it is good; raises ConfigError."""
        self._stamps = await asyncio.to_thread(self._files.stamps)
        context, facts = await asyncio.to_thread(_load, self._files)
        if facts != self.facts:
            log.info("certificate %s", facts.fingerprint, extra={"names": list(facts.names)})
        self._current, self.facts = context, facts
        _warn(facts, self._clock())

    def _make(self) -> bool:
        return ensure(self._files, names_of_this_machine(self._listen_host, self._config.names))

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
    ) -> None:
        if self._current is not None:
            connection.context = self._current


def _load(files: PairFiles) -> tuple[ssl.SSLContext, CertificateFacts]:
    return load_context(files), read_facts(files.certificate)


def files_of(config: TlsConfig, state: Path) -> PairFiles:
    """Where the configured pair is, or the box's own; pure."""
    if config.certificate is None:
        return own_files(state)
    return PairFiles(Path(config.certificate), Path(config.key or config.certificate))


def _warn(facts: CertificateFacts, unix_now: float) -> None:
    if facts.valid_from > unix_now:
        log.warning("the certificate is not valid yet: is this machine's clock right?")
    elif facts.valid_until < unix_now:
        log.warning("the certificate has expired: clients will refuse it")
    elif facts.valid_until < unix_now + _SOON_DAYS * 86400:
        days = (facts.valid_until - unix_now) / 86400
        log.warning("the certificate expires in %.0f days", days)
