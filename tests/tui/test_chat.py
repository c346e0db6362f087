"""`hearth chat`: its commands against a box, and the real thing through a pipe and at a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_box import MODEL, FakeBox
from hearth_process import HEARTH, environment, hearth

from hearth_tui.address import Address
from hearth_tui.chat import Chat
from hearth_tui.client import Client
from hearth_tui.output import TextOutput
from hearth_tui.screen import Screen
from hearth_tui.selection import select_model


class ScriptedScreen(Screen):
    """A user who types these lines (KeyboardInterrupt: Ctrl-C), then leaves; keeps what is shown."""

    interactive = True

    def __init__(self, *lines: str | type[KeyboardInterrupt]) -> None:
        self._lines = iter(lines)
        self.notices: list[str] = []
        self.problems: list[str] = []
        self.shown: list[Any] = []
        self.answers = io.StringIO()

    def read_line(self, more: bool) -> str:
        for line in self._lines:
            if isinstance(line, str):
                return line
            raise line
        raise EOFError

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def show(self, renderable: Any) -> None:
        self.shown.append(renderable)

    @contextmanager
    def answering(self, waiting_for: str) -> Iterator[TextOutput]:
        with TextOutput(self.answers) as output:
            yield output


class InterruptingScreen(ScriptedScreen):
    """A user who presses Ctrl-C at the first text of every answer, and sees to it that it counts."""

    def __init__(self, box: FakeBox, *lines: str | type[KeyboardInterrupt]) -> None:
        super().__init__(*lines)
        self._box = box

    def notice(self, text: str) -> None:
        super().notice(text)
        assert self._box.cancelled.wait(5)  # before anything else is asked, or the chat is left

    @contextmanager
    def answering(self, waiting_for: str) -> Iterator[TextOutput]:
        yield Impatient(self.answers)


class Impatient(TextOutput):
    """Ctrl-C once there is something to read."""

    def write(self, text: str) -> None:
        super().write(text)
        raise KeyboardInterrupt


def chat(box: FakeBox, screen: Screen, system: str | None = None) -> int:
    with Client(Address(box.url)) as client:
        return Chat(client, screen, select_model(client.models()), system).run()


def asked(box: FakeBox, number: int) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in box.requests[number]["messages"]]


def test_a_conversation_is_remembered_until_it_is_cleared(box: FakeBox) -> None:
    screen = ScriptedScreen("one", "two", "/clear", "three")
    assert chat(box, screen, "Be kind") == 0
    system = ("system", "Be kind")
    assert asked(box, 1) == [
        system,
        ("user", "one"),
        ("assistant", "Hello, world"),
        ("user", "two"),
    ]
    assert asked(box, 2) == [system, ("user", "three")]
    assert screen.answers.getvalue() == "Hello, world\n" * 3
    assert screen.notices[0].startswith("first token ")


def test_instructions_change(box: FakeBox) -> None:
    screen = ScriptedScreen("/system Be brief", "/system", "one", "/clear", "/system -", "two")
    assert chat(box, screen) == 0
    assert asked(box, 0)[0] == ("system", "Be brief")
    assert asked(box, 1) == [("user", "two")]
    assert screen.notices[:2] == ["instructions: Be brief"] * 2


def test_another_model_answers(box: FakeBox) -> None:
    box.models = [MODEL, {**MODEL, "id": "other"}]
    screen = ScriptedScreen("/model nonsense", "/model other", "/models", "hi")
    assert chat(box, screen) == 0
    assert screen.problems == ["the box has no model 'nonsense'; there are: canary, other"]
    assert screen.notices[0] == "other · gguf · context 2048 tokens"
    assert box.requests[0]["model"] == "other"
    assert len(screen.shown) == 1


def test_statistics(box: FakeBox) -> None:
    screen = ScriptedScreen("/stats", "hi", "ho", "/stats")
    assert chat(box, screen) == 0
    before, after = screen.shown
    assert before.split() == ["questions", "0", "answer", "tokens", "0"]
    assert "questions      2\nanswer tokens  6\ncontext        10 of 2048 tokens\n" in after


def test_help_tells_every_command(box: FakeBox) -> None:
    screen = ScriptedScreen("/help", "/nonsense", "/quit", "never said")
    assert chat(box, screen) == 0
    (text,) = screen.shown
    for name in (
        "/help",
        "/models",
        "/model",
        "/system",
        "/multi",
        "/clear",
        "/save",
        "/stats",
        "/quit",
    ):
        assert name in text
    assert max(map(len, text.splitlines())) <= 80
    assert screen.problems == ["there is no command /nonsense; /help lists them"]
    assert box.requests == []


def test_saving_overwrites_only_its_own_files(box: FakeBox, tmp_path: Path) -> None:
    mine, foreign = tmp_path / "chat.json", tmp_path / "foreign.md"
    foreign.write_text("precious")
    nowhere = tmp_path / "no" / "where.md"
    commands = ["one", f"/save {mine}", "two", f"/save {mine}"]
    screen = ScriptedScreen(*commands, f"/save {foreign}", f"/save {nowhere}", "/save")
    assert chat(box, screen) == 0
    assert len(json.loads(mine.read_text())["messages"]) == 4
    assert foreign.read_text() == "precious"
    assert screen.problems == [
        f"{foreign} is there already; choose another name",
        f"{nowhere} cannot be written: No such file or directory",
        "say where to: /save FILE",
    ]


def test_after_an_error_the_chat_goes_on_without_that_question(box: FakeBox) -> None:
    error = {"message": "2049 of 2048 tokens", "code": "context_length_exceeded"}
    box.stream_end = [json.dumps({"error": error})]
    screen = ScriptedScreen("one", "two")
    assert chat(box, screen) == 0
    assert screen.problems == ["2049 of 2048 tokens (/clear makes room)"] * 2
    assert asked(box, 1) == [("user", "two")]


def test_ctrl_c_stops_the_answer_and_keeps_what_was_heard(box: FakeBox) -> None:
    box.endless = True
    screen = InterruptingScreen(box, "one", "two")
    assert chat(box, screen) == 0
    assert asked(box, 1) == [("user", "one"), ("assistant", "Hello"), ("user", "two")]


def test_a_second_ctrl_c_leaves(box: FakeBox) -> None:
    ctrl_c = KeyboardInterrupt
    box.endless = True
    assert chat(box, ScriptedScreen(ctrl_c, ctrl_c, "never said")) == 130
    assert chat(box, InterruptingScreen(box, "one", ctrl_c, "never said")) == 130
    box.endless = False
    assert chat(box, ScriptedScreen(ctrl_c, "/stats", ctrl_c, "said")) == 0
    assert [asked(box, i)[-1] for i in range(len(box.requests))] == [
        ("user", "one"),
        ("user", "said"),
    ]


def test_through_a_pipe_only_answers_come_out(box: FakeBox) -> None:
    done = hearth("--socket", str(box.socket), "chat", "-m", "canary", stdin=b"one\ntwo\\\nlines\n")
    assert (done.returncode, done.stdout) == (0, b"Hello, world\nHello, world\n")
    assert done.stderr == b""
    assert asked(box, 1)[-1] == ("user", "two\nlines")


def test_through_a_pipe_an_error_ends_it(box: FakeBox) -> None:
    box.refusal = (503, {"message": "Draining", "code": "shutting_down"}, {})
    done = hearth("--url", box.url, "chat", stdin=b"one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"hearth: Draining\n")
    assert len(box.requests) == 1


@pytest.mark.parametrize("stdin", [b"\xff\n", b"/nonsense\n"])
def test_through_a_pipe_nonsense_is_wrong_usage(box: FakeBox, stdin: bytes) -> None:
    done = hearth("--url", box.url, "chat", stdin=stdin)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


class Terminal:
    """`hearth chat` at a pseudo terminal of 80 columns."""

    def __init__(self, box: FakeBox) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", HEARTH, "--url", box.url, "chat", "--plain"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment({"TERM": "xterm", "COLUMNS": "80"}),
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Read on until this text has come, after all that was waited for before."""
        deadline = time.monotonic() + 20
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 65536).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(box: FakeBox) -> Iterator[Terminal]:
    opened = Terminal(box)
    try:
        yield opened
    finally:
        opened.close()


def test_at_a_terminal(box: FakeBox, terminal: Terminal) -> None:
    box.pieces = ["\x1b]0;owned\x07safe ", "text"]
    terminal.wait_for("canary · gguf · context 2048 tokens")
    terminal.wait_for("> ")
    terminal.type("hello\r")
    terminal.wait_for("]0;ownedsafe text\r\n")
    terminal.wait_for("first token ")
    terminal.wait_for("> ")
    box.endless = True
    box.streaming.clear()
    terminal.type("go on\r")
    assert box.streaming.wait(10)
    terminal.type("\x03")
    assert box.cancelled.wait(10)
    terminal.wait_for("Ctrl-C again or Ctrl-D leaves")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.process.wait(10) == 0
