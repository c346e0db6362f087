"""Owners: on whose behalf a batch runs, hours after its request has gone."""

from __future__ import annotations

from hearthd.access.keyring import Keyring
from hearthd.config.schema import ANONYMOUS
from hearthd.serving.principal import ANYBODY, RIGHTS, Principal


class Owners:
    """What counts is what the key may do when a line is asked."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def principal(self, name: str) -> Principal | None:
        """Who has this name now; None where its key was revoked, has expired, or may leave no work."""
        if name == ANONYMOUS:
            return ANYBODY
        held = self._keyring.get(name)
        if held is None or held.expired(self._keyring.clock()):
            return None
        return held.principal if "batch" in RIGHTS[held.principal.role] else None
