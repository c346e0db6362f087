"""Register: gives keys out and takes them back while the daemon runs, and keeps the record of actions."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from hearthd.access import action, stored
from hearthd.access.action import Action
from hearthd.access.keyring import Held, Keyring, new_key
from hearthd.access.leashes import Leashes
from hearthd.access.tables import ACCESS
from hearthd.config.schema import ANONYMOUS, KeyConfig
from hearthd.errors import HearthError, InvalidRequest, NotFound
from hearthd.store.database import Database, Work
from hearthd.store.errors import StoreError

log = logging.getLogger(__name__)

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Register:
    """Owns `access.db`. Until it is open, and where it cannot be opened, no key can be given out.

    Used from the event loop; what it keeps in memory is the Keyring, which changes once the file has.
    """

    def __init__(self, folder: Path, keyring: Keyring, *, models: Collection[str] = ()) -> None:
        """`models`: names that keys may be limited to."""
        self.keyring = keyring
        self.leashes = Leashes()
        self._path = folder / stored.FILE_NAME
        self._models = models
        self._database: Database | None = None
        self._writes: set[asyncio.Future[Any]] = set()
        self._turn = asyncio.Lock()  # keys change one at a time

    async def open(self) -> None:
        """Read what was given out before. A file that cannot be read is told, and opens nothing."""
        try:
            self._database = await asyncio.to_thread(Database.open, self._path, ACCESS)
            keys = await self._database.read(stored.read_all)
        except StoreError as error:
            log.error("keys that were given out cannot be read and open nothing: %s", error)
            return
        for key in keys:
            if key.name in self.keyring:
                log.warning(
                    "the key %s of the configuration hides one that was given out", key.name
                )
            else:
                self.keyring.put(key.name, key.config, "store", key.created)

    def configure(self, keys: Mapping[str, KeyConfig], models: Collection[str]) -> None:
        """Go by another configuration: what is done with keys that it no longer has, or changes, ends."""
        self._models = models
        for name in self.keyring.configure(keys):
            self.leashes.cut(name)

    async def close(self) -> None:
        """Finish writing; idempotent."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        if self._database is not None:
            database, self._database = self._database, None
            await asyncio.to_thread(database.close)

    # --- keys ----------------------------------------------------------------------------------

    async def give_out(self, name: str, config: KeyConfig) -> tuple[str, Held]:
        """A new key, which nobody is told again, and how it is held. `config` has no hash yet.

        Raises InvalidRequest, and HearthError where it cannot be kept.
        """
        self._check(name, config)
        key, digest = new_key()
        created = self.keyring.clock()
        config = msgspec.structs.replace(config, hash=digest)
        async with self._turn:
            if name in self.keyring:
                raise InvalidRequest(
                    f"there is a key {name} already; revoke it first, or take another name",
                    param="name", code="key_exists",
                )  # fmt: skip
            row = stored.StoredKey(name, created, config)
            await self._write(lambda connection: stored.add(connection, row))
            self.keyring.put(name, config, "store", created)
        return key, self._found(name)

    async def take_back(self, name: str) -> int:
        """Revoke a key: it opens nothing from now on, and its requests end; how many those were.

        Raises NotFound, InvalidRequest for one of the configuration, and HearthError.
        """
        async with self._turn:
            held = self._found(name)
            if held.source == "configuration":
                raise InvalidRequest(
                    f"the key {name} stands in the configuration: take [keys.{name}] out there",
                    param="name", code="key_is_configured",
                )  # fmt: skip
            await self._write(lambda connection: stored.remove(connection, name))
            self.keyring.drop(name)
        return self.leashes.cut(name)

    def _found(self, name: str) -> Held:
        held = self.keyring.get(name)
        if held is None:
            known = ", ".join(key.principal.name for key in self.keyring.held) or "none"
            raise NotFound(f"there is no key {name!r}; there are: {known}", param="name")
        return held

    def _check(self, name: str, config: KeyConfig) -> None:
        if NAME.fullmatch(name) is None or name == ANONYMOUS:
            raise InvalidRequest(
                "name: 1 to 64 letters, digits and ._-, the first a letter or digit", param="name"
            )
        unknown = set(config.models) - set(self._models)
        if unknown:
            known = ", ".join(self._models) or "none"
            raise InvalidRequest(
                f"models: there is no model {min(unknown)!r}; there are: {known}", param="models"
            )
        now = datetime.fromtimestamp(self.keyring.clock(), UTC)
        if config.expires is not None and config.expires <= now:
            raise InvalidRequest("expires: has passed already", param="expires")

    # --- the record ----------------------------------------------------------------------------

    def note(self, done: Action) -> None:
        """Keep what an operator did or tried: in the log at once, in the file soon."""
        log.info(
            "%s %s by %s: %d", done.action, done.detail, done.who, done.status,
            extra={"audit": msgspec.to_builtins(done)},
        )  # fmt: skip
        if self._database is None:
            log.error("the record of actions is closed: only the log has this one")
            return
        write = self._database.write(lambda connection: action.add(connection, done))
        self._writes.add(write)
        write.add_done_callback(self._noted)

    async def actions(self, limit: int) -> list[Action]:
        """The latest, the newest first; raises HearthError."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        if self._database is None:
            raise _closed()
        try:
            return await self._database.read(lambda connection: action.latest(connection, limit))
        except StoreError as error:
            raise _failed(error) from error

    def _noted(self, write: asyncio.Future[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled() and (error := write.exception()) is not None:
            log.error("an action could not be recorded: only the log has it: %s", error)

    async def _write(self, work: Work[None]) -> None:
        if self._database is None:
            raise _closed()
        try:
            await asyncio.shield(self._database.write(work))
        except StoreError as error:
            raise _failed(error) from error


def _closed() -> HearthError:
    return HearthError(
        "the file of keys is not open; the log of hearthd says why", code="access_failed"
    )


def _failed(error: StoreError) -> HearthError:
    return HearthError(f"the file of keys cannot be used: {error}", code="access_failed")
