"""A disk that is really full: every request is answered, nothing is kept, one alert; as root, on a file system of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import msgspec
import pytest
from hearthd_process import Daemon, running

pytest.importorskip("llama_cpp")
pytestmark = [pytest.mark.fulldisk, pytest.mark.timeout(180)]

N_QUESTIONS = 40


@pytest.fixture
def small(short_path: Path) -> Iterator[Path]:
    """A folder on a file system of 24 MB."""
    if os.geteuid():
        pytest.skip("only root mounts file systems")
    folder = short_path / "state"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def asked(daemon: Daemon, question: str) -> str:
    body = {"model": "m", "prompt": question, "max_tokens": 4, "temperature": 0}
    request = Request(
        f"http://{daemon.address()}/v1/completions",
        msgspec.json.encode(body),
        {"Content-Type": "application/json"},
    )
    with urlopen(request) as response:
        assert response.status == 200
        assert response.read()
        return str(response.headers["X-Cache"])


def test_a_full_disk_is_told_once_and_fails_nothing(short_path: Path, small: Path) -> None:
    flags = ("--set", "models.m.path=canary", "--set", "models.m.prefix_disk=0")
    with running(short_path, *flags, "--set", "hardware.checkup=false") as daemon:
        daemon.until_ready()
        assert asked(daemon, "copy: a\n") == "MISS"
        daemon.until(lambda: asked(daemon, "copy: a\n") == "HIT")
        ballast = small / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        results = [asked(daemon, f"copy: {i} {'x' * 400}\n") for i in range(N_QUESTIONS)]
        assert results == ["MISS"] * N_QUESTIONS
        daemon.until(lambda: bool(alerts(daemon)))
        assert asked(daemon, "copy: a\n") == "HIT"  # what was kept is still found
        assert [asked(daemon, f"copy: {i} {'x' * 400}\n") for i in range(2)] == ["MISS"] * 2
        assert len(alerts(daemon)) == 1
        ballast.unlink()


def alerts(daemon: Daemon) -> list[dict[str, object]]:
    """What the cache has said loudly."""
    return [
        line
        for line in daemon.log
        if line["logger"].startswith("hearthd.cache") and line["level"] in ("warning", "error")
    ]
