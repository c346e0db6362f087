"""TalkApp: the screen of `hearth chat`; owns the conversation, and the one answer that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer

from hearth_tui import figures
from hearth_tui.actions import bindings
from hearth_tui.answer import Answer
from hearth_tui.chat import advise, describe_model
from hearth_tui.conversation import Conversation
from hearth_tui.dialogs.choose import Choose
from hearth_tui.dialogs.show import Show, help_of
from hearth_tui.dialogs.write import Write
from hearth_tui.errors import ClientError
from hearth_tui.printable import one_line
from hearth_tui.talk.actions import ACTIONS
from hearth_tui.talk.meter import Meter
from hearth_tui.talk.session import Stopped, Talker
from hearth_tui.talk.widgets.entry import Entry
from hearth_tui.talk.widgets.turn import Turn
from hearth_tui.transcript import TranscriptFiles
from hearth_tui.types import Model
from hearth_tui.widgets.line import Line

STATUS_SECONDS = 0.25
STOP_AGAIN_SECONDS = 0.2


class TalkApp(App[None]):
    """Questions below, turns above, figures between them."""

    TITLE = "hearth chat"
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    Screen { background: $background; }
    #head { background: $panel; padding: 0 1; }
    #turns { height: 1fr; padding: 0 1; scrollbar-size: 1 1; }
    #status { padding: 0 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(action for action in ACTIONS if action.name != "send")
    ]

    def __init__(self, talker: Talker, model: Model, system: str | None) -> None:
        super().__init__()
        self._talker = talker
        self._model = model
        self._conversation = Conversation(system)
        self._files = TranscriptFiles()
        self._answering = False
        self._stopping = False
        self._head = Line(id="head")
        self._turns = VerticalScroll(id="turns", can_focus=False)
        self._status = Line(id="status")
        self._entry = Entry()

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._turns
        yield self._status
        yield self._entry
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """What is written goes into the entry from the start."""
        self._turns.anchor()
        self._show_head()
        self._say("F1 lists the keys")
        self._entry.focus()

    def on_unmount(self) -> None:
        """No thread is left that waits for the box."""
        self._talker.stop()

    # --- asking ------------------------------------------------------------------------------------

    def on_entry_sent(self, event: Entry.Sent) -> None:
        """A question; one that comes while another is answered waits in the entry."""
        if self._answering:
            self._entry.text = event.text
            self._say("an answer is under way: Esc stops it")
            return
        self._answer(event.text)

    def on_entry_left(self) -> None:
        """Ctrl-D."""
        self.exit()

    @work(exclusive=True, group="answer")
    async def _answer(self, question: str) -> None:
        self._answering, self._stopping = True, False
        turn = Turn(question)
        await self._turns.mount(turn)
        self._turns.anchor()
        try:
            answer = await self._stream(turn)
        except Stopped:
            self._end_turn(turn, "stopped")
        except ClientError as error:
            self._end_turn(turn, advise(error), bad=True)
        else:
            self._conversation.add(question, answer.text)
            self._say(figures.speed(answer))
            if not answer.text.strip():
                turn.note("an empty answer")
        finally:
            self._answering = False
            await turn.finish()

    def _end_turn(self, turn: Turn, note: str, *, bad: bool = False) -> None:
        """What came of an answer stays; a question that got none goes back into the entry."""
        turn.note(note, bad=bad)
        self._say("")
        if turn.answer:
            self._conversation.add(turn.question, turn.answer)
        elif not self._entry.text:
            self._entry.text = turn.question
            self._entry.move_cursor(self._entry.document.end)

    async def _stream(self, turn: Turn) -> Answer:
        """Have the question asked in a thread, and show what comes; raises ClientError, Stopped."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        messages = self._conversation.asking(turn.question)

        def heard(text: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, text)

        asking = asyncio.create_task(
            asyncio.to_thread(self._talker.ask, self._model.id, messages, heard)
        )
        asking.add_done_callback(lambda _: pieces.put_nowait(None))
        meter = Meter(self._model.id)
        try:
            while (text := await self._next(pieces, meter)) is not None:
                meter.add()
                await turn.write(text)
        finally:
            if not asking.done():
                self._talker.stop()
        return await asking

    async def _next(self, pieces: asyncio.Queue[str | None], meter: Meter) -> str | None:
        """The next piece; meanwhile the status goes on, and a stop that came too early is said again."""
        while True:
            self._say(meter.line())
            try:
                async with asyncio.timeout(STATUS_SECONDS):
                    return await pieces.get()
            except TimeoutError:
                if self._stopping:
                    self._talker.stop()

    # --- what can be done --------------------------------------------------------------------------

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: every action."""
        for action in ACTIONS:
            if action.name not in ("command_palette", "send"):
                yield SystemCommand(
                    action.does, f"key {action.key_names}", self._doing(action.name)
                )
        yield SystemCommand("Change the colours", "themes", self.action_change_theme)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a dialog is open, its own keys count."""
        ours = {a.name for a in ACTIONS} - {"quit", "command_palette"}
        return not (action in ours and len(self.screen_stack) > 1)

    def action_stop(self) -> None:
        """The answer ends, the chat goes on."""
        if self._answering:
            self._stopping = True
            self._talker.stop()
            self._say("stopping …")
        else:
            self._say("nothing is under way; ^Q leaves")

    async def action_retry(self) -> None:
        """The last question, once more."""
        question = await self._take_back()
        if question is not None:
            self._answer(question)

    async def action_edit(self) -> None:
        """The last question goes back into the entry."""
        question = await self._take_back()
        if question is not None:
            self._entry.text = question
            self._entry.move_cursor(self._entry.document.end)
            self._entry.focus()

    async def _take_back(self) -> str | None:
        """Forget the last turn, and give its question."""
        turns = list(self._turns.query(Turn))
        if self._answering or not turns:
            self._say("an answer is under way: Esc stops it" if turns else "nothing was asked yet")
            return None
        if turns[-1].answer:
            self._conversation.take_back()
        if self._entry.text == turns[-1].question:
            self._entry.clear()  # it was put there because nothing had answered it
        await turns[-1].remove()
        return turns[-1].question

    @work(group="dialog")
    async def action_model(self) -> None:
        """Choose among those of the box."""
        try:
            models = await asyncio.to_thread(self._talker.models)
        except ClientError as error:
            self._complain(error)
            return
        options = [(model.id, one_line(describe_model(model))) for model in models]
        chosen = await self.push_screen_wait(Choose("models", options, self._model.id))
        if chosen is not None:
            self._model = next(model for model in models if model.id == chosen)
            self._show_head()

    @work(group="dialog")
    async def action_instruct(self) -> None:
        """Write the system prompt; nothing takes it away."""
        before = self._conversation.system or ""
        text = await self.push_screen_wait(
            Write(
                "instructions",
                "What the model is told before everything else; empty: nothing",
                before,
            )
        )
        if text is not None:
            self._conversation.system = text or None
            self._show_head()

    @work(group="dialog")
    async def action_save(self) -> None:
        """Ask for a name, and write."""
        name = await self.push_screen_wait(
            Write("save to", ".json can be loaded again, all else is Markdown")
        )
        if not name:
            return
        try:
            path = await asyncio.to_thread(
                self._files.save, name, self._conversation, self._model.id
            )
        except ClientError as error:
            self._complain(error)
        else:
            self.notify(f"saved to {path}", markup=False)

    @work(group="dialog")
    async def action_load(self) -> None:
        """Ask for a name, and read; what is here is forgotten."""
        if self._answering:
            self._say("an answer is under way: Esc stops it")
            return
        name = await self.push_screen_wait(
            Write("load from", "a conversation that was saved as .json")
        )
        if not name:
            return
        try:
            transcript = await asyncio.to_thread(self._files.load, name)
        except ClientError as error:
            self._complain(error)
            return
        self._conversation = Conversation.of(transcript.messages)
        await self._turns.remove_children()
        await self._turns.mount_all(Turn(q, a) for q, a in self._conversation.turns())
        self._turns.scroll_end(animate=False)
        self._show_head()

    async def action_new(self) -> None:
        """A conversation of its own."""
        if self._answering:
            self._say("an answer is under way: Esc stops it")
            return
        self._conversation.clear()
        await self._turns.remove_children()
        self._say("")

    def action_copy(self) -> None:
        """To the terminal's clipboard, also over SSH where the terminal allows it (OSC 52)."""
        turns = [turn for turn in self._turns.query(Turn) if turn.answer]
        if not turns:
            self._say("there is no answer to copy")
            return
        self.copy_to_clipboard(turns[-1].answer)
        self._say("copied")

    def action_older(self) -> None:
        """A page up."""
        self._turns.release_anchor()
        self._turns.scroll_page_up(animate=False)

    def action_newer(self) -> None:
        """A page down; at the end, what comes is followed again."""
        self._turns.scroll_page_down(animate=False)

    def action_help(self) -> None:
        """Every action with its keys."""
        _ = self.push_screen(Show("hearth chat", help_of(ACTIONS)))

    # --- parts -------------------------------------------------------------------------------------

    def _show_head(self) -> None:
        line = Text.assemble(
            ("hearth chat ", "bold"), (one_line(describe_model(self._model)), "cyan")
        )
        if self._conversation.system:
            line.append(f"  · {one_line(self._conversation.system)}", "dim")
        line.truncate(max(20, self.size.width - 2), overflow="ellipsis")
        self._head.show(line)

    def _say(self, text: str) -> None:
        """One line between what was said and what is written."""
        self._status.show(Text(one_line(text)))

    def _complain(self, error: ClientError) -> None:
        self.notify(one_line(str(error)), severity="error", markup=False)

    def _doing(self, name: str) -> Callable[[], object]:
        return lambda: self.run_action(name)
