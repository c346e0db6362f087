"""Prefixes through the daemon: kept over its restart, shared as salts say, gone with their model."""

from __future__ import annotations

import hashlib
import json
import signal
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hearthd_process import Daemon, running

from hearth_backends.kv.contract import BLOCK_TOKENS
from hearthd.serving.prefix_folders import PrefixFolders

SYSTEM = [97 + (i * i * 3 + i) % 26 for i in range(1000)]


def cached(daemon: Daemon, suffix: int, key: str = "", model: str = "m") -> int:
    """Tokens of a prompt that were not computed: the system prompt and something else."""
    body = {
        "model": model, "prompt": [*SYSTEM, *[65 + suffix] * 20], "max_tokens": 4, "temperature": 0,
    }  # fmt: skip
    connection = HTTPConnection(daemon.address(), timeout=30)
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    assert response.status == 200, answer
    n_cached: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return n_cached


def metric(daemon: Daemon, sample: str) -> float:
    connection = HTTPConnection(daemon.address(), timeout=30)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return next((float(line.split()[-1]) for line in lines if line.startswith(sample)), 0.0)


def test_a_system_prompt_outlives_the_daemon(short_path: Path) -> None:
    with running(short_path, "--model", "m=sim:variant=cells") as daemon:
        daemon.until_ready()
        assert cached(daemon, 1) == 0
        assert cached(daemon, 2) >= len(SYSTEM)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=20) == 0
    folder = daemon.state / "prefixes" / "m.kv"
    assert len(list(folder.glob("*.prefix"))) == 1
    with running(short_path, "--model", "m=sim:variant=cells") as daemon:
        daemon.until_ready()
        assert cached(daemon, 3) >= len(SYSTEM) - BLOCK_TOKENS
        recalls = 'hearth_prefix_recalls_total{model="m",tier="disk"}'
        daemon.until(lambda: metric(daemon, recalls) == 1.0)
        assert metric(daemon, 'hearth_prefix_stored_bytes{model="m",tier="disk"}') > 0
    with running(
        short_path, "--model", "m=sim:variant=cells", "--set", "models.m.prefix_disk=0"
    ) as daemon:
        daemon.until_ready()
        assert not folder.exists()
        assert cached(daemon, 4) == 0


def test_keys_share_prefixes_only_under_the_same_salt(short_path: Path) -> None:
    salts = {"ann": "family", "bob": "family", "eve": "", "mallory": "other"}
    config = short_path / "hearthd.toml"
    config.write_text(
        "".join(
            f'[keys.{name}]\nhash = "{hashlib.sha256(name.encode()).hexdigest()}"\nsalt = "{salt}"\n'
            for name, salt in salts.items()
        )
    )
    with running(short_path, "--config", str(config), "--model", "m=sim:") as daemon:
        daemon.until_ready()
        assert [cached(daemon, 1, name) // 1000 for name in salts] == [0, 1, 0, 0]
        assert [cached(daemon, 1, name) // 1000 for name in salts] == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["m", "..", "a/b", "über model", "."])
def test_folders_are_named_for_models_and_go_with_them(name: str, tmp_path: Path) -> None:
    root = tmp_path / "prefixes"
    folders = PrefixFolders(root)
    folders.keep_only([])  # nothing is there yet
    mine, other = folders.of(name), folders.of("other")
    for folder in (mine, other):
        folder.mkdir(parents=True)
        (folder / "x.prefix").write_bytes(b"x")
    assert mine.parent == root
    folders.keep_only([name])
    assert mine.exists()
    assert list(root.iterdir()) == [mine]
