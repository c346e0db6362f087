"""How batches look: a bar while one runs, a table of many, the facts of one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hearth_tui.batch_types import Batch
from hearth_tui.printable import one_line

_STYLES = {
    "completed": "green", "failed": "red", "expired": "red", "cancelled": "yellow",
    "cancelling": "yellow",
}  # fmt: skip


class ProgressView:
    """Shows a batch that runs on standard error: a bar on a terminal, otherwise a line for each change."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._told = ""
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True, highlight=False, markup=False, emoji=False),
            disable=not self._is_terminal,
        )
        self._task = self._progress.add_task("", total=None, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, batch: Batch) -> None:
        """How it stands now."""
        counts = batch.request_counts
        if self._is_terminal:
            self._progress.update(
                self._task,
                description=batch.status,
                total=counts.total or None,
                completed=counts.done,
                note=one_line(_note(batch)),
            )
            return
        told = f"{batch.id} {batch.status}" + (f": {_note(batch)}" if _note(batch) else "")
        if told != self._told:
            self._told = told
            print(one_line(told), file=sys.stderr, flush=True)


def _note(batch: Batch) -> str:
    """What has to be told beside the numbers."""
    if batch.hearth.paused is not None:
        return f"waits: {batch.hearth.paused}"
    n_failed = batch.request_counts.failed
    return f"{n_failed} failed" if n_failed and not batch.is_over else ""


def batches_table(batches: Sequence[Batch], unix_now: float) -> Table:
    """One a row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("BATCH", "STATUS", "DONE", "FAILED", "ENDPOINT", "MODEL", "AGE", "NOTE"):
        right = name in ("DONE", "FAILED", "AGE")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for batch in batches:
        counts = batch.request_counts
        table.add_row(
            batch.id,
            Text(batch.status, style=_STYLES.get(batch.status, "")),
            f"{counts.done}/{counts.total}",
            str(counts.failed),
            batch.endpoint,
            one_line(batch.model or "-"),
            _span(unix_now - batch.created_at),
            one_line(batch.hearth.paused or ""),
        )
    return table


def batch_lines(batch: Batch) -> Iterator[str]:
    """What there is to know of one."""
    counts = batch.request_counts
    facts: list[tuple[str, str | None]] = [
        ("batch", batch.id),
        ("status", batch.status),
        ("paused", batch.hearth.paused),
        ("lines", f"{counts.total}, {counts.completed} answered, {counts.failed} failed"),
        ("endpoint", batch.endpoint),
        ("model", batch.model),
        ("owner", batch.hearth.owner or None),
        ("created", _moment(batch.created_at)),
        ("window", f"{batch.completion_window}, until {_moment(batch.expires_at)}"),
        ("input", batch.input_file_id),
        ("output", batch.output_file_id),
        ("errors", batch.error_file_id),
    ]
    for name, value in facts:
        if value is not None:
            yield f"{name:9}{one_line(value)}"
    for error in batch.errors.data if batch.errors is not None else []:
        yield f"{'why':9}{one_line(error.message)} ({error.code})"


def _moment(unix_seconds: int | None) -> str:
    if unix_seconds is None:
        return "-"
    return datetime.fromtimestamp(unix_seconds).strftime("%Y-%m-%d %H:%M:%S")


def _span(seconds: float) -> str:
    """ "45s", "12m", "3h", "2d" """
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
