"""The conformance suite: every backend does every feature, or refuses it in words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from features import FEATURES, Feature
from matrix import PAGE, page
from subjects import SUBJECTS, Subject, forget_models

from hearth_backends.errors import Unsupported


@pytest.fixture(scope="module", autouse=True)
def written_models() -> Iterator[None]:
    """Gone when the suite is over."""
    yield
    forget_models()


def _subjects() -> list[object]:
    """Subjects with their names, the slow ones marked."""
    return [
        pytest.param(s, id=s.name, marks=[pytest.mark.slow] if s.is_slow else []) for s in SUBJECTS
    ]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
@pytest.mark.parametrize("subject", _subjects())
def test_cell(subject: Subject, feature: Feature) -> None:
    absence = subject.absence()
    if absence is not None:
        pytest.skip(absence)
    words = subject.refuses.get(feature.name)
    if words is None:
        feature.run(subject)
        return
    with pytest.raises(Unsupported, match=words):
        feature.run(subject)


def test_the_matrix_in_the_documentation_is_current() -> None:
    assert PAGE.read_text() == page(), (
        "run `python tests/conformance/matrix.py > docs/conformance.md`"
    )
