"""What a chat remembers, and how it writes that down."""

from __future__ import annotations

import json

from hearth_tui.conversation import Conversation
from hearth_tui.types import Message


def test_a_question_counts_once_it_is_answered() -> None:
    conversation = Conversation("Be kind")
    asking = conversation.asking("How are you?")
    assert asking == [Message("system", "Be kind"), Message("user", "How are you?")]
    assert conversation.messages() == asking[:1]
    conversation.add("How are you?", "Well")
    assert conversation.n_questions == 1
    assert conversation.messages() == [*asking, Message("assistant", "Well")]


def test_clearing_keeps_the_instructions() -> None:
    conversation = Conversation("Be kind")
    conversation.add("a", "b")
    conversation.clear()
    assert conversation.messages() == [Message("system", "Be kind")]


def test_written_down() -> None:
    conversation = Conversation(None)
    conversation.add("Hi", "Größe\n")
    assert conversation.as_markdown("m") == "## You\n\nHi\n\n## m\n\nGröße\n"
    assert json.loads(conversation.as_json("m")) == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Größe\n"},
        ],
    }
