"""Who is let in: each address for each role over each transport, and what a request needs to come from this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web

from hearthd.access.attempts import Attempts
from hearthd.access.keyring import Keyring
from hearthd.access.peer import Trust, UnixPeer, peer_of
from hearthd.access.register import Register
from hearthd.access.tls import Tls
from hearthd.api import access, middleware
from hearthd.api.authentication import PRINCIPAL
from hearthd.api.caller import names_this_machine
from hearthd.api.connection import listen
from hearthd.api.keys import GATE, KEYRING, METRICS, OPTIONS, REGISTER, ApiOptions, Gate
from hearthd.api.routes import ROUTES_BY_RIGHT
from hearthd.config.schema import KeyConfig, Role, TlsConfig
from hearthd.serving.principal import Right
from hearthd.telemetry.metrics import Metrics

ROLES: tuple[Role, ...] = ("readonly", "user", "batch", "operator")
MAY: dict[Right, tuple[Role, ...]] = {
    "open": ROLES,
    "read": ROLES,
    "watch": ("readonly", "operator"),
    "use": ("user", "batch", "operator"),
    "batch": ("user", "batch", "operator"),
    "admin": ("operator",),
}
GROUP = 54321
ADDRESSES = [
    address.address
    for addresses in psutil.net_if_addrs().values()
    for address in addresses
    if address.family == socket.AF_INET and not address.address.startswith("127.")
]


async def echo(request: web.Request) -> web.Response:
    """Whose request it was, in place of whatever would be done."""
    principal = request.get(PRINCIPAL)
    return web.Response(
        text="nobody" if principal is None else f"{principal.name} {principal.role}"
    )


class Box:
    """Every address of hearthd with the real middleware before it, on every transport at once."""

    def __init__(
        self, folder: Path, *, insecure: bool = False, trust_loopback: bool = True
    ) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.keyring = Keyring()
        self.tls = Tls(TlsConfig(enabled=True), folder, "127.0.0.1")
        self.ports: dict[str, str] = {}
        self._app = web.Application(middlewares=[middleware.watch])
        self._app[KEYRING] = self.keyring
        self._app[REGISTER] = self.register = Register(folder, self.keyring)
        self.attempts = Attempts()
        trust = Trust(frozenset({os.geteuid()}), frozenset({GROUP}))
        self._app[GATE] = Gate(self.attempts, trust, trust_loopback)
        self._app[METRICS] = self.metrics = Metrics()
        self._app[OPTIONS] = ApiOptions(insecure=insecure)
        access.set_rights(
            self._app,
            {
                right: tuple(web.RouteDef(route.method, route.path, echo, {}) for route in routes)
                for right, routes in ROUTES_BY_RIGHT.items()
            },
        )
        self._servers: list[asyncio.Server] = []
        self._runner = web.AppRunner(self._app, shutdown_timeout=1.0)

    async def start(self) -> None:
        await self.tls.open()
        await self.register.open()
        await self._runner.setup()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket))
        self._servers.append(await listen(self._runner, listener, self.metrics))
        await asyncio.to_thread(self.socket.chmod, 0o777)
        for name, host, tls in (
            ("loopback", "127.0.0.1", None),
            ("tls", "127.0.0.1", self.tls.context),
            *((("network", ADDRESSES[0], None),) if ADDRESSES else ()),
        ):
            tcp = socket.create_server((host, 0))
            self._servers.append(await listen(self._runner, tcp, self.metrics, tls=tls))
            scheme = "http" if tls is None else "https"
            self.ports[name] = f"{scheme}://{host}:{tcp.getsockname()[1]}"

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        await self._runner.cleanup()
        await self.register.close()

    def session(self, transport: str) -> aiohttp.ClientSession:
        if transport == "unix":
            unix = aiohttp.UnixConnector(str(self.socket))
            return aiohttp.ClientSession("http://box", connector=unix)
        connector = aiohttp.TCPConnector(ssl=False)
        return aiohttp.ClientSession(self.ports[transport], connector=connector)


@pytest.fixture
def folder(empty_register: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hearth") as made:  # which others may enter
        Path(made).chmod(0o755)
        shutil.copy(empty_register, made)
        yield Path(made)


@pytest.fixture
async def box(folder: Path) -> AsyncIterator[Box]:
    made = Box(folder)
    await made.start()
    yield made
    await made.stop()


def routes() -> list[tuple[Right, str, str]]:
    """Every address, with names in place of patterns."""
    return [
        (right, route.method, route.path.replace(":.+}", "}").replace("{", "").replace("}", ""))
        for right, routes in ROUTES_BY_RIGHT.items()
        for route in routes
    ]


async def statuses(box: Box, transport: str, key: str | None, **headers: str) -> dict[str, int]:
    """What each address answers."""
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    found = {}
    async with box.session(transport) as http:
        for _, method, path in routes():
            box.attempts._spent.clear()  # how many wrong keys there were is not the question here
            async with http.request(method, path, headers=headers) as response:
                found[f"{method} {path}"] = response.status
                if response.status == 403:
                    assert (await response.json())["error"]["code"] == "role_not_allowed"
    return found


def expected(allowed: dict[Right, tuple[Role, ...]], role: Role) -> dict[str, int]:
    return {
        f"{method} {path}": 200 if role in allowed[right] else 403
        for right, method, path in routes()
    }


def only_open(status: int) -> dict[str, int]:
    return {
        f"{method} {path}": 200 if right == "open" else status for right, method, path in routes()
    }


TRANSPORTS = [
    "unix",
    "loopback",
    "tls",
    pytest.param("network", marks=pytest.mark.skipif(not ADDRESSES, reason="only loopback here")),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_address_with_every_role(box: Box, transport: str) -> None:
    keys = {
        role: (await box.register.give_out(role, KeyConfig(hash="", role=role)))[0]
        for role in ROLES
    }
    for role in ROLES:
        assert await statuses(box, transport, keys[role]) == expected(MAY, role), role
    trusted = transport != "network"
    without = await statuses(box, transport, None)
    assert without == (expected(MAY, "operator") if trusted else only_open(401))
    assert await statuses(box, transport, "wrong") == only_open(401)
    through = {"X-Forwarded-For": "10.0.0.1"}
    assert await statuses(box, transport, None, **through) == only_open(401)


async def test_what_there_is_not_is_told_to_who_may_ask(box: Box) -> None:
    key, _ = await box.register.give_out("ann", KeyConfig(hash="", role="readonly"))
    for headers, status in (({}, 404), ({"Authorization": f"Bearer {key}"}, 404), ({"Authorization": "Bearer x"}, 401)):  # fmt: skip
        async with box.session("loopback") as http, http.get("/nowhere", headers=headers) as answer:
            assert answer.status == status
    async with box.session("loopback") as http, http.head("/v1/models") as answer:
        assert answer.status == 200


def test_the_table_keeps_to_its_sense() -> None:
    """Nothing but looking is open to all who may read, and nothing that changes the box to a user."""
    for right, method, path in routes():
        if right in ("open", "read", "watch"):
            assert method == "GET", path
        if path.startswith("/api/v1/") and method != "GET":
            assert right == "admin" or path == "/api/v1/cache/answers", path
    assert {path for right, _, path in routes() if right == "open"} == {
        "/livez",
        "/readyz",
        "/health",
    }


@pytest.mark.skipif(not ADDRESSES, reason="only loopback here")
async def test_insecure_lets_others_in_as_users(folder: Path) -> None:
    box = Box(folder, insecure=True)
    await box.start()
    try:
        assert await statuses(box, "network", None) == expected(MAY, "user")
        assert await statuses(box, "loopback", None) == expected(MAY, "operator")
    finally:
        await box.stop()


async def test_loopback_need_not_be_trusted(folder: Path) -> None:
    box = Box(folder, trust_loopback=False)
    await box.start()
    try:
        assert await statuses(box, "loopback", None) == only_open(401)
        assert await statuses(box, "unix", None) == expected(MAY, "operator")
    finally:
        await box.stop()


# --- the Unix socket -----------------------------------------------------------------------------


def connect_as(path: Path, uid: int, gid: int, groups: list[int]) -> socket.socket:
    """A connection that another user's process has made."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if not child:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(path))
            socket.send_fds(theirs, [b"x"], [connection.fileno()])
            os._exit(0)
        _, [descriptor], _, _ = socket.recv_fds(ours, 1, 1)
        os.waitpid(child, 0)
    return socket.socket(fileno=descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("groups", "key", "status", "who"),
    [
        ([], False, 401, None),
        ([4], False, 401, None),
        ([4, GROUP], False, 201, "local operator"),
        ([], True, 403, "ann"),
    ],
)
async def test_the_kernel_says_who_is_at_the_socket(
    box: Box, groups: list[int], key: bool, status: int, who: str | None
) -> None:
    ann, _ = await box.register.give_out("ann", KeyConfig(hash=""))
    connection = await asyncio.to_thread(connect_as, box.socket, 65534, 65534, groups)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    header = f"Authorization: Bearer {ann}\r\n" if key else ""
    writer.write(
        f"POST /api/v1/keys HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n".encode()
    )
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.split()[1] == str(200 if status == 201 else status)
    if who is not None:
        (action,) = await box.register.actions(10)
        assert action.who == who
        assert action.origin.startswith("unix uid 65534 pid ")


def test_the_other_end_of_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours, "")
        assert isinstance(peer, UnixPeer)
        assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
        assert peer.gids == {os.getegid(), *os.getgroups()}
    assert peer_of(None, None) is None


# --- loopback --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "some.name"}, 200),  # no browser
        ({"User-Agent": "Mozilla/5.0"}, 200),
        ({"User-Agent": "Mozilla/5.0", "Host": "evil.example"}, 401),
        ({"Origin": "http://evil.example", "Host": "evil.example:4327"}, 401),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:1"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://[::1]:80", "Host": "LOCALHOST."}, 200),
        ({"Forwarded": "for=1.2.3.4"}, 401),
    ],
)
async def test_no_page_in_a_browser_is_an_operator(
    box: Box, headers: dict[str, str], status: int
) -> None:
    async with (
        box.session("loopback") as http,
        http.post("/api/v1/keys", headers=headers) as answer,
    ):
        assert answer.status == (401 if status == 401 else status)
    if status == 403:  # what it asks for cannot be read by the page, and may be a program's own
        async with (
            box.session("loopback") as http,
            http.post("/tokenize", headers=headers) as answer,
        ):
            assert answer.status == 200


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("127.0.0.1:80", True), ("[fe80::1]:80", True), ("10.1.2.3", True), ("me.local:1", True),
     ("a.localhost", True), ("", False), ("localhost.evil.example", False), ("127.0.0.1.evil", False),
     ("[", False)],
)  # fmt: skip
def test_names_of_this_machine(host: str, is_ours: bool) -> None:
    assert names_this_machine(host, frozenset({"me.local"})) is is_ours
