"""Patterns of JSON schemas: whether the grammar of JSON strings made of one takes what it matches, and no more.

In JSON, quotes, backslashes and control characters are written as escapes. The compiler of grammars
takes a class that has unusual control characters, and not the quote or the backslash, to have these
too; and control characters without a short escape cannot be written at all here.
"""

from __future__ import annotations

import re
from enum import Enum

PLAIN = r'^[^\x00-\x1f"\\]*$'
"""Matches what needs no escape; a pattern that is TOO_WIDE together with this one is right."""


class Verdict(Enum):
    """What becomes of a pattern."""

    EXACT = "exact"
    TOO_WIDE = "too wide"  # strings with quotes or backslashes might come that it does not match
    UNSERVED = "unserved"


_SHORT = "\b\f\n\r\t"
_UNUSUAL = [chr(code) for code in range(32) if chr(code) not in _SHORT]
_WRITABLE = [chr(code) for code in range(32, 256)] + ["ж", "中", "😀", *_SHORT]
_ESCAPE = re.compile(
    r"""\\(?:[xuU]\{(?P<braced>[0-9A-Fa-f]+)\}
    | x(?P<two>[0-9A-Fa-f]{2}) | u(?P<four>[0-9A-Fa-f]{4}) | U(?P<eight>[0-9A-Fa-f]{8})
    | c(?P<control>[A-Za-z]) | (?P<octal>[0-7]+) | (?P<letter>[av])
    | (?P<property>[pP]) (?P<negated>\{\^)? \{? (?P<other>C)? | . )""",
    re.DOTALL | re.VERBOSE,
)
_SET_OPERATORS = ("[", "&&", "--", "~~", "||")


def judge(pattern: str) -> Verdict:
    """The verdict on a pattern; what is not understood is judged by the worst that it may be."""
    worst = Verdict.EXACT
    at = 0
    while at < len(pattern):
        if pattern[at] == "[":
            end = _end_of_class(pattern, at)
            verdict = _judge_class(pattern[at:end])
            if verdict is Verdict.UNSERVED:
                return verdict
            worst = verdict if verdict is Verdict.TOO_WIDE else worst
            at = end
        elif pattern[at] == "\\":
            escape = _ESCAPE.match(pattern, at)
            if escape is None or _is_unusual(escape):
                return Verdict.UNSERVED
            if escape["property"] == "P" or escape["negated"]:
                worst = Verdict.TOO_WIDE
            at = escape.end()
        elif pattern[at] in _UNUSUAL:
            return Verdict.UNSERVED
        else:
            at += 1
    return worst


def _is_unusual(escape: re.Match[str]) -> bool:
    """Whether an escape names a control character that cannot be written."""
    if escape["letter"] or (escape["property"] and escape["other"]):
        return True
    if escape["control"]:
        code = ord(escape["control"].upper()) - 64
    elif escape["octal"]:
        code = int(escape["octal"], 8)
    else:
        digits = escape["braced"] or escape["two"] or escape["four"] or escape["eight"]
        if digits is None:
            return False
        code = int(digits, 16)
    return code < 32 and chr(code) in _UNUSUAL


def _end_of_class(pattern: str, start: int) -> int:
    """After the bracket that closes a class."""
    at = start + 1
    at += pattern[at : at + 1] == "^"
    at += pattern[at : at + 1] == "]"
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return min(at + 1, len(pattern))


def _judge_class(text: str) -> Verdict:
    if any(operator in text[1:] for operator in _SET_OPERATORS):
        return Verdict.UNSERVED
    try:
        matches = re.compile(text, re.DOTALL).fullmatch
    except (re.error, OverflowError):  # a class of Unicode, or no class at all
        return Verdict.UNSERVED if re.search(r"\\[pP]\{?\^?C", text) else Verdict.TOO_WIDE
    if not any(map(matches, _WRITABLE)):
        return Verdict.UNSERVED
    has_unusual = any(map(matches, _UNUSUAL))
    return (
        Verdict.TOO_WIDE if has_unusual and not (matches('"') and matches("\\")) else Verdict.EXACT
    )
