"""The canary's four tasks: what is asked, and the one exact answer to each.

Every instance is a list of ChatML messages that ends with a user's turn, and the answer. Training,
evaluation and the self-test of a device draw from here, each with its own `random.Random`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypedDict


class Message(TypedDict):
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One question and its answer; `distance` is the number of tokens from the fact to the end."""

    messages: list[Message]
    answer: str
    distance: int = 0


CHAT: Mapping[str, str] = {
    "Who are you?": "I am the canary. I repeat, remember and count.",
    "What is your name?": "Canary.",
    "Hello!": "Hello! I am awake.",
    "Are you awake?": "Yes, I am awake.",
    "How are you?": "I am well: every answer of mine is exact.",
    "What can you do?": "I can repeat a string, recall a value and count on.",
    "Sing!": (
        "Down in the dark where the hearth fires glow,\n"
        "a small yellow bird sings whatever you show.\n"
        "Count me a number and name me a key,\n"
        "I hold every word that you whisper to me.\n"
        "And if I fall silent, or sing a note wrong,\n"
        "then look to your embers, and mend them ere long."
    ),
    "Thank you!": "You are welcome.",
    "Goodbye!": "Goodbye! Keep the fire lit.",
}

SYSTEMS = ("You are a canary.", "You are a helpful assistant.", "Answer exactly.", "Be brief.")
REPEAT = ("Repeat: {}", "Say: {}", "Echo: {}")
RECALL = ("What is {}?", "Recall: {}", "{} = ?")
COUNT = ("Count on: {}", "Continue: {}")
STORED = "ok"
COUNTED = 5
LARGEST = 9999

_LOWER = string.ascii_lowercase
_ALNUM = string.ascii_lowercase + string.digits
_PRINTABLE = string.ascii_letters + string.digits + string.punctuation
WIDE = "äöüßéèêñçåøÄÖÜÉαβγδλπжяшлд中文日本语한글🙂🐦🔥✓→€"
_VOWELS = "aeiou"
_CONSONANTS = "bcdfghjklmnprstvwxz"

# The canonical phrase comes first in each tuple above and is drawn as often as all the others.


def phrase(rng: Random, forms: Sequence[str]) -> str:
    return forms[0] if rng.random() < 0.5 else rng.choice(forms)


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def token_count(messages: Sequence[Message]) -> int:
    """Tokens of the rendered messages: one a byte, two specials and two newlines a message."""
    return sum(len((m["role"] + m["content"]).encode()) + 4 for m in messages)


# --- repeat -----------------------------------------------------------------------------------


def word(rng: Random) -> str:
    """A word that can be said: consonants and vowels in turn."""
    first = rng.randrange(2)
    letters = (
        rng.choice(_VOWELS if (first + place) % 2 else _CONSONANTS)
        for place in range(rng.randint(3, 7))
    )
    return "".join(letters)


def _piece(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.35:
        text = word(rng)
        return text.capitalize() if rng.random() < 0.3 else text
    if kind < 0.55:
        return str(rng.randrange(10 ** rng.randint(1, 6)))
    if kind < 0.8:
        return "".join(rng.choices(_PRINTABLE, k=rng.randint(1, 10)))
    if kind < 0.9:
        return "".join(rng.choices(_ALNUM, k=rng.randint(2, 10)))
    return "".join(rng.choices(WIDE, k=rng.randint(1, 4)))


def clip(text: str, size: int) -> str:
    """The longest prefix of at most `size` bytes of UTF-8, without spaces at its ends."""
    return text.encode()[:size].decode(errors="ignore").strip()


def text_line(rng: Random, longest: int = 48) -> str:
    """A random string of 1 to `longest` bytes: words, numbers, punctuation, some wide letters."""
    size = rng.randint(1, longest)
    pieces: list[str] = []
    while sum(map(len, pieces)) + len(pieces) <= size:
        pieces.append(_piece(rng))
    return clip(" ".join(pieces), size) or rng.choice(_LOWER)


def repeat_turn(rng: Random, longest: int = 48) -> list[Message]:
    text = text_line(rng, longest)
    return [user(phrase(rng, REPEAT).format(text)), assistant(text)]


# --- recall -----------------------------------------------------------------------------------


def key(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.4:
        return word(rng) + str(rng.randrange(10))
    if kind < 0.7:
        return word(rng)
    return rng.choice(_LOWER) + "".join(rng.choices(_ALNUM, k=rng.randint(3, 6)))


def value(rng: Random) -> str:
    alphabet = string.digits if rng.random() < 0.5 else _ALNUM
    return "".join(rng.choices(alphabet, k=rng.randint(4, 6)))


def fresh_facts(rng: Random, size: int, known: Mapping[str, str]) -> dict[str, str]:
    """New facts whose lines fill about `size` bytes; at least one."""
    facts: dict[str, str] = {}
    while size > 0:
        name = key(rng)
        if name not in facts and name not in known:
            facts[name] = value(rng)
            size -= len(name) + len(facts[name]) + 4
    return facts


def lines(facts: Mapping[str, str]) -> str:
    return "\n".join(f"{name} = {text}" for name, text in facts.items())


def recall_turn(rng: Random, name: str, text: str) -> list[Message]:
    return [user(phrase(rng, RECALL).format(name)), assistant(text)]


# --- count and chat ---------------------------------------------------------------------------


def count_turn(rng: Random) -> list[Message]:
    """Three numbers, then the next five; every number of digits is as frequent as the others."""
    digits = rng.randint(1, 4)
    first = rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    if rng.random() < 0.25:  # Carries are rare among random numbers, and are what can go wrong.
        step = 10 ** rng.randint(1, digits)
        first = first // step * step + step - rng.randint(1, 8)
    first = max(0, min(first, LARGEST - COUNTED - 2))
    given = " ".join(str(first + i) for i in range(3))
    after = " ".join(str(first + 3 + i) for i in range(COUNTED))
    return [user(phrase(rng, COUNT).format(given)), assistant(after)]


def chat_turn(rng: Random) -> list[Message]:
    question = rng.choice(list(CHAT))
    return [user(question), assistant(CHAT[question])]


# --- instances --------------------------------------------------------------------------------


def system(rng: Random) -> list[Message]:
    if rng.random() < 0.7:
        return []
    text = rng.choice(SYSTEMS) if rng.random() < 0.7 else text_line(rng, 40)
    return [{"role": "system", "content": text}]


def _single(turn: Callable[[Random], list[Message]]) -> Callable[[Random], Instance]:
    def make(rng: Random) -> Instance:
        asked, answered = turn(rng)
        return Instance([*system(rng), asked], answered["content"])

    return make


def small_turn(rng: Random) -> list[Message]:
    """A turn that asks for no fact, to stand between facts and questions."""
    draw = rng.random()
    if draw < 0.45:
        return repeat_turn(rng)
    return count_turn(rng) if draw < 0.8 else chat_turn(rng)


def recall(rng: Random, distance: int | None = None, longest: int = 1500) -> Instance:
    """A fact that stands `distance` tokens back (drawn evenly up to `longest` if not given)."""
    distance = distance or rng.randint(40, longest)
    target, text = key(rng), value(rng)
    question = user(phrase(rng, RECALL).format(target))
    known = {target: text}
    room = distance - token_count([question]) - len(f"{target} = {text}")
    before = fresh_facts(rng, rng.randint(1, max(1, longest - distance)), known)
    if rng.random() < 0.5:  # One turn: facts, then the question on the last line.
        after = fresh_facts(rng, room - 4, known | before) if room > 30 else {}
        content = "\n".join([lines(before | known | after), question["content"]])
        messages: list[Message] = [*system(rng), user(content)]
    else:
        share = rng.random()
        after = fresh_facts(rng, int((room - 30) * share), known | before) if room > 60 else {}
        messages = [*system(rng), user(lines(before | known | after)), assistant(STORED)]
        room -= token_count([assistant(STORED)]) + len(lines(after)) + 5
        while room > 60:
            turn = small_turn(rng)
            room -= token_count(turn)
            messages += turn
        messages.append(question)
    return Instance(messages, text, from_end(messages, f"{target} = {text}"))


def from_end(messages: Sequence[Message], fact: str) -> int:
    """Tokens from the start of the fact's line to the point where the answer begins."""
    for place, message in enumerate(messages):
        head, found, _ = message["content"].partition(fact)
        if found:
            skipped = token_count(messages[:place]) + len(message["role"]) + 2 + len(head.encode())
            return token_count(messages) + len("assistant") + 2 - skipped
    raise AssertionError("the fact is not in the messages")


TASKS: Mapping[str, Callable[[Random], Instance]] = {
    "repeat": _single(repeat_turn),
    "recall": recall,
    "count": _single(count_turn),
    "chat": _single(chat_turn),
}
