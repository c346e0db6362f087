"""https:// boxes: who vouches for them, what is asked once, and what is refused before a key is sent."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hearth_process import hearth

from hearth_tui.errors import BoxUntrusted, UsageError
from hearth_tui.trust import KnownBoxes, PinnedContext, Wanted, context_for, parse_fingerprint
from hearthd.access.certificate import facts_of
from hearthd.access.selfsigned import make

ANSWERS = {
    "/v1/models": {"data": []},
    "/readyz": {"ready": True, "models": []},
    "/api/v1/box": {"version": "9", "tls": {"fingerprint": "sha256:ab"}, "of a newer box": 1},
}


class TlsBox:
    """Answers a few questions over TLS, and remembers the keys it was sent."""

    def __init__(self, folder: Path) -> None:
        self.keys: list[str | None] = []
        self.certificate = folder / "box.pem"
        certificate, key = make(["127.0.0.1", "localhost"], datetime.now(UTC))
        self.certificate.write_bytes(certificate)
        (folder / "box.key").write_bytes(key)
        self.fingerprint = facts_of(certificate.decode()).fingerprint
        box = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                box.keys.append(self.headers.get("Authorization"))
                body = json.dumps(ANSWERS[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that does not trust it is none of its errors."""

        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, folder / "box.key")
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self.server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def tls_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBox]:
    box = TlsBox(tmp_path_factory.mktemp("tls"))
    thread = threading.Thread(target=box.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield box
    finally:
        box.server.shutdown()
        thread.join()
        box.server.server_close()


@pytest.fixture
def boxes(tmp_path: Path) -> KnownBoxes:
    return KnownBoxes(tmp_path / "hearth" / "boxes.json")


def models(url: str, home: Path, *flags: str) -> tuple[int, str]:
    done = hearth(
        "--url", url, *flags, "models", XDG_CONFIG_HOME=str(home), HEARTH_API_KEY="secret"
    )
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    return done.returncode, lines[0]


def test_without_a_word_a_box_is_not_trusted(tls_box: TlsBox, tmp_path: Path) -> None:
    tls_box.keys.clear()
    status, line = models(tls_box.url, tmp_path)
    assert status == 1
    assert f"say --fingerprint {tls_box.fingerprint}" in line
    assert tls_box.keys == []


def test_a_fingerprint_is_remembered(tls_box: TlsBox, tmp_path: Path) -> None:
    digits = tls_box.fingerprint.removeprefix("sha256:").upper()
    spoken = ":".join(digits[i : i + 2] for i in range(0, 64, 2))
    for flags in (["--fingerprint", spoken], []):
        status, line = models(tls_box.url, tmp_path, *flags)
        assert (status, line) == (0, "the box has no models")
    assert tls_box.keys[-1] == "Bearer secret"
    known = json.loads((tmp_path / "hearth" / "boxes.json").read_bytes())
    assert known == {f"127.0.0.1:{tls_box.port}": tls_box.fingerprint}


def test_another_certificate_than_the_known_one_gets_no_key(
    tls_box: TlsBox, tmp_path: Path
) -> None:
    boxes = KnownBoxes(tmp_path / "hearth" / "boxes.json")
    boxes.remember(f"127.0.0.1:{tls_box.port}", f"sha256:{'0' * 64}")
    tls_box.keys.clear()
    status, line = models(tls_box.url, tmp_path)
    assert status == 1
    assert "is not the one it is known by" in line
    status, line = models(tls_box.url, tmp_path, "--fingerprint", "1" * 64)
    assert status == 1
    assert f"another fingerprint: {tls_box.fingerprint}" in line
    assert tls_box.keys == []
    assert boxes.fingerprint(f"127.0.0.1:{tls_box.port}") == f"sha256:{'0' * 64}"


def test_an_authority_vouches(tls_box: TlsBox, tmp_path: Path) -> None:
    assert models(tls_box.url, tmp_path, "--ca", str(tls_box.certificate))[0] == 0
    assert not (tmp_path / "hearth").exists()
    status, line = models(tls_box.url, tmp_path, "--ca", str(tmp_path / "none"))
    assert (status, line) == (2, f"hearth: --ca {tmp_path / 'none'}: No such file or directory")


def test_a_person_is_asked_once(tls_box: TlsBox, boxes: KnownBoxes) -> None:
    asked: list[str] = []

    def say(answer: bool) -> bool:
        def ask(text: str) -> bool:
            asked.append(text)
            return answer

        context_for(tls_box.url, Wanted(), boxes, ask)
        return True

    with pytest.raises(BoxUntrusted, match="is not trusted"):
        say(False)
    assert tls_box.fingerprint in asked[0]
    assert say(True)
    assert say(False)  # nobody is asked
    assert len(asked) == 2
    context = context_for(tls_box.url, Wanted(), boxes, None)
    assert isinstance(context, PinnedContext)
    assert context.fingerprint == tls_box.fingerprint


def test_the_status_has_the_fingerprint(tls_box: TlsBox, tmp_path: Path) -> None:
    flags = ["--url", tls_box.url, "--fingerprint", tls_box.fingerprint]
    done = hearth(*flags, "status", XDG_CONFIG_HOME=str(tmp_path))
    assert "tls      sha256:ab" in done.stdout.decode()


def test_a_box_that_is_gone_and_one_without_tls(tmp_path: Path) -> None:
    status, line = models("https://127.0.0.1:1", tmp_path)
    assert status == 3
    assert "no box answers at https://127.0.0.1:1 (Connection refused)" in line


def test_trust_is_for_https_only(boxes: KnownBoxes) -> None:
    assert context_for("http://x", Wanted(), boxes, None) is None
    with pytest.raises(UsageError, match="https://"):
        context_for("http://x", Wanted(fingerprint="0" * 64), boxes, None)


@pytest.mark.parametrize("text", ["", "ab", "sha1:" + "0" * 64, "0" * 63 + "g", "0" * 65])
def test_fingerprints_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        parse_fingerprint(text)


def test_a_damaged_file_is_told(boxes: KnownBoxes) -> None:
    boxes.path.parent.mkdir()
    boxes.path.write_text("[]")
    with pytest.raises(UsageError, match="take it away"):
        boxes.fingerprint("x")
