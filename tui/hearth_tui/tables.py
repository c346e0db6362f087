"""Tables of models, for a terminal in colour and for a pipe in full."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from hearth_tui import figures
from hearth_tui.printable import one_line
from hearth_tui.types import Model

_PIPE_COLUMNS = 4096
"""Wide enough that nothing is wrapped or cut where another program reads."""

_STATE_STYLES = {"ready": "green", "loading": "yellow", "restarting": "yellow", "failed": "red"}


def make_console() -> Console:
    """A console on standard output."""
    columns = None if sys.stdout.isatty() else _PIPE_COLUMNS
    return Console(width=columns, highlight=False, markup=False, emoji=False)


def models_table(models: Sequence[Model]) -> Table:
    """What the models are."""
    table = _table(
        ("MODEL", "left"),
        ("STATE", "left"),
        ("BACKEND", "left"),
        ("ARCH", "left"),
        ("PARAMS", "right"),
        ("QUANT", "left"),
        ("CONTEXT", "left"),
        ("DIGEST", "left"),
    )
    for model in models:
        details = model.hearth
        table.add_row(
            _plain(model.id),
            _state(model),
            _plain(details.backend),
            _plain(details.architecture),
            figures.count(details.n_parameters),
            _plain(details.quantization),
            figures.room(details),
            _plain(figures.short_digest(details.digest)),
        )
    return table


def load_table(models: Sequence[Model]) -> Table:
    """What the models do."""
    table = _table(
        ("MODEL", "left"),
        ("STATE", "left"),
        ("RUNNING", "right"),
        ("WAITING", "right"),
        ("KV FREE", "right"),
        ("RESTARTS", "right"),
        ("MEMORY", "right"),
    )
    for model in models:
        details = model.hearth
        table.add_row(
            _plain(model.id),
            _state(model),
            figures.or_dash(details.n_running),
            figures.or_dash(details.n_waiting),
            figures.share(details.kv_tokens_free, details.kv_tokens),
            figures.or_dash(details.n_restarts),
            figures.data_size(details.engine_rss_bytes),
        )
    return table


def failures(models: Iterable[Model]) -> list[Text]:
    """One line for each model that says what is wrong with it."""
    return [
        Text.assemble((f"{one_line(model.id)}: ", "red"), one_line(model.hearth.error))
        for model in models
        if model.hearth.error
    ]


def plans(models: Iterable[Model]) -> list[Text]:
    """One line for each copy of a model that was placed where there was a choice, or could not be loaded."""
    lines = [
        f"{model.id}: {text}"
        for model in models
        for text in (
            *(figures.plan(found) for found in model.hearth.plans if found.origin != "only"),
            *model.hearth.setbacks,
        )
    ]
    return [Text(one_line(line)) for line in lines]


def drafts(models: Iterable[Model]) -> list[Text]:
    """One line for each model that another one guesses for."""
    return [
        Text(one_line(f"{model.id}: {figures.draft(model.hearth)}"))
        for model in models
        if model.hearth.draft
    ]


def _table(*columns: tuple[str, JustifyMethod]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in columns:
        # Only the name gives way on a narrow terminal, to lines of its own.
        table.add_column(name, justify=justify, no_wrap=name != "MODEL", overflow="fold")
    return table


def _state(model: Model) -> Text:
    style = _STATE_STYLES.get(model.hearth.state or "", "")
    return Text(one_line(figures.state(model.hearth)), style=style)


def _plain(value: str | None) -> Text:
    return Text(one_line(figures.or_dash(value)))
