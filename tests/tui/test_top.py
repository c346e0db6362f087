"""`hearth top` driven by Pilot: what it shows, what it does, whom it asks first, and how it gets over a lost box."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pilot_patience import until
from rich.text import Text
from screen_snapshot import check_snapshot, screen_text
from textual.command import CommandList, CommandPalette
from textual.pilot import Pilot
from textual.widgets import Input, RichLog
from watched_box import NOW, WatchedBox, reading

from hearth_tui.dialogs.confirm import Confirm
from hearth_tui.dialogs.show import Show
from hearth_tui.errors import BoxError, BoxUnreachable
from hearth_tui.top.actions import ACTIONS, OPERATIONS, PANES
from hearth_tui.top.app import TopApp
from hearth_tui.top.widgets.banner import Banner
from hearth_tui.top.widgets.live_table import LiveTable

SIZE = (80, 24)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clocks of the log are those of the reader's place."""
    with monkeypatch.context() as place:
        place.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def box() -> WatchedBox:
    return WatchedBox()


def app_of(box: WatchedBox) -> TopApp:
    return TopApp(box, read_seconds=0.02)


def table(pilot: Pilot[None], name: str) -> LiveTable:
    return pilot.app.screen_stack[0].query_one(f"#{name}", LiveTable)


def words(pilot: Pilot[None], name: str) -> list[str]:
    """The rows of a table."""
    shown = table(pilot, name)
    return [" ".join(str(cell) for cell in shown.get_row_at(i)) for i in range(shown.row_count)]


def banner(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen_stack[0].query_one(Banner)._text)


async def shown(pilot: Pilot[None]) -> None:
    """Wait for the first reading."""
    await until(pilot, lambda: table(pilot, "models").row_count > 0)


# --- what it shows -------------------------------------------------------------------------------


async def test_each_pane_as_it_looks(box: WatchedBox) -> None:
    app = TopApp(box, read_seconds=60.0)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot)
        for number, pane in enumerate(PANES, 1):
            await pilot.press(str(number))
            await pilot.pause()
            check_snapshot(app, f"top-{pane}")


async def test_a_dialog_and_the_help_as_they_look(box: WatchedBox) -> None:
    app = TopApp(box, read_seconds=60.0)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("u")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.pause()
        check_snapshot(app, "top-confirm")
        await pilot.press("escape", "question_mark")
        await until(pilot, lambda: isinstance(app.screen, Show))
        await pilot.pause()
        check_snapshot(app, "top-help")


async def test_only_what_changed_is_drawn(box: WatchedBox) -> None:
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        updated: list[str] = []
        models = table(pilot, "models")
        update = models.update_cell

        def counted(row: str, column: str, value: Text, **options: bool) -> None:
            updated.append(f"{row} {column}")
            update(row, column, value, **options)

        models.update_cell = counted  # type: ignore[assignment, method-assign]  # counted on its way
        n_readings = box.n_readings
        await until(pilot, lambda: box.n_readings > n_readings + 3)
        assert updated == []
        box.set_state("kitchen", "restarting")
        await until(pilot, lambda: bool(updated))
        assert set(updated) == {"kitchen 1"}


async def test_rows_come_and_go_and_the_cursor_stays(box: WatchedBox) -> None:
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("tab", "down")
        assert table(pilot, "requests").chosen == "1042"
        box.requests = box.requests[1:] + box.requests[:1]
        await until(pilot, lambda: words(pilot, "requests")[0].startswith("1042"))
        assert table(pilot, "requests").chosen == "1042"
        box.requests = box.requests[1:]
        await until(pilot, lambda: table(pilot, "requests").row_count == 1)
        box.requests = []
        await until(pilot, lambda: table(pilot, "requests").row_count == 0)
        assert table(pilot, "requests").chosen is None


async def test_frequent_queries_in_both_orders(box: WatchedBox) -> None:
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("2")
        await until(pilot, lambda: table(pilot, "queries").row_count == 2)
        assert "capital of France" in words(pilot, "queries")[0]
        await pilot.press("o")
        await until(pilot, lambda: "whole story" in words(pilot, "queries")[0])


async def test_details_of_a_model(box: WatchedBox) -> None:
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(pilot.app.screen, Show))
        await pilot.press("escape")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1)


async def test_details_of_what_is_below(box: WatchedBox) -> None:
    app = app_of(box)
    told = {"1": "812 tokens", "2": "What is the capital of France?", "4": "the file ends early"}
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot)
        for pane, words in told.items():
            await pilot.press(pane, "i")
            await until(pilot, lambda: isinstance(app.screen, Show))
            await until(pilot, lambda: words in screen_text(app))  # noqa: B023  # awaited before the next turn
            await pilot.press("escape")
            await until(pilot, lambda: len(app.screen_stack) == 1)


async def test_a_box_without_batches(box: WatchedBox) -> None:
    box.jobs = None
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("3")
        assert table(pilot, "batches").row_count == 0


# --- what it does --------------------------------------------------------------------------------


async def confirm(pilot: Pilot[None], word: str) -> None:
    """Type a word into the dialog that comes."""
    await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
    pilot.app.screen.query_one(Input).value = word
    await pilot.press("enter")


async def test_what_is_done_to_a_model_is_typed_first(box: WatchedBox) -> None:
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("u")
        await confirm(pilot, "kitch")
        assert isinstance(pilot.app.screen, Confirm)
        assert box.done == []
        await pilot.press("escape")
        for key, operation in {"l": "load", "u": "unload", "d": "drain", "p": "unpin"}.items():
            await until(pilot, lambda: len(pilot.app.screen_stack) == 1)
            await pilot.press(key)
            await confirm(pilot, "kitchen")
            await until(pilot, lambda: box.done[-1:] == [("kitchen", operation)])  # noqa: B023  # awaited before the next turn
        assert len(box.done) == 4


async def test_a_model_that_is_not_pinned_is_pinned(box: WatchedBox) -> None:
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("down", "p")
        await confirm(pilot, "org/big")
        await until(pilot, lambda: box.done == [("org/big", "pin")])


async def test_a_request_is_cancelled(box: WatchedBox) -> None:
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("tab", "down", "c")
        await confirm(pilot, "1042")
        await until(pilot, lambda: box.done == [("1042", "cancel")])


async def test_a_box_that_says_no(box: WatchedBox) -> None:
    box.refusal = BoxError("the model kitchen is pinned", status=409)
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("u")
        await confirm(pilot, "kitchen")
        await until(pilot, lambda: any("pinned" in n.message for n in pilot.app._notifications))


async def test_who_only_looks_can_do_nothing(box: WatchedBox) -> None:
    box.role = "readonly"
    app = app_of(box)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot)
        assert "read-only" in banner(pilot)
        await pilot.press(*(key for action in OPERATIONS for key in action.keys))
        await pilot.pause()
        assert len(app.screen_stack) == 1
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert not titles & {action.does for action in OPERATIONS}
        assert all(app.check_action(action.name, ()) is None for action in OPERATIONS)


async def test_keys_help_and_palette_are_of_one_list(box: WatchedBox) -> None:
    app = app_of(box)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot)
        names = {action.name.partition("(")[0] for action in ACTIONS}
        assert all(hasattr(app, f"action_{name}") for name in names)
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {a.does for a in ACTIONS if a.name != "command_palette"} <= titles
        keys = [key for action in ACTIONS for key in action.keys]
        assert len(keys) == len(set(keys))


async def test_the_palette_does_it_and_a_dialog_keeps_its_keys(box: WatchedBox) -> None:
    app = app_of(box)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("question_mark", "u", "1")
        assert [type(screen) for screen in app.screen_stack[1:]] == [Show]
        await pilot.press("escape", "ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, CommandPalette))
        await pilot.press(*"engine")
        found = app.screen.query_one(CommandList)
        await until(pilot, lambda: found.option_count == 1 and found.highlighted == 0)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))


# --- a box that is lost --------------------------------------------------------------------------


async def test_a_lost_box_is_greyed_until_it_is_back(box: WatchedBox) -> None:
    app = app_of(box)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot)
        box.lost = BoxUnreachable("no box answers at unix:/x (Connection refused)")
        await until(pilot, lambda: "reconnecting" in banner(pilot))
        body = app.screen.query_one("#body")
        assert body.has_class("-old")
        assert len(words(pilot, "models")) == 3  # what was read last
        box.lost, box.started = None, NOW - 1.0  # another daemon, which counts its lines anew
        await until(pilot, lambda: not body.has_class("-old"))
        assert "reconnecting" not in banner(pilot)
        await until(pilot, lambda: 0 in box.log_after[1:])


async def test_lines_of_the_log_come_once(box: WatchedBox) -> None:
    async with app_of(box).run_test(size=SIZE) as pilot:
        await shown(pilot)
        await pilot.press("5")
        log = pilot.app.screen.query_one("#log", RichLog)
        n_readings = box.n_readings
        await until(pilot, lambda: box.n_readings > n_readings + 2)
        await until(pilot, lambda: len(log.lines) == 2)


async def test_a_box_that_does_not_answer_never_blocks_the_screen(box: WatchedBox) -> None:
    box.held = threading.Event()
    app = app_of(box)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("2", "question_mark")
        assert isinstance(app.screen, Show)
        box.held.set()
        await shown(pilot)


def test_a_reading_of_an_older_box_is_read(tmp_path: Path) -> None:
    assert reading(
        b'{"version": "1", "now": 2.0, "started": 1.0, "models": [{"name": "m"}]}'
    ).models
