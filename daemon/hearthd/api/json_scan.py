"""ObjectScanner: where a JSON object ends, told as its text arrives."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(r"""["{}\[\]]|[^\s\w+\-.:,]""")  # what opens, closes, or has no place there
_INSIDE = re.compile(r'["\\]')
_PAIRS = {"{": "}", "[": "]"}


class ObjectScanner:
    """Follows one object from its opening brace; says where it ends, not whether it is right.

    `n_scanned` characters are known to belong to it. `is_broken` once something stands there that no
    JSON has, at `n_scanned`.
    """

    __slots__ = ("_expected", "_in_string", "is_broken", "n_scanned")

    def __init__(self) -> None:
        self.n_scanned = 0
        self.is_broken = False
        self._expected: list[str] = []  # closing brackets, the innermost last
        self._in_string = False

    def scan(self, text: str) -> int | None:
        """The number of characters the object has; None as long as its end is not in `text`.

        `text` begins with the object, and with what was given before.
        """
        while not self.is_broken:
            found = (_INSIDE if self._in_string else _OUTSIDE).search(text, self.n_scanned)
            if found is None:
                self.n_scanned = len(text)
                return None
            if found[0] == "\\":
                if found.end() == len(text):
                    self.n_scanned = found.start()
                    return None
                self.n_scanned = found.end() + 1
                continue
            self._take(found[0])
            if self.is_broken:
                self.n_scanned = found.start()
                return None
            self.n_scanned = found.end()
            if not self._expected:
                return self.n_scanned
        return None

    def _take(self, sign: str) -> None:
        if sign == '"':
            self._in_string = not self._in_string
        elif sign in _PAIRS:
            self._expected.append(_PAIRS[sign])
        elif self._expected and sign == self._expected[-1]:
            self._expected.pop()
        else:
            self.is_broken = True
