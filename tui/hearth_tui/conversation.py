"""What was said in a chat, and how to write it down."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from hearth_tui.types import Message


class Transcript(msgspec.Struct, frozen=True):
    """A conversation as a JSON file."""

    model: str
    messages: list[Message]


class Conversation:
    """Instructions and turns; a turn is a question with its answer, never one without the other."""

    def __init__(self, system: str | None) -> None:
        self.system = system
        self._turns: list[Message] = []

    @property
    def n_questions(self) -> int:
        """How many were answered."""
        return len(self._turns) // 2

    def asking(self, question: str) -> list[Message]:
        """The messages of a request with a next question."""
        return [*self.messages(), Message("user", question)]

    def add(self, question: str, answer: str) -> None:
        """Keep a turn."""
        self._turns += [Message("user", question), Message("assistant", answer)]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Conversation:
        """One that goes on after these; what has no answer, or is no question, is left out."""
        systems = [message.content for message in messages if message.role == "system"]
        conversation = cls("\n\n".join(systems) or None)
        for question, answer in pairwise(m for m in messages if m.role != "system"):
            if (question.role, answer.role) == ("user", "assistant"):
                conversation.add(question.content, answer.content)
        return conversation

    def turns(self) -> list[tuple[str, str]]:
        """Questions with their answers."""
        said = [message.content for message in self._turns]
        return list(zip(said[::2], said[1::2], strict=True))

    def take_back(self) -> None:
        """Forget the last turn, where there is one."""
        del self._turns[-2:]

    def clear(self) -> None:
        """Forget the turns; the instructions stay."""
        self._turns.clear()

    def messages(self) -> list[Message]:
        """All that was said, instructions first."""
        before = [] if self.system is None else [Message("system", self.system)]
        return [*before, *self._turns]

    def as_json(self, model: str) -> str:
        """A file that another program reads; the messages are what the API takes."""
        transcript = Transcript(model, self.messages())
        return msgspec.json.format(msgspec.json.encode(transcript)).decode() + "\n"

    def as_markdown(self, model: str) -> str:
        """A file that people read."""
        titles = {"system": "Instructions", "user": "You", "assistant": model}
        return "\n".join(f"## {titles[m.role]}\n\n{m.content.strip()}\n" for m in self.messages())
