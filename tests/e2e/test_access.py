"""A fresh box, from its first key over the Unix socket to an answer over TLS on the network, with `hearth` and openai."""

from __future__ import annotations

import functools
import json
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx2
import pytest
from hearth_process import hearth
from hearthd_process import Daemon, hearthd, running
from openai import AuthenticationError, OpenAI

from hearthd.access.selfsigned import own_files

QUIET = ("--set", "hardware.checkup=false")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.slow
def test_from_the_first_key_to_an_answer(tmp_path: Path) -> None:
    open_to_all = ("--listen", f"0.0.0.0:{free_port()}")
    with running(tmp_path, *QUIET) as daemon:
        daemon.address()
        refused = hearthd("config", "check", *daemon.flags, *open_to_all)
        assert refused.returncode == 2
        assert "there are no keys; say 'hearth keys add NAME'" in refused.stderr
        key = (
            hearth("--socket", str(daemon.socket), "keys", "add", "laptop").stdout.decode().strip()
        )
        assert hearthd("config", "check", *daemon.flags, *open_to_all).returncode == 0
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(20) == 0

    with running(tmp_path, *QUIET, *open_to_all, "--set", "tls.enabled=true") as daemon:
        url = f"https://127.0.0.1:{daemon.address().rpartition(':')[2]}"
        local = ("--socket", str(daemon.socket))
        status = json.loads(hearth(*local, "status", "--json").stdout)
        remote = functools.partial(hearth, XDG_CONFIG_HOME=str(tmp_path), HEARTH_API_KEY=key)
        asked = remote("--url", url, "--fingerprint", status["tls"], "ask", "Repeat: hello 42")
        assert asked.stdout.decode().strip() == "hello 42"

        trusted = ssl.create_default_context(cafile=str(own_files(daemon.state).certificate))
        with httpx2.Client(verify=trusted) as http:
            client = OpenAI(base_url=f"{url}/v1", api_key=key, http_client=http, max_retries=0)
            answer = client.chat.completions.create(
                model="canary",
                messages=[{"role": "user", "content": "Repeat: hello 42"}],
                temperature=0,
            )
            assert answer.choices[0].message.content == "hello 42"
            assert hearth(*local, "keys", "revoke", "laptop").returncode == 0
            with pytest.raises(AuthenticationError, match="not one of those that were given out"):
                client.models.list()

        revoked = remote("--url", url, "models")
        assert (revoked.returncode, len(revoked.stderr.splitlines())) == (1, 1)
        assert b"the box does not take the key that was sent" in revoked.stderr

        _reload(daemon, "refused")  # nobody could use the address
        assert hearth(*local, "keys", "add", "phone").returncode == 0
        _renew(daemon.state)
        _reload(daemon, "read again")
        daemon.until(
            lambda: json.loads(hearth(*local, "status", "--json").stdout)["tls"] != status["tls"]
        )
        gone = remote("--url", url, "models")
        assert gone.returncode == 1
        assert b"is not the one it is known by" in gone.stderr
        done = json.loads(hearth(*local, "audit", "--json").stdout)["actions"]
        assert [(a["action"], a["status"]) for a in done] == [
            ("reload", 200),
            ("POST /api/v1/keys", 201),
            ("reload", 400),
            ("DELETE /api/v1/keys/laptop", 200),
            ("POST /api/v1/keys", 201),
        ]


def _reload(daemon: Daemon, said: str) -> None:
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: any(said in line["message"] for line in daemon.log))


def _renew(state: Path) -> None:
    """As a program that renews certificates does."""
    files = own_files(state)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "90", "-subj", "/CN=box", "-keyout", files.key, "-out", files.certificate],
        check=True, capture_output=True,
    )  # fmt: skip
