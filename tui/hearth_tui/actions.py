"""Actions of a screen: one list of what can be done, from which keys, help and palette are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a user can do; the app's method `action_NAME` does it."""

    name: str
    keys: tuple[str, ...]  # as Textual names them; the first is the one that is shown
    label: str  # a word for the footer
    does: str  # a sentence for help and palette
    in_footer: bool = True
    needs_operator: bool = False
    first: bool = False  # also where a widget has a use of its own for the key

    @property
    def key_names(self) -> str:
        """The keys as people read them."""
        return ", ".join(_key_name(key) for key in self.keys)


def bindings(actions: Iterable[Action]) -> list[Binding]:
    """What Textual is told of them."""
    return [
        Binding(
            ",".join(action.keys),
            action.name,
            action.label,
            show=action.in_footer,
            key_display=_key_name(action.keys[0]),
            priority=action.first,
        )
        for action in actions
    ]


def _key_name(key: str) -> str:
    """ctrl+r is ^R, question_mark is ?."""
    if key.startswith("ctrl+"):
        return f"^{key[5:].upper()}"
    return _NAMES.get(key, key)


_NAMES = {"question_mark": "?", "escape": "Esc", "f1": "F1", "pageup": "PgUp", "pagedown": "PgDn"}
