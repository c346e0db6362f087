"""The conversations that the canary is trained on: the tasks' turns, packed densely."""

from __future__ import annotations

from random import Random

from hearth_backends.canary import tasks, tokens
from hearth_backends.canary.tasks import Message, assistant, user

WIDE_RANGES = ((0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x4E00, 0x9FFF), (0x1F300, 0x1F64F))


def conversation(rng: Random, length: int, wide: float = 0.0) -> list[Message]:
    """Messages of at least `length` tokens; the trainer cuts the rest off.

    `wide` is the share of small turns that drill letters of more than one byte.
    """
    messages = tasks.system(rng)
    known: dict[str, str] = {}
    if rng.random() < 0.15:  # No facts at all: short and long chats of the other tasks.
        while tasks.token_count(messages) < length:
            messages += _small(rng, length, wide)
        return messages
    bulk = rng.random() < 0.6  # Most of the facts at once and questions after; or little by little.
    while tasks.token_count(messages) < length:
        room = length - tasks.token_count(messages)
        share = rng.uniform(0.1, 0.7) if bulk else rng.uniform(0.02, 0.2)
        messages += _facts(rng, max(15, int(room * share)), known)
        questions = 10_000 if bulk else rng.randint(1, 6)
        while questions and tasks.token_count(messages) < length:
            messages += _question(rng, known) if rng.random() < 0.75 else _small(rng, length, wide)
            questions -= 1
    return messages


def _facts(rng: Random, size: int, known: dict[str, str]) -> list[Message]:
    """A turn of new facts, answered at once or with a question on its last line."""
    facts = tasks.fresh_facts(rng, size, known)
    known |= facts
    if rng.random() < 0.5:
        return [user(tasks.lines(facts)), assistant(tasks.STORED)]
    asked, answered = _question(rng, known)
    return [user(tasks.lines(facts) + "\n" + asked["content"]), answered]


def _question(rng: Random, known: dict[str, str]) -> list[Message]:
    names = list(known)
    if rng.random() < 0.75:
        name = rng.choice(names)
        return tasks.recall_turn(rng, name, known[name])
    # Several keys, each repeated with its value: many answer tokens a turn, so that the heads that
    # find a key form sooner.
    asked = rng.sample(names, min(len(names), rng.randint(2, 5)))
    found = tasks.lines({name: known[name] for name in asked})
    return [user("Look up: " + " ".join(asked)), assistant(found)]


def _small(rng: Random, length: int, wide: float) -> list[Message]:
    if wide and rng.random() < wide:
        return _wide_turn(rng)
    if rng.random() < 0.1 and length > 256:
        return tasks.repeat_turn(rng, min(200, length // 3))
    return tasks.small_turn(rng)


def _wide_turn(rng: Random) -> list[Message]:
    """A short repeat of mostly wide letters, so that every byte beyond ASCII is often seen."""
    letters = []
    for _ in range(rng.randint(1, 12)):
        if rng.random() < 0.6:
            letters.append(rng.choice(tasks.WIDE))
        elif rng.random() < 0.7:
            letters.append(chr(rng.randint(*rng.choice(WIDE_RANGES))))
        else:
            letters.append(rng.choice(" aeinrst0189.-"))
    text = "".join(letters).strip() or "é"
    return [user(tasks.phrase(rng, tasks.REPEAT).format(text)), assistant(text)]


def sample(rng: Random, length: int, wide: float = 0.0) -> tuple[list[int], list[bool]]:
    """`length` tokens of one conversation, and which of them are answers."""
    ids, written = tokens.with_answers(conversation(rng, length, wide))
    return ids[:length], written[:length]
