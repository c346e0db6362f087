"""TLS: a certificate of the box's own or a given one, taken anew under load, and what is refused in words."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import httpx2
import pytest
from api_server import ApiServer
from fake_serving import FakeServing, spell
from openai import AsyncOpenAI

from hearthd.access.certificate import PairFiles, facts_of, fingerprint_of, load_context
from hearthd.access.selfsigned import make, names_of_this_machine, own_files
from hearthd.access.tls import Tls
from hearthd.config.schema import TlsConfig
from hearthd.errors import ConfigError

NOW = datetime.now(UTC)


def write_pair(folder: Path, names: tuple[str, ...] = ("localhost", "127.0.0.1")) -> PairFiles:
    folder.mkdir(exist_ok=True)
    files = PairFiles(folder / "c.pem", folder / "k.pem")
    certificate, key = make(names, NOW)
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(key)
    return files


def given(files: PairFiles) -> TlsConfig:
    return TlsConfig(certificate=str(files.certificate), key=str(files.key))


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[Tls]:
    files = await asyncio.to_thread(write_pair, tmp_path / "given")
    opened = Tls(given(files), tmp_path, "127.0.0.1", look_seconds=0.02)
    await opened.open()
    async with opened.watching():
        yield opened


def handshake(
    url: str, *, name: str | None = "localhost", version: ssl.TLSVersion | None = None
) -> str:
    """The fingerprint that a new connection is shown, with or without a name of the host."""
    import socket

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.maximum_version = version
    host, port = url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname=name) as secured,
    ):
        shown = fingerprint_of(secured.getpeercert(binary_form=True) or b"")
        secured.unwrap()  # waits until the server has closed its side, too
    return shown


# --- one of its own --------------------------------------------------------------------------------


async def test_a_box_makes_a_certificate_once(tmp_path: Path, serving: FakeServing) -> None:
    tls = Tls(TlsConfig(enabled=True, names=("box.example",)), tmp_path, "10.9.8.7")
    await tls.open()
    facts = tls.facts
    assert facts is not None
    assert {"box.example", "10.9.8.7", "localhost", "127.0.0.1", "::1"} <= set(facts.names)
    assert facts.self_signed
    assert facts.valid_from < NOW.timestamp() - 86400
    assert facts.valid_until > NOW.timestamp() + 9 * 365 * 86400
    files = own_files(tmp_path)

    def modes() -> list[int]:
        return [
            stat.S_IMODE(p.stat().st_mode) for p in (files.key, files.certificate, files.key.parent)
        ]

    assert await asyncio.to_thread(modes) == [0o600, 0o644, 0o700]
    again = Tls(TlsConfig(enabled=True), tmp_path, "127.0.0.1")
    await again.open()
    assert again.fingerprint == tls.fingerprint
    async with ApiServer(serving, tls=again) as server:
        shown = [
            await asyncio.to_thread(handshake, server.url, name=name, version=version)
            for name, version in ((None, None), ("localhost", None), (None, ssl.TLSVersion.TLSv1_2))
        ]
        assert set(shown) == {tls.fingerprint}
    assert again.context is not None
    assert again.context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_off_means_off(tmp_path: Path) -> None:
    for config in (TlsConfig(), TlsConfig(enabled=False, certificate="/x")):
        tls = Tls(config, tmp_path, "127.0.0.1")
        await tls.open()
        async with tls.watching():
            assert (tls.context, tls.facts, tls.fingerprint) == (None, None, None)
            assert not await tls.reload()
    assert not await asyncio.to_thread(own_files(tmp_path).certificate.exists)


def test_names_of_this_machine() -> None:
    names = names_of_this_machine("0.0.0.0", ["box.example", "bad name", "straße"])
    assert names[0] == "box.example"
    assert {"localhost", "127.0.0.1", "::1"} < set(names)
    assert not {"0.0.0.0", "::", "bad name", "straße", ""} & set(names)
    assert len(names) == len(set(names))
    facts = facts_of(make(names, NOW)[0].decode())
    assert set(facts.names) == set(names)


# --- a given one -----------------------------------------------------------------------------------


async def test_the_openai_client_and_the_socket(
    tls: Tls, serving: FakeServing, tmp_path: Path
) -> None:
    trusted = ssl.create_default_context(cafile=str(tmp_path / "given" / "c.pem"))
    async with (
        ApiServer(serving, tls=tls, socket=tmp_path / "s") as server,
        httpx2.AsyncClient(verify=trusted) as http,
        AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="x", http_client=http, max_retries=0
        ) as client,
        aiohttp.ClientSession(
            "http://h", connector=aiohttp.UnixConnector(str(tmp_path / "s"))
        ) as local,
    ):
        answer = await client.completions.create(model="canary", prompt="x")
        assert answer.choices[0].text == "Hello"
        async with local.get("/api/v1/box") as response:
            box = await response.json()
        assert box["tls"]["fingerprint"] == tls.fingerprint
        assert box["tls"]["names"] == ["localhost", "127.0.0.1"]
        assert (box["keys"], box["key_required"]) == (0, True)


async def test_a_new_certificate_is_taken_under_load(
    tls: Tls, serving: FakeServing, tmp_path: Path
) -> None:
    """No request fails; streams that run go on; connections opened later see the new certificate."""
    old = tls.fingerprint
    both = [await asyncio.to_thread(write_pair, tmp_path / name) for name in ("second", "third")]
    trusted = ssl.create_default_context(cafile=str(tmp_path / "given" / "c.pem"))
    for files in both:
        trusted.load_verify_locations(str(files.certificate))
    serving.script = spell(*["x"] * 20)
    failures: list[BaseException] = []
    n_answers = 0
    going = True

    async def load(url: str) -> None:
        nonlocal n_answers
        while going:
            async with (
                httpx2.AsyncClient(verify=trusted) as http,
                AsyncOpenAI(
                    base_url=f"{url}/v1", api_key="x", http_client=http, max_retries=0
                ) as client,
            ):
                try:
                    stream = await client.completions.create(
                        model="canary", prompt="x", stream=True
                    )
                    text = "".join([c.choices[0].text async for c in stream if c.choices])
                    assert text == "x" * 20
                    n_answers += 1
                except Exception as error:  # whatever it is: none may come
                    failures.append(error)

    async with ApiServer(serving, tls=tls) as server, asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(load(server.url))
        shown: list[str] = []
        for files in both:
            await asyncio.sleep(0.2)
            await asyncio.to_thread(replace_pair, files, tmp_path / "given")
            async with asyncio.timeout(10):
                while tls.fingerprint in (old, *shown):  # noqa: ASYNC110  # no event tells of it
                    await asyncio.sleep(0.01)
            shown.append(await asyncio.to_thread(handshake, server.url))
        going = False
    assert failures == []
    assert n_answers > 8
    expected = [
        facts_of(await asyncio.to_thread(f.certificate.read_text)).fingerprint for f in both
    ]
    assert shown == expected


def replace_pair(files: PairFiles, folder: Path) -> None:
    shutil.copy(files.key, folder / "k.pem")  # for a moment, the two do not belong together
    shutil.copy(files.certificate, folder / "c.pem")


async def test_a_bad_new_certificate_is_left(
    tls: Tls, serving: FakeServing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = tls.fingerprint
    (tmp_path / "given" / "c.pem").write_text("nothing")
    assert not await tls.reload()
    assert "the old one stays in force" in caplog.text
    async with ApiServer(serving, tls=tls) as server:
        assert await asyncio.to_thread(handshake, server.url) == before
    await asyncio.to_thread((tmp_path / "given" / "k.pem").unlink)
    assert not await tls.reload()
    assert tls.fingerprint == before


def test_what_cannot_be_used_is_said_in_words(tmp_path: Path) -> None:
    one, other = write_pair(tmp_path / "1"), write_pair(tmp_path / "2")
    empty = tmp_path / "empty"
    empty.touch()
    for files, said in (
        (PairFiles(one.certificate, other.key), "the key is not that of the certificate"),
        (PairFiles(empty, one.key), "no certificate and key in PEM"),
        (PairFiles(tmp_path / "none", one.key), "none: No such file"),
        (PairFiles(one.certificate, tmp_path / "none"), "none: No such file"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_context(files)


@pytest.mark.parametrize(
    ("days", "said"),
    [(-20, "has expired"), (5, "expires in 5 days"), (4000, "not valid yet"), (100, "")],
)
async def test_dates_are_told(
    tmp_path: Path, days: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = await asyncio.to_thread(write_pair, tmp_path / "given")
    end = NOW + timedelta(days=3650)
    now = {4000: NOW - timedelta(days=10)}.get(int(days), end - timedelta(days=days)).timestamp()
    tls = Tls(given(files), tmp_path, "127.0.0.1", clock=lambda: now)
    await tls.open()
    assert (said in caplog.text) if said else not caplog.text
