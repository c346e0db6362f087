"""The conformance suite of encoders: every backend does every feature."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from encoders import ENCODER_FEATURES, ENCODERS, EncoderFeature, EncoderSubject, forget_encoders


@pytest.fixture(scope="module", autouse=True)
def written_models() -> Iterator[None]:
    """Gone when the suite is over."""
    yield
    forget_encoders()


@pytest.mark.parametrize("feature", ENCODER_FEATURES, ids=lambda feature: feature.name)
@pytest.mark.parametrize("subject", ENCODERS, ids=lambda subject: subject.name)
def test_cell(subject: EncoderSubject, feature: EncoderFeature) -> None:
    absence = subject.absence()
    if absence is not None:
        pytest.skip(absence)
    feature.run(subject)
