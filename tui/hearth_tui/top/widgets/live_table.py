"""LiveTable: a table whose rows come again and again; only what has changed is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.widgets import DataTable

Cells = tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """Its title, and its width in characters (None: as wide as its cells)."""

    title: str
    width: int | None = None
    right: bool = False


class LiveTable(DataTable[Text]):
    """Rows have keys; the cursor stays on the key that it is on."""

    DEFAULT_CSS = """
    LiveTable { height: auto; background: transparent; scrollbar-size: 1 1; overflow-x: hidden; }
    LiveTable > .datatable--header { background: transparent; text-style: bold; color: $text-muted; }
    LiveTable > .datatable--cursor { background: transparent; text-style: none; }
    LiveTable:focus > .datatable--cursor { background: $primary; text-style: bold; }
    """

    def __init__(self, columns: Sequence[Column], *, id: str) -> None:  # noqa: A002  # as textual calls it
        """With a header."""
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=1)
        self._columns = columns
        self._shown: dict[str, Cells] = {}

    def on_mount(self) -> None:
        """Columns have their numbers as keys."""
        for number, column in enumerate(self._columns):
            title = Text(column.title, justify="right" if column.right else "left")
            self.add_column(title, width=column.width, key=str(number))

    @property
    def chosen(self) -> str | None:
        """The key of the row that the cursor is on."""
        keys = list(self._shown)
        return keys[self.cursor_row] if 0 <= self.cursor_row < len(keys) else None

    def show(self, rows: Mapping[str, Cells]) -> None:
        """Show these rows in their order."""
        kept = [key for key in self._shown if key in rows]
        if kept != list(rows)[: len(kept)]:
            self._begin_anew(rows)
            return
        for key in [key for key in self._shown if key not in rows]:
            self.remove_row(key)
        for key, cells in rows.items():
            if key in self._shown:
                self._update(key, cells)
            else:
                self.add_row(*cells, key=key)
        self._shown = dict(rows)

    def _begin_anew(self, rows: Mapping[str, Cells]) -> None:
        chosen = self.chosen
        self.clear()
        for key, cells in rows.items():
            self.add_row(*cells, key=key)
        self._shown = dict(rows)
        if chosen is not None and chosen in rows:
            self.move_cursor(row=list(rows).index(chosen))

    def _update(self, key: str, cells: Cells) -> None:
        for number, (before, now) in enumerate(zip(self._shown[key], cells, strict=True)):
            if before != now:
                self.update_cell(key, str(number), now)
