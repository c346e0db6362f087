"""The screen of `hearth chat` driven by Pilot: asking, stopping, taking back, files, and a box that is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_box import MODEL, FakeBox
from pilot_patience import until
from screen_snapshot import check_snapshot
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input

from hearth_tui.address import Address
from hearth_tui.client import Client
from hearth_tui.dialogs.choose import Choose
from hearth_tui.dialogs.show import Show
from hearth_tui.dialogs.write import Write
from hearth_tui.talk.actions import ACTIONS
from hearth_tui.talk.app import TalkApp
from hearth_tui.talk.session import Session
from hearth_tui.talk.widgets.entry import Entry
from hearth_tui.talk.widgets.turn import Turn
from hearth_tui.types import Model

SIZE = (80, 24)


@pytest.fixture
def app(box: FakeBox) -> Iterator[TalkApp]:
    """A chat over a real connection."""
    with Client(Address(box.url)) as client:
        yield TalkApp(Session(client), Model("canary"), None)


def turns(app: App[None]) -> list[Turn]:
    return list(app.screen_stack[0].query(Turn))


def entry(app: App[None]) -> Entry:
    return app.screen_stack[0].query_one(Entry)


def status(app: TalkApp) -> str:
    return str(app._status._text)


async def ask(pilot: Pilot[None], app: TalkApp, question: str) -> None:
    """Write, send, and wait for the answer's end."""
    n_turns = len(turns(app))
    entry(app).text = question
    await pilot.press("enter")
    await until(pilot, lambda: len(turns(app)) == n_turns + 1 and not app._answering)


async def write(pilot: Pilot[None], text: str) -> None:
    """Into the dialog that comes."""
    await until(pilot, lambda: isinstance(pilot.app.screen, Write))
    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")
    await until(pilot, lambda: len(pilot.app.screen_stack) == 1)


async def test_an_answer_as_it_looks(box: FakeBox, app: TalkApp) -> None:
    box.pieces = ["# Ans", "wer\n\n", "It is **bold**:\n\n- one\n", "- two\n\n```py\nx = 1\n```\n"]
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, app, "What is it?")
        app._say("first token 84 ms · 3 tokens")
        await pilot.pause()
        check_snapshot(app, "talk-answer")
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Show))
        await pilot.pause()
        check_snapshot(app, "talk-help")


async def test_what_was_said_is_remembered(box: FakeBox, app: TalkApp) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, app, "one")
        assert "first token" in status(app)
        assert "3 tokens" in status(app)
        await ask(pilot, app, "two")
    assert [m["content"] for m in box.requests[-1]["messages"]] == ["one", "Hello, world", "two"]


async def test_several_lines(box: FakeBox, app: TalkApp) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("a", "ctrl+j", "b", "enter")
        await until(pilot, lambda: len(box.requests) == 1)
        assert box.requests[0]["messages"][0]["content"] == "a\nb"
        assert entry(app).text == ""
        await until(pilot, lambda: not app._answering)


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
async def test_a_stopped_answer_stays_and_the_chat_goes_on(
    box: FakeBox, app: TalkApp, key: str
) -> None:
    box.endless = True
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("x", "enter")
        await until(pilot, lambda: "Hello" in turns(app)[0].answer if turns(app) else False)
        await pilot.press(key)
        await until(pilot, lambda: not app._answering)
        assert box.cancelled.wait(5)
        box.endless = False
        await ask(pilot, app, "y")
        assert turns(app)[1].answer == "Hello, world"
        await pilot.press(key)
        assert "nothing is under way" in status(app)
    assert box.requests[1]["messages"][1]["content"].startswith("Hello")


async def test_retry_and_edit(box: FakeBox, app: TalkApp) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, app, "one")
        await ask(pilot, app, "two")
        box.pieces = ["Anew"]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(box.requests) == 3 and not app._answering)
        assert box.requests[2] == box.requests[1]
        assert [turn.answer for turn in turns(app)] == ["Hello, world", "Anew"]
        await pilot.press("ctrl+b")
        await until(pilot, lambda: entry(app).text == "two")
        assert len(turns(app)) == 1
        await pilot.press("!", "enter")
        await until(pilot, lambda: len(box.requests) == 4 and not app._answering)
    assert [m["content"] for m in box.requests[3]["messages"]] == ["one", "Hello, world", "two!"]


async def test_nothing_to_take_back(app: TalkApp) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("ctrl+r", "ctrl+b", "ctrl+g")
        assert turns(app) == []


async def test_a_refused_question_comes_back(box: FakeBox, app: TalkApp) -> None:
    box.refusal = (400, {"message": "too long", "code": "context_length_exceeded"}, {})
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, app, "one")
        assert entry(app).text == "one"
        assert app._conversation.n_questions == 0
        box.refusal = None
        await pilot.press("ctrl+r")
        await until(pilot, lambda: app._conversation.n_questions == 1)
        assert entry(app).text == ""


async def test_a_box_that_is_gone_is_told_of_and_waited_for(box: FakeBox) -> None:
    with Client(Address("http://127.0.0.1:9")) as client:
        app = TalkApp(Session(client), Model("canary"), None)
        async with app.run_test(size=SIZE) as pilot:
            await ask(pilot, app, "one")
            assert "no box answers" in str(turns(app)[0]._note.render())
            assert entry(app).text == "one"
            await pilot.press("ctrl+o")
            await until(pilot, lambda: bool(app._notifications))
            assert len(app.screen_stack) == 1


async def test_another_model_and_instructions(box: FakeBox, app: TalkApp) -> None:
    box.models = [MODEL, {**MODEL, "id": "other"}]
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.pause()
        await pilot.press("down", "enter")
        await until(pilot, lambda: app._model.id == "other")
        await pilot.press("ctrl+t")
        await write(pilot, "Be brief")
        await ask(pilot, app, "one")
    assert box.requests[0]["model"] == "other"
    assert box.requests[0]["messages"][0] == {"role": "system", "content": "Be brief"}


async def test_saved_and_loaded(box: FakeBox, app: TalkApp, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, app, "one")
        await pilot.press("ctrl+s")
        await write(pilot, str(file))
        await until(pilot, file.exists)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not turns(app))
        await pilot.press("ctrl+l")
        await write(pilot, str(file))
        await until(pilot, lambda: len(turns(app)) == 1)
        await ask(pilot, app, "two")
        assert turns(app)[0].answer == "Hello, world"
        (tmp_path / "other.json").write_text("[]")
        await pilot.press("ctrl+l")
        await write(pilot, str(tmp_path / "other.json"))
        await until(pilot, lambda: any("no conversation" in n.message for n in app._notifications))
        assert len(turns(app)) == 2
    assert [m["content"] for m in json.loads(file.read_text())["messages"]] == [
        "one",
        "Hello, world",
    ]
    assert len(box.requests[1]["messages"]) == 3


async def test_copied_as_it_was_written(app: TalkApp, box: FakeBox) -> None:
    box.pieces = ["**bo", "ld**"]
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, app, "one")
        await pilot.press("ctrl+g")
        assert app.clipboard == "**bold**"


async def test_history_scrolls_while_an_answer_comes(box: FakeBox, app: TalkApp) -> None:
    box.pieces = ["line\n\n"] * 40
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, app, "one")
        end = app._turns.scroll_offset.y
        assert end > 20
        await pilot.press("pageup")
        await until(pilot, lambda: app._turns.scroll_offset.y < end)
        here = app._turns.scroll_offset.y
        await ask(pilot, app, "two")
        assert app._turns.scroll_offset.y >= here


async def test_escape_sequences_of_a_model_do_nothing(box: FakeBox, app: TalkApp) -> None:
    box.pieces = ["\x1b]52;c;aGk=\x07safe"]
    async with app.run_test(size=SIZE) as pilot:
        await ask(pilot, app, "one")
        assert turns(app)[0].answer == "]52;c;aGk=safe"


async def test_ctrl_d_leaves_an_empty_entry(app: TalkApp) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("a", "left", "ctrl+d")
        assert entry(app).text == ""
        await pilot.press("ctrl+d")
        await pilot.pause()
        assert not app.is_running or app._exit


async def test_keys_help_and_palette_are_of_one_list(app: TalkApp) -> None:
    async with app.run_test(size=SIZE):
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {a.does for a in ACTIONS if a.name not in ("command_palette", "send")} <= titles
        assert all(hasattr(app, f"action_{a.name}") for a in ACTIONS if a.name != "send")
        keys = [key for action in ACTIONS for key in action.keys]
        assert len(keys) == len(set(keys))
