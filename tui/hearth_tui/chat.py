"""A conversation with one box: what is said goes to the model, what begins with a slash to the chat."""

from __future__ import annotations

from hearth_tui import figures
from hearth_tui.answer import Answer
from hearth_tui.client import Client
from hearth_tui.conversation import Conversation
from hearth_tui.entry import Command, Said, read_entry
from hearth_tui.errors import EXIT_INTERRUPTED, EXIT_OK, BoxError, ClientError, UsageError
from hearth_tui.screen import Screen
from hearth_tui.stream import stream_answer
from hearth_tui.transcript import TranscriptFiles
from hearth_tui.types import ChatRequest, Model

COMMANDS = {
    "/help": "this list",
    "/models": "the models of the box",
    "/model NAME": "let another model answer",
    "/system TEXT": "instructions for the model; alone: show them, with -: none",
    "/multi": "write several lines, until one that says /end",
    "/clear": "forget what was said; instructions stay",
    "/save FILE": "write the conversation down: JSON for .json, else Markdown",
    "/stats": "how long and how fast this conversation is",
    "/quit": "leave; so does Ctrl-D",
}
_HELP_FOOTER = """\
A line that ends in \\ goes on in the next one; // begins a text with a slash.
Ctrl-C stops an answer."""

COMPLETIONS = tuple(usage.split()[0] for usage in COMMANDS)
_CONTEXT_FULL = "context_length_exceeded"


class Chat:
    """One conversation from the first entry to the last."""

    def __init__(self, box: Client, screen: Screen, model: Model, system: str | None) -> None:
        self._box = box
        self._screen = screen
        self._model = model
        self._conversation = Conversation(system)
        self._last: Answer | None = None
        self._n_output_tokens = 0
        self._files = TranscriptFiles()

    def run(self) -> int:
        """Read and answer until the user leaves; returns the exit status.

        At a terminal an error is shown and the chat goes on; from a pipe it is raised.
        """
        n_interrupts = 0  # in a row: the first stops an answer or drops a line, the second leaves
        while True:
            try:
                entry = read_entry(self._screen.read_line)
                n_interrupts = 0
                if entry is not None:
                    if entry == Command("quit", ""):
                        return EXIT_OK
                    self._handle(entry)
            except EOFError:
                return EXIT_OK
            except KeyboardInterrupt:
                n_interrupts += 1
                if n_interrupts == 2 or not self._screen.interactive:
                    return EXIT_INTERRUPTED
                self._screen.notice("Ctrl-C again or Ctrl-D leaves")
            except ClientError as error:
                if not self._screen.interactive:
                    raise
                self._screen.problem(advise(error))

    def _handle(self, entry: Said | Command) -> None:
        if isinstance(entry, Said):
            self._ask(entry.text)
            return
        match entry.name:
            case "help":
                self._help()
            case "models":
                self._list_models()
            case "model":
                self._change_model(entry.argument)
            case "system":
                self._change_system(entry.argument)
            case "clear":
                self._conversation.clear()
                self._screen.notice("forgotten")
            case "save":
                self._save(entry.argument)
            case "stats":
                self._screen.show(self._describe())
            case _:
                raise UsageError(f"there is no command /{entry.name}; /help lists them")

    def _ask(self, question: str) -> None:
        request = ChatRequest(self._model.id, self._conversation.asking(question))
        heard: list[str] = []
        try:
            with self._screen.answering(f"{self._model.id} …") as output:

                def write(text: str) -> None:
                    heard.append(text)
                    output.write(text)

                answer = stream_answer(self._box, request, write)
        except KeyboardInterrupt:
            if heard:
                self._conversation.add(question, "".join(heard))
            raise
        self._conversation.add(question, answer.text)
        self._last = answer
        if answer.usage is not None:
            self._n_output_tokens += answer.usage.completion_tokens
        if self._screen.interactive:
            self._screen.notice(figures.speed(answer))

    def _help(self) -> None:
        width = max(map(len, COMMANDS))
        lines = [f"{usage:{width}}  {does}" for usage, does in COMMANDS.items()]
        self._screen.show("\n".join([*lines, "", _HELP_FOOTER]))

    def _list_models(self) -> None:
        from hearth_tui.tables import failures, models_table

        models = self._box.models()
        self._screen.show(models_table(models))
        for line in failures(models):
            self._screen.show(line)

    def _change_model(self, name: str) -> None:
        if name:
            self._model = find_model(self._box.models(), name)
        self._screen.notice(describe_model(self._model))

    def _change_system(self, text: str) -> None:
        if text:
            self._conversation.system = None if text == "-" else text
        system = self._conversation.system
        self._screen.notice("no instructions" if system is None else f"instructions: {system}")

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("say where to: /save FILE")
        path = self._files.save(name, self._conversation, self._model.id)
        self._screen.notice(f"saved to {path}")

    def _describe(self) -> str:
        n_questions = self._conversation.n_questions
        lines = [
            f"questions      {n_questions}",
            f"answer tokens  {self._n_output_tokens}",
        ]
        if self._last is not None and self._last.usage is not None:
            whole = figures.or_dash(self._model.hearth.context)
            lines.append(f"context        {self._last.usage.total_tokens} of {whole} tokens")
        if self._last is not None:
            lines.append(f"last answer    {figures.speed(self._last)}")
        return "\n".join(lines)


def find_model(models: list[Model], name: str) -> Model:
    """The model of this name; raises UsageError that lists those there are."""
    for model in models:
        if model.id == name:
            return model
    listed = ", ".join(model.id for model in models) or "none"
    raise UsageError(f"the box has no model {name!r}; there are: {listed}")


def describe_model(model: Model) -> str:
    """One line on who answers, and on what keeps it from that."""
    details = model.hearth
    parts = [model.id]
    if details.backend is not None:
        parts.append(details.backend)
    if details.context is not None:
        parts.append(f"context {details.context} tokens")
    if details.state not in (None, "ready"):
        parts.append(figures.state(details))
    if details.error:
        parts.append(details.error)
    return " · ".join(parts)


def advise(error: ClientError) -> str:
    """The error, and what helps where the chat has a remedy."""
    if isinstance(error, BoxError) and error.code == _CONTEXT_FULL:
        return f"{error} (/clear makes room)"
    return str(error)
