"""Guards: why two questions, however alike they sound, must not get the same answer; pure."""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = re.compile(r"\d+(?:[.,:/]\d+)*\s?(?:%|°|[a-zA-Z]{1,3}\b)?")
_QUOTED: Final = re.compile(r"\"([^\"]*)\"|“([^”]*)”|«([^»]*)»|(?<!\w)'([^']+)'(?!\w)|`([^`]*)`")
_CODE: Final = re.compile(
    r"\w+\(|\w+_\w+|\b[a-z]+[A-Z]\w*|\w+(?:\.\w+)+|[\\/]\w+|[{}<>=;@#$^|~]|::|->|\bhttps?:\S+"
)
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_APOSTROPHE: Final = "\u2019"
_SENTENCE_START: Final = re.compile(r"(?:^|[.!?:]\s+)[\"“(]*$")

_NUMBERS: Final = frozenset({
    "billion", "double", "dozen", "eight", "eighty", "eleven", "fifteen", "fifth", "fifty", "first",
    "five", "forty", "four", "fourth", "half", "hundred", "last", "million", "nine", "ninety",
    "once", "one", "quarter", "second", "seven", "seventy", "single", "six", "sixty", "ten",
    "third", "thirteen", "thirty", "thousand", "three", "triple", "twelve", "twenty", "twice",
    "two", "zero",
})  # fmt: skip
_NEGATIONS: Final = frozenset({
    "avoid", "cannot", "cant", "except", "exclude", "excluding", "fail", "fails", "false", "jamais",
    "kein", "keine", "lack", "lacks", "neither", "never", "ni", "nicht", "nie", "no", "nobody",
    "non", "none", "nor", "not", "nothing", "nunca", "ohne", "pas", "sans", "sin", "stop", "un",
    "unless", "without",
})  # fmt: skip
_OPPOSITES: Final = (
    ("min", "max"), ("minimum", "maximum"), ("least", "most"), ("less", "more"), ("smallest", "largest"),
    ("shortest", "longest"), ("lowest", "highest"), ("cheapest", "dearest"), ("worst", "best"),
    ("slowest", "fastest"), ("oldest", "newest"), ("before", "after"), ("above", "below"),
    ("over", "under"), ("up", "down"), ("left", "right"), ("in", "out"), ("on", "off"),
    ("increase", "decrease"), ("add", "remove"), ("buy", "sell"), ("open", "close"), ("start", "end"),
    ("enable", "disable"), ("allow", "forbid"), ("encode", "decode"), ("encrypt", "decrypt"),
    ("import", "export"), ("upload", "download"), ("install", "uninstall"), ("win", "lose"),
    ("hot", "cold"), ("north", "south"), ("east", "west"), ("male", "female"), ("safe", "dangerous"),
    ("legal", "illegal"), ("true", "false"), ("with", "without"), ("yesterday", "tomorrow"),
    ("advantages", "disadvantages"), ("pros", "cons"), ("asynchronous", "synchronous"),
    ("inclusive", "exclusive"), ("ascending", "descending"), ("public", "private"), ("same", "different"),
    ("lend", "borrow"), ("parent", "child"), ("push", "pull"), ("love", "hate"), ("inner", "outer"),
)  # fmt: skip
_ASKED_FOR: Final = {
    "who": "who", "whom": "who", "whose": "who", "when": "when", "where": "where", "why": "why",
}  # fmt: skip
_STARTERS: Final = frozenset({
    "a", "about", "an", "and", "any", "are", "as", "at", "by", "calculate", "can", "compare",
    "convert", "copy", "could", "count", "create", "define", "describe", "did", "do", "does",
    "explain", "find", "for", "from", "give", "has", "have", "help", "how", "i", "if", "in", "is",
    "it", "let", "list", "make", "may", "me", "might", "must", "my", "name", "of", "on", "or", "ought",
    "please", "recommend", "say", "shall", "should", "show", "so", "spell", "suggest", "summarise", "summarize", "tell", "that", "the",
    "their", "there", "these", "this", "those", "to", "translate", "was", "we", "were", "what",
    "what's", "when", "where", "which", "who", "whose", "why", "will", "with", "would", "write",
    "you", "your",
})  # fmt: skip


def differs(one: str, other: str) -> str | None:
    """What keeps two questions apart, in a word; None where nothing is found that does."""
    one, other = one.replace(_APOSTROPHE, "'"), other.replace(_APOSTROPHE, "'")
    for reason, read in _CHECKS:
        if read(one) != read(other):
            return reason
    words, others = _words(one), _words(other)
    if _names(one, others) != _names(other, words):
        return "name"
    if _are_opposed(set(words), set(others)):
        return "opposite"
    asked, asked_there = _asked_for(words), _asked_for(others)
    if asked and asked_there and asked != asked_there:
        return "asked"  # "Who founded it?", "When was it founded?"
    if words != others and sorted(words) == sorted(others):
        return "order"  # "dollars to euros", "euros to dollars"
    return None


def _numbers(text: str) -> list[str]:
    """Numbers with their units, and words that are numbers, in order."""
    found = [(m.start(), "".join(m[0].lower().split())) for m in _NUMBER.finditer(text)]
    found += [(m.start(), m[0].lower()) for m in _WORD.finditer(text) if m[0].lower() in _NUMBERS]
    return [number for _, number in sorted(found)]


def _quoted(text: str) -> list[str]:
    return [" ".join(filter(None, match)) for match in _QUOTED.findall(text)]


def _code(text: str) -> list[str]:
    """What looks like code, paths and addresses."""
    return sorted(match[0] for match in _CODE.finditer(text))


def _negations(text: str) -> list[str]:
    words = _words(text)
    return sorted(
        "not" if word.endswith("n't") or word in ("cannot", "cant") else word
        for word in words
        if word in _NEGATIONS or word.endswith("n't")
    )


def _asked_for(words: list[str]) -> set[str]:
    """Whether a person, a time, a place or a reason is asked for, where a word of its own says so."""
    return {_ASKED_FOR[word] for word in words if word in _ASKED_FOR}


def _are_opposed(words: set[str], others: set[str]) -> bool:
    """Whether one says a word where the other says its opposite."""
    only, only_other = words - others, others - words
    return any(
        (a in only and b in only_other) or (b in only and a in only_other) for a, b in _OPPOSITES
    )


def _names(text: str, others: list[str]) -> list[str]:
    """Capitalised words in order; at the start of a sentence, those that the other text lacks."""
    return [
        match[0].lower().removesuffix("'s")
        for match in _WORD.finditer(text)
        if match[0][0].isupper()
        and match[0] != "I"
        and not (
            _SENTENCE_START.search(text[: match.start()])
            and (match[0].lower() in _STARTERS or match[0].lower() in others)
        )
    ]


def _words(text: str) -> list[str]:
    return [match[0].lower() for match in _WORD.finditer(text)]


_CHECKS: Final = (
    ("number", _numbers),
    ("quote", _quoted),
    ("code", _code),
    ("negation", _negations),
)
