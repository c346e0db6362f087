"""The matrix of backends and features as a page: `python tests/conformance/matrix.py > docs/conformance.md`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

from encoders import ENCODER_FEATURES, ENCODERS
from features import FEATURES
from subjects import SUBJECTS

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

HEAD = """# Conformance

One suite, every backend in every way it can be run (`tests/conformance/`). A cell is **yes** where the test of that feature
passes, or the number of the words in which the backend refuses: the test then asserts that it does, and in these words.
There is no third kind. This page is generated: `python tests/conformance/matrix.py > docs/conformance.md`.
"""

ENCODER_HEAD = """Models that turn texts into vectors, or score pairs of them, have a suite of their own
(`tests/conformance/encoders.py`)."""


def page() -> str:
    """The whole page in Markdown."""
    notes: list[str] = []
    rows = []
    for subject in SUBJECTS:
        cells = []
        for feature in FEATURES:
            words = subject.refuses.get(feature.name)
            if words is None:
                cells.append("yes")
                continue
            if words not in notes:
                notes.append(words)
            cells.append(f"no ({notes.index(words) + 1})")
        rows.append(_line([subject.name, *cells]))
    names = [feature.name.replace("_", " ") for feature in FEATURES]
    table = [_line(["backend", *names]), _line(["---"] * (len(names) + 1)), *rows]
    refusals = [f"{i}. “… {words} …”" for i, words in enumerate(notes, 1)]
    promises = [f"- **{f.name.replace('_', ' ')}**: {f.promise}." for f in FEATURES]
    parts = [HEAD, "\n".join(table), "Refused in words:", "\n".join(refusals)]
    parts += ["## What a yes promises", "\n".join(promises)]
    parts += ["## Encoders", ENCODER_HEAD, _encoders()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _encoders() -> str:
    """The table of encoders, which refuse nothing, and its promises."""
    names = [feature.name for feature in ENCODER_FEATURES]
    rows = [_line([subject.name, *["yes"] * len(names)]) for subject in ENCODERS]
    table = [_line(["backend", *names]), _line(["---"] * (len(names) + 1)), *rows]
    promises = [f"- **{f.name}**: {f.promise}." for f in ENCODER_FEATURES]
    return "\n".join(table) + "\n\n" + "\n".join(promises)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(page())
