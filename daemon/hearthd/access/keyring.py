"""Keyring: every key that counts now, of the configuration and of the store, known by its hash only."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hearthd.config.schema import KeyConfig
from hearthd.serving.principal import Principal, principal_of

KeySource: TypeAlias = Literal["configuration", "store"]

PREFIX: Final = "hearth_"
"""That programs which look for secrets in other people's files know ours."""
_KEY_BYTES: Final = 32


@dataclass(slots=True)
class Held:
    """One key that was given out."""

    config: KeyConfig
    principal: Principal
    digest: bytes
    source: KeySource
    created: float | None = None  # unix seconds
    last_used: float | None = None  # unix seconds, since the daemon started

    def expired(self, unix_now: float) -> bool:
        """Whether its time is over."""
        expires = self.config.expires
        return expires is not None and expires.timestamp() <= unix_now


class Keyring:
    """Changes at once: the next request finds what is here then. Owned by the event loop's thread."""

    def __init__(
        self,
        keys: Mapping[str, KeyConfig] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`keys` are the configuration's; their hashes are valid and differ. `clock` is unix time."""
        self.clock = clock
        self.configs: dict[str, KeyConfig] = {}
        """What each key's owner asked for, by name; the same dict for the ring's whole life."""
        self._held: dict[str, Held] = {}
        self.configure(keys or {})

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: object) -> bool:
        return name in self._held

    @property
    def held(self) -> tuple[Held, ...]:
        """All of them, those of the configuration first."""
        return tuple(sorted(self._held.values(), key=lambda key: key.source))

    def get(self, name: str) -> Held | None:
        """The key of this name."""
        return self._held.get(name)

    def configure(self, keys: Mapping[str, KeyConfig]) -> frozenset[str]:
        """Take the configuration's keys, in place of those it had; names of those that are gone or differ."""
        before = {n: key.config for n, key in self._held.items() if key.source == "configuration"}
        changed = frozenset(name for name, config in before.items() if keys.get(name) != config)
        for name in changed:
            self.drop(name)
        for name, config in keys.items():
            if before.get(name) != config:
                self.put(name, config, "configuration")
        return changed

    def put(
        self, name: str, config: KeyConfig, source: KeySource, created: float | None = None
    ) -> None:
        """Add one, or put it in the place of another of its name."""
        digest = bytes.fromhex(config.hash[-64:])
        self._held[name] = Held(config, principal_of(name, config), digest, source, created)
        self.configs[name] = config

    def drop(self, name: str) -> None:
        """It counts no more."""
        self._held.pop(name, None)
        self.configs.pop(name, None)

    def find(self, key: str) -> Held | None:
        """Which of them this is, expired or not; looks at all for any key, so that time tells nothing."""
        shown = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found: Held | None = None
        for held in self._held.values():
            if hmac.compare_digest(shown, held.digest):
                found = held
        return found


def new_key() -> tuple[str, str]:
    """A key nobody can guess, and the hash that it is known by."""
    key = PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    return key, "sha256:" + hashlib.sha256(key.encode()).hexdigest()
