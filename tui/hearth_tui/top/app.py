"""TopApp: the screen of `hearth top`; owns what was read last, and asks again once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol, TypeVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer, RichLog

from hearth_tui.actions import bindings
from hearth_tui.dialogs.confirm import Confirm
from hearth_tui.dialogs.show import Show, help_of
from hearth_tui.errors import ClientError
from hearth_tui.printable import one_line
from hearth_tui.top import lines
from hearth_tui.top.actions import ACTIONS, OPERATIONS, PANES
from hearth_tui.top.columns import COLUMNS
from hearth_tui.top.consequences import consequence
from hearth_tui.top.history import History, Speed
from hearth_tui.top.rows import details_of, rows_of
from hearth_tui.top.types import Batch, Operated, Top, UnderWay, WatchedModel
from hearth_tui.top.widgets.banner import Banner
from hearth_tui.top.widgets.devices import Devices
from hearth_tui.top.widgets.live_table import LiveTable
from hearth_tui.top.widgets.tabs import PaneTabs
from hearth_tui.widgets.line import Line

READ_SECONDS = 1.0
BATCHES_EVERY = 5
SPARKS_EVERY = 4
"""Readings between two looks at batches, and between two drawings of histories."""
FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 0.5, 5.0
LOG_LINES = 1000
END_SECONDS = 2.0
"""For threads to see that the screen was left."""

T = TypeVar("T")


class BoxSource(Protocol):
    """Where readings come from; its methods block, and raise ClientError."""

    @property
    def name(self) -> str: ...
    def top(self, log_after: int) -> Top: ...
    def batches(self) -> list[Batch] | None: ...
    def operate(self, model: str, operation: str) -> Operated: ...
    def cancel(self, number: int) -> None: ...
    def hang_up(self) -> None: ...


class TopApp(App[None]):
    """Shows the box; what is done to it is asked for in a dialog first."""

    TITLE = "hearth top"
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    Screen { background: $background; }
    #body { height: 1fr; }
    #body.-old { opacity: 55%; }
    #models { max-height: 7; border-top: solid $primary-darken-1; border-title-color: $text-muted; }
    #panes { height: 1fr; }
    #panes LiveTable { height: 1fr; }
    #cache, #log { height: 1fr; }
    #log { scrollbar-size: 1 1; overflow-x: hidden; background: transparent; padding: 0 1; }
    #summary { padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS)]

    def __init__(self, source: BoxSource, *, read_seconds: float = READ_SECONDS) -> None:
        super().__init__()
        self._source = source
        self._read_seconds = read_seconds
        self._history = History()
        self._speed = Speed()
        self._tokens_per_second: float | None = None
        self._top: Top | None = None
        self._batches: list[Batch] | None = None
        self._n_readings = 0
        self._log_number = 0
        self._by_saved = False
        self._is_lost = False
        self._asked: set[asyncio.Task[Any]] = set()  # of the box, in threads
        self._banner = Banner(id="banner")
        self._body = Vertical(id="body")
        self._devices = Devices()
        self._tables = {name: LiveTable(columns, id=name) for name, columns in COLUMNS.items()}
        self._tables["models"].border_title = "models"
        self._tabs = PaneTabs(id="tabs")
        self._panes = ContentSwitcher(initial=PANES[0], id="panes")
        self._summary = Line(id="summary")
        self._log_lines = RichLog(id="log", max_lines=LOG_LINES, wrap=True, markup=False)

    def compose(self) -> ComposeResult:
        yield self._banner
        with self._body:
            yield self._devices
            yield self._tables["models"]
            yield self._tabs
            with self._panes:
                yield self._tables["requests"]
                with Vertical(id="cache"):
                    yield self._summary
                    yield self._tables["queries"]
                yield self._tables["batches"]
                yield self._tables["alerts"]
                yield self._log_lines
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Reading begins; where the models are is what the first keys are for."""
        self._banner.show(Text(f"hearth  {one_line(self._source.name)}  …"))
        self._show_tabs()
        self._tables["models"].focus()
        self._keep_reading()

    async def on_unmount(self) -> None:
        """No thread is left that waits for the box."""
        self._source.hang_up()
        if self._asked:
            await asyncio.wait(self._asked, timeout=END_SECONDS)

    # --- reading ---------------------------------------------------------------------------------

    @work(exclusive=True, group="reading")
    async def _keep_reading(self) -> None:
        retry_seconds = FIRST_RETRY_SECONDS
        while True:
            try:
                top = await self._ask(self._source.top, self._log_number)
                if self._n_readings % BATCHES_EVERY == 0:
                    self._batches = await self._ask(self._source.batches)
            except ClientError as error:
                self._show_lost(str(error), retry_seconds)
                await asyncio.sleep(retry_seconds)
                retry_seconds = min(MOST_RETRY_SECONDS, 2 * retry_seconds)
            else:
                retry_seconds = FIRST_RETRY_SECONDS
                self._show_top(top)
                await asyncio.sleep(self._read_seconds)

    def _show_lost(self, reason: str, seconds: float) -> None:
        """The last reading stays, greyed."""
        self._is_lost = True
        self._body.add_class("-old")
        self._banner.show_lost(self._source.name, reason, seconds)
        self._speed = Speed()

    def _show_top(self, top: Top) -> None:
        before, self._top = self._top, top
        if before is not None and before.started != top.started:
            self._speed = Speed()
        self._remember(top)
        self._body.remove_class("-old")
        if self._n_readings % SPARKS_EVERY == 0 or before is None or self._is_lost:
            self._is_lost = False
            self._show_banner(top)
            self._devices.show_devices(top.devices, self._history)
        self._n_readings += 1
        self._tables["models"].show({m.name: lines.model_cells(m) for m in top.models})
        self._show_pane(top)
        self._show_log(top, begun_anew=before is not None and before.started != top.started)
        self._show_tabs()
        if before is None or before.may_act != top.may_act:
            self.refresh_bindings()

    def _remember(self, top: Top) -> None:
        speed = self._speed.read(top.n_output_tokens, top.now)
        self._tokens_per_second = speed
        self._history.add("tokens", speed)
        for device in top.devices:
            self._history.add(f"load {device.name}", device.utilization)

    def _show_banner(self, top: Top) -> None:
        self._banner.show_box(self._source.name, top, self._history, self._tokens_per_second)

    def _show_pane(self, top: Top) -> None:
        """Only the one that is seen."""
        if self._pane == "cache":
            self._summary.show(lines.cache_line(top))
        if self._pane != "log":
            self._table.show(rows_of(self._pane, top, self._batches or (), self._by_saved))

    def _show_log(self, top: Top, *, begun_anew: bool) -> None:
        if begun_anew:  # another daemon counts its lines anew, and was asked for later ones
            self._log_number = 0
            return
        fresh = [line for line in top.log or () if line.number > self._log_number]
        if fresh:
            self._log_number = fresh[-1].number
            for line in fresh:
                self._log_lines.write(lines.log_line(line))

    def _show_tabs(self) -> None:
        notes = {}
        if self._top is not None:
            notes["requests"] = str(self._top.n_requests or "")
            notes["alerts"] = str(len(self._top.alerts) or "")
        if self._batches is not None:
            n_going = sum(
                b.status in ("validating", "in_progress", "finalizing") for b in self._batches
            )
            notes["batches"] = str(n_going or "")
        self._tabs.show_tabs(PANES, self._pane, notes)

    # --- what can be done ------------------------------------------------------------------------

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: every action that is open to whoever sits here."""
        for action in ACTIONS:
            if action.name == "command_palette" or (action.needs_operator and not self._may_act):
                continue
            yield SystemCommand(action.does, f"key {action.key_names}", self._doing(action.name))
        yield SystemCommand("Change the colours", "themes", self.action_change_theme)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Operators' actions are greyed out for all others; in a dialog, its own keys count."""
        if len(self.screen_stack) > 1:
            return action in ("quit", "command_palette") or not any(
                action == ours.name.partition("(")[0] for ours in ACTIONS
            )
        if any(action == operation.name for operation in OPERATIONS) and not self._may_act:
            return None
        return True

    def action_pane(self, pane: str) -> None:
        """Show another one below."""
        self._panes.current = pane
        self._table_or_log().focus()
        if self._top is not None:
            self._show_pane(self._top)
        self._show_tabs()

    def action_order(self) -> None:
        """Of frequent queries."""
        self._by_saved = not self._by_saved
        self.notify("by time saved" if self._by_saved else "by count", timeout=2)
        if self._top is not None:
            self._show_pane(self._top)

    def action_next(self) -> None:
        """From the models to what is below, and back."""
        models = self._tables["models"]
        (self._table_or_log() if models.has_focus else models).focus()

    def action_help(self) -> None:
        """Every action with its keys."""
        _ = self.push_screen(Show("hearth top", help_of(ACTIONS)))

    def action_details(self) -> None:
        """All of the row that the cursor is on; of the model, where that is none below."""
        title, told = self._details()
        if told:
            table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
            for name, value in told:
                table.add_row(Text(name, "dim"), Text(one_line(value)))
            _ = self.push_screen(Show(one_line(title), table))

    def _details(self) -> tuple[str, list[tuple[str, str]]]:
        chosen = self._table.chosen if self._pane != "log" and self._table.has_focus else None
        if chosen is not None and self._top is not None:
            details = details_of(self._pane, self._top, chosen)
            if details is not None:
                return details
        model = self._chosen_model()
        return ("", []) if model is None else (model.name, list(lines.model_details(model)))

    def action_load(self) -> None:
        """Load the chosen model."""
        self._operate("load")

    def action_unload(self) -> None:
        """Unload the chosen model."""
        self._operate("unload")

    def action_drain(self) -> None:
        """Drain the chosen model."""
        self._operate("drain")

    def action_pin(self) -> None:
        """Pin the chosen model, or unpin it."""
        model = self._chosen_model()
        self._operate("unpin" if model is not None and model.pinned else "pin")

    @work(group="doing")
    async def action_cancel(self) -> None:
        """End the chosen request."""
        table = self._tables["requests"]
        number = table.chosen if self._pane == "requests" else None
        request = next((r for r in self._requests() if str(r.number) == number), None)
        if request is None:
            self.notify("no request is chosen: key 1 shows them", timeout=3)
            return
        about = f"It is of {request.key}, for {request.model}. Its client gets what there is, and an error."
        if await self.push_screen_wait(Confirm(f"End request {number}?", about, str(number))):
            await self._do(lambda: self._source.cancel(request.number), f"request {number} ended")

    @work(group="doing")
    async def _operate(self, operation: str) -> None:
        model = self._chosen_model()
        if model is None:
            self.notify("no model is chosen", timeout=3)
            return
        title, about = consequence(operation, model)
        if await self.push_screen_wait(Confirm(title, about, model.name)):
            await self._do(
                lambda: self._source.operate(model.name, operation),
                f"{operation} {model.name}: begun",
            )

    async def _do(self, action: Callable[[], object], done: str) -> None:
        """Have the box do something, and say how that went."""
        try:
            await self._ask(action)
        except ClientError as error:
            self.notify(one_line(str(error)), severity="error", markup=False)
        else:
            self.notify(one_line(done), timeout=3, markup=False)

    async def _ask(self, question: Callable[..., T], *arguments: object) -> T:
        """Ask the box in a thread, which is remembered until it has ended, whoever still waits for it."""
        asking = asyncio.create_task(asyncio.to_thread(question, *arguments))
        self._asked.add(asking)
        asking.add_done_callback(self._forget)
        return await asyncio.shield(asking)

    def _forget(self, asking: asyncio.Task[Any]) -> None:
        self._asked.discard(asking)
        if not asking.cancelled():
            asking.exception()  # of which nobody need hear who has left meanwhile

    # --- parts -----------------------------------------------------------------------------------

    @property
    def _may_act(self) -> bool:
        return self._top is not None and self._top.may_act

    @property
    def _pane(self) -> str:
        return self._panes.current or PANES[0]

    @property
    def _table(self) -> LiveTable:
        return self._tables["queries" if self._pane == "cache" else self._pane]

    def _table_or_log(self) -> LiveTable | RichLog:
        return self._log_lines if self._pane == "log" else self._table

    def _chosen_model(self) -> WatchedModel | None:
        name = self._tables["models"].chosen
        models = () if self._top is None else self._top.models
        return next((model for model in models if model.name == name), None)

    def _requests(self) -> Iterable[UnderWay]:
        return () if self._top is None else self._top.requests

    def _doing(self, name: str) -> Callable[[], object]:
        return lambda: self.run_action(name)
