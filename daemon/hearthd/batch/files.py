"""Files: what was uploaded and what batches wrote, in a folder and a table; nothing is ever whole in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Final

import msgspec

from hearthd.batch import stored
from hearthd.batch.batch import new_id
from hearthd.batch.disk import AppendFile, Disk, DiskTrouble, trouble_of
from hearthd.batch.stored import Page, StoredFile
from hearthd.batch.threads import in_thread, opened
from hearthd.config.schema import BatchConfig
from hearthd.errors import BodyTooLarge, InsufficientStorage, InvalidRequest, NotFound
from hearthd.store.database import Database

log = logging.getLogger(__name__)

UPLOAD_PREFIX: Final = ".upload-"
_PIECE_BYTES: Final = 256 * 1024


class Files:
    """Belongs to the event loop; the disk is touched in threads."""

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        config: Callable[[], BatchConfig],
        clock: Callable[[], float],
    ) -> None:
        """`config` is what is in force; `clock` is unix time."""
        self.folder = folder
        self._disk = disk
        self._config = config
        self._clock = clock
        self.n_bytes = 0  # of all files, as of the last change
        self._database: Database | None = None

    async def open(self, database: Database) -> None:
        """Make the folder, and take away what nobody knows; raises OSError, StoreError."""
        self._database = database
        known = await database.read(stored.file_ids)
        await in_thread(self._tidy, known)
        await self.measure()

    def path(self, file_id: str) -> Path:
        """Where the file of this id is."""
        return self.folder / file_id

    # --- what clients do -----------------------------------------------------------------------

    async def receive(self, pieces: AsyncIterator[bytes], *, owner: str, name: str) -> StoredFile:
        """Store what is uploaded as it comes; raises BodyTooLarge, InsufficientStorage.

        Raises what `pieces` raises. Nobody can use the file before it is `settle`d.
        """
        file_id = new_id("file-")
        part = self.folder / f"{UPLOAD_PREFIX}{file_id}"
        try:
            n_bytes = await self._write(part, pieces)
        except OSError as error:
            raise await self._no_room(part, trouble_of(error, part)) from error
        except DiskTrouble as trouble:
            raise await self._no_room(part, trouble) from trouble
        except BaseException:  # a client that goes, too: nobody would delete the part
            await in_thread(part.unlink, missing_ok=True)
            raise
        return StoredFile(file_id, owner, "", name, n_bytes, self._clock(), None)

    async def settle(
        self, file: StoredFile, purpose: str, keep_seconds: float | None
    ) -> StoredFile:
        """Keep what was received; raises InsufficientStorage."""
        part = self.folder / f"{UPLOAD_PREFIX}{file.id}"
        try:
            await in_thread(self._settle, part, self.path(file.id))
        except OSError as error:
            raise await self._no_room(part, trouble_of(error, part)) from error
        file = msgspec.structs.replace(
            file, purpose=purpose, expires=self.expiry(keep_seconds, file.created)
        )
        await self._db.write(partial(stored.add_file, file=file))
        await self.measure()
        return file

    async def discard(self, file: StoredFile) -> None:
        """Take away what was received and is not wanted."""
        await in_thread((self.folder / f"{UPLOAD_PREFIX}{file.id}").unlink, missing_ok=True)

    async def listed(self, page: Page) -> list[StoredFile]:
        """One page, and one more where there are more; raises InvalidRequest."""
        if (
            page.after is not None
            and await self._db.read(partial(stored.file_of, file_id=page.after)) is None
        ):
            raise InvalidRequest(f"after: there is no file {page.after}", param="after")
        return await self._db.read(partial(stored.files, page=page))

    async def get(self, file_id: str, owner: str | None) -> StoredFile:
        """A file of this owner (None: of anybody); raises NotFound."""
        file = await self._db.read(partial(stored.file_of, file_id=file_id))
        if file is None or owner not in (None, file.owner) or self._is_expired(file):
            raise NotFound(f"There is no file {file_id}", param="file_id", code="file_not_found")
        return file

    @asynccontextmanager
    async def content(self, file_id: str) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        """Reads what is in a file, a piece at a time; empty at its end. Raises OSError."""
        path = self.path(file_id)
        async with opened(lambda: path.open("rb"), _close) as file:
            yield lambda: in_thread(file.read, _PIECE_BYTES)

    async def delete(self, file_id: str, owner: str | None) -> None:
        """Take a file away; raises NotFound, and InvalidRequest while a batch reads it."""
        await self.get(file_id, owner)
        if await self._db.read(partial(stored.is_read, file_id=file_id)):
            raise InvalidRequest(
                f"a batch reads the file {file_id}: cancel it first, or wait until it is over",
                code="file_in_use",
            )
        await self._drop(file_id)
        await self.measure()

    # --- housekeeping --------------------------------------------------------------------------

    async def expire(self, most: int) -> int:
        """Take away what has been kept long enough, so many between two looks; how many they were."""
        n_gone = 0
        while True:
            look = partial(stored.expired_files, now=self._clock(), most=most)
            if not (expired := await self._db.read(look)):
                break
            for file_id in expired:
                await self._drop(file_id)
            n_gone += len(expired)
        await self.measure()
        return n_gone

    async def measure(self) -> None:
        """Note how much is stored."""
        self.n_bytes = await self._db.read(stored.stored_bytes)

    def expiry(self, keep_seconds: float | None, now: float) -> float:
        """When a file made now goes."""
        return now + (self._config().keep_seconds if keep_seconds is None else keep_seconds)

    @property
    def _db(self) -> Database:
        assert self._database is not None  # the service has been opened
        return self._database

    def _is_expired(self, file: StoredFile) -> bool:
        return file.expires is not None and file.expires <= self._clock()

    async def _drop(self, file_id: str) -> None:
        await self._db.write(partial(stored.drop_file, file_id=file_id))
        await in_thread(self.path(file_id).unlink, missing_ok=True)

    async def _write(self, part: Path, pieces: AsyncIterator[bytes]) -> int:
        n_bytes = 0
        async with opened(partial(self._disk.open, part), AppendFile.close) as file:
            async for piece in pieces:
                n_bytes += len(piece)
                self._check(n_bytes)
                await in_thread(self._add, file, piece)
            await in_thread(file.sync)
        return n_bytes

    def _check(self, n_bytes: int) -> None:
        config = self._config()
        if n_bytes > config.file:
            raise BodyTooLarge(
                f"file: is over the limit of {config.file} bytes (batch.file)", param="file"
            )
        if self.n_bytes + n_bytes > config.budget:
            raise InsufficientStorage(
                f"{self.n_bytes} bytes of files are stored, and {config.budget} may be "
                "(batch.budget): delete some",
            )

    def _add(self, file: AppendFile, piece: bytes) -> None:
        self._disk.check_room(self.folder, len(piece))
        file.write(piece)

    def _settle(self, part: Path, target: Path) -> None:
        part.rename(target)
        self._disk.sync_folder(self.folder)

    async def _no_room(self, part: Path, trouble: DiskTrouble) -> InsufficientStorage:
        await in_thread(part.unlink, missing_ok=True)
        log.error("an upload cannot be stored: %s", trouble)
        return InsufficientStorage(f"the file cannot be stored: {trouble}")

    def _tidy(self, known: set[str]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name not in known and entry.is_file(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)


def _close(file: IO[bytes]) -> None:
    file.close()
