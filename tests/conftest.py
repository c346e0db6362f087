"""Every test: a home of its own, nothing of the environment, and no blocking of the event loop."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

_AMBIENT_PREFIXES = ("HEARTH_", "XDG_", "OPENAI_", "LC_")
_AMBIENT = (
    "NOTIFY_SOCKET", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY",
    "LANG", "PYTHONWARNINGS",
    "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
)  # fmt: skip
_KEPT = "HEARTH_SHARED_MODELS"  # names files that tests read, not behaviour


def pytest_configure() -> None:
    """Ctrl-C is not ignored, as it is in what a shell started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


_ASKED_FOR = {
    "soak": "takes minutes: `pytest -m soak`",
    "fulldisk": "mounts a file system, as root: `pytest -m fulldisk`",
    "batch5k": "takes minutes: `pytest -m batch5k`",
    "lan": "makes network namespaces, as root: `pytest -m lan`",
    "boot": "boots a system, as root: `make test-boot`",
    "triton": "needs versions of its own: `make test-triton`",
}
"""Markers of tests that run only for those who name them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Soaks and the like are for those who ask for them."""
    for marker, reason in _ASKED_FOR.items():
        if not re.search(rf"\b{marker}\b", config.option.markexpr):
            for item in items:
                if (
                    item.get_closest_marker(marker) is not None
                ):  # keywords hold names of folders, too
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing outside decides what a test sees, and it leaves nothing outside."""
    for name in list(os.environ):
        if (name.startswith(_AMBIENT_PREFIXES) or name in _AMBIENT) and name != _KEPT:
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    for name, folder in (
        ("HOME", home),
        ("XDG_CONFIG_HOME", home / ".config"),
        ("XDG_STATE_HOME", home / ".local/state"),
        ("XDG_CACHE_HOME", home / ".cache"),
        ("XDG_RUNTIME_DIR", home / "run"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(folder))


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """A blocking call of ours while a loop runs in this thread raises BlockingError."""
    with blockbuster_ctx(["hearthd", "hearth_tui"]) as guard:
        yield guard


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    """Whatever a test does to the log ends with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a name short enough for a socket, whose path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        yield Path(folder)
