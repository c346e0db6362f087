"""Transcripts: conversations as files; JSON can be read again, Markdown is for people."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hearth_tui.conversation import Conversation, Transcript
from hearth_tui.errors import UsageError

MOST_BYTES = 64 * 1024 * 1024


class TranscriptFiles:
    """Files of one chat: its own may be written again, a foreign one is never overwritten."""

    def __init__(self) -> None:
        self._own: set[Path] = set()

    def save(self, name: str, conversation: Conversation, model: str) -> Path:
        """JSON for .json, else Markdown. Blocks; raises UsageError."""
        path = _path(name)
        write = conversation.as_json if path.suffix == ".json" else conversation.as_markdown
        try:
            with path.open("w" if path in self._own else "x", encoding="utf-8") as file:
                file.write(write(model))
        except FileExistsError:
            raise UsageError(f"{name} is there already; choose another name") from None
        except OSError as error:
            raise UsageError(f"{name} cannot be written: {error.strerror}") from error
        self._own.add(path)
        return path

    def load(self, name: str) -> Transcript:
        """A conversation that was saved as JSON. Blocks; raises UsageError."""
        path = _path(name)
        try:
            if path.stat().st_size > MOST_BYTES:
                raise UsageError(f"{name} is too long for a conversation")
            transcript = msgspec.json.decode(path.read_bytes(), type=Transcript)
        except OSError as error:
            raise UsageError(f"{name} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError:
            raise UsageError(f"{name} is no conversation that was saved as JSON") from None
        self._own.add(path)
        return transcript


def _path(name: str) -> Path:
    return Path(name).expanduser().absolute()
