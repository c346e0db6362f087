"""Workshop: what all jobs work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hearthd.batch.answerer import Answerer
from hearthd.batch.counts import Counts
from hearthd.batch.disk import Disk
from hearthd.batch.files import Files
from hearthd.batch.owners import Owners
from hearthd.batch.seats import Seats
from hearthd.config.schema import BatchConfig
from hearthd.store.database import Database


@dataclass(frozen=True, slots=True)
class Workshop:
    """Made once there is somebody who answers."""

    answerer: Answerer
    files: Files
    disk: Disk
    database: Database
    seats: Seats
    owners: Owners
    counts: Counts
    config: Callable[[], BatchConfig]  # what is in force
    most_line_bytes: int
    clock: Callable[[], float]  # unix time
