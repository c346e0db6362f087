"""The only HTTP in `hearth`: one box, asked over TCP or its Unix socket."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from hearth_tui.address import Address
from hearth_tui.errors import BoxError, BoxUnreachable, BoxUntrusted, NotHearth, UsageError
from hearth_tui.interrupts import Interrupts
from hearth_tui.key import FLAG, VARIABLE
from hearth_tui.sse import EventBuffer
from hearth_tui.trust import CertificateChanged
from hearth_tui.types import (
    Box,
    ChatRequest,
    Chunk,
    Completion,
    DeviceList,
    ErrorEnvelope,
    Model,
    ModelList,
    Readiness,
    StreamOptions,
    Version,
)

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
"""For what a box answers at once; a chat may wait for a model to load, however long that takes."""

_CHAT_TIMEOUT = httpx.Timeout(None, connect=CONNECT_SECONDS)
_END_OF_STREAM = b"[DONE]"

T = TypeVar("T")


class Client:
    """A connection to one box; every method blocks and raises BoxUnreachable or BoxError."""

    def __init__(
        self, address: Address, key: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """`key` goes with every request; `tls` is what an https address is spoken to with (see `trust`)."""
        self.address = address
        self._key = key
        self._tls = tls
        self._http = _open(address, key, tls)
        self._interrupts = Interrupts()
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        self._opened.enter_context(self._interrupts.listening())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._opened, self._interrupts.held():
            self._http.close()

    def hang_up(self) -> None:
        """Close every connection, whatever goes on over it; the next question opens a new one."""
        with self._interrupts.held():
            before, self._http = self._http, _open(self.address, self._key, self._tls)
            before.close()

    def cut(self) -> None:
        """Make every answer that another thread waits for end in BoxUnreachable, at once."""
        self._interrupts.cut()

    def models(self) -> list[Model]:
        """The models of the box, ready or not, in its order."""
        return self._get("/v1/models", ModelList).data

    def devices(self) -> DeviceList:
        """What the box can run models on."""
        return self._get("/api/v1/devices", DeviceList)

    def devices_json(self) -> bytes:
        """The same as the box says it."""
        response = self._ask(self._request("GET", "/api/v1/devices"))
        _raise_for_status(response)
        try:
            msgspec.json.decode(response.content)
        except msgspec.MsgspecError:
            raise _not_hearth(response) from None
        return response.content

    def version(self) -> str:
        """The version of the daemon."""
        return self._get("/version", Version).version

    def about(self) -> Box:
        """Its version, and the certificate that it is to be known by; of an older box only the version."""
        response = self._ask(self._request("GET", "/api/v1/box"))
        if response.status_code == httpx.codes.NOT_FOUND:
            return Box(self.version())
        _raise_for_status(response)
        return _decode(response, Box)

    def readiness(self) -> Readiness:
        """Whether the box is ready, and each model's state."""
        response = self._ask(self._request("GET", "/readyz"))
        if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            _raise_for_status(response)
        try:
            return msgspec.json.decode(response.content, type=Readiness)
        except msgspec.MsgspecError:
            _raise_for_status(response)
            raise _not_hearth(response) from None

    def complete(self, request: ChatRequest) -> Completion:
        """The whole answer at once."""
        response = self._ask(self._chat(request))
        _raise_for_status(response)
        return _decode(response, Completion)

    @contextmanager
    def stream(self, request: ChatRequest) -> Iterator[Iterator[Chunk]]:
        """The answer chunk by chunk; leaving the context closes the connection, which cancels the request.

        An error that arrives within the stream is raised as BoxError. After a KeyboardInterrupt only
        `hang_up` is sure to cancel it.
        """
        request = msgspec.structs.replace(
            request, stream=True, stream_options=StreamOptions(include_usage=True)
        )
        with self._streaming(self._chat(request)) as response:
            yield self._chunks(response)

    def call(
        self,
        method: str,
        path: str,
        *,
        patience_seconds: float | None = ANSWER_SECONDS,
        **details: Any,
    ) -> httpx.Response:
        """The answer to any question; `details` are httpx's."""
        timeout = httpx.Timeout(patience_seconds, connect=CONNECT_SECONDS)
        response = self._ask(self._request(method, path, timeout=timeout, **details))
        _raise_for_status(response)
        return response

    @contextmanager
    def pieces(self, path: str, **details: Any) -> Iterator[Iterator[bytes]]:
        """A large answer as it comes."""
        with self._streaming(self._request("GET", path, **details)) as response:
            yield self._pieces(response)

    @contextmanager
    def _streaming(self, request: httpx.Request) -> Iterator[httpx.Response]:
        """A good answer of which only the head has come."""
        response = self._ask(request, stream=True)
        try:
            if response.is_error:
                with self._reaching():
                    response.read()
            _raise_for_status(response)
            yield response
        finally:
            with self._reaching():
                response.close()

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        pieces = response.iter_bytes()
        while True:
            with self._reaching():
                received = next(pieces, None)
            if received is None:
                return
            yield received

    def _chunks(self, response: httpx.Response) -> Iterator[Chunk]:
        buffer = EventBuffer()
        pieces = response.iter_bytes()
        while True:
            with self._reaching():
                received = next(pieces, None)
            if received is None:
                return
            for data in buffer.feed(received):
                if data == _END_OF_STREAM:
                    continue  # reading to the end keeps the connection for the next question
                chunk = _decode_chunk(data)
                if chunk.error is not None:
                    raise _box_error(chunk.error.message, None, chunk.error.code)
                yield chunk

    def _chat(self, request: ChatRequest) -> httpx.Request:
        try:
            body = msgspec.json.encode(request)
        except UnicodeEncodeError:
            raise UsageError("the text has bytes that are not UTF-8") from None
        return self._request(
            "POST",
            "/v1/chat/completions",
            content=body,
            headers={"content-type": "application/json"},
            timeout=_CHAT_TIMEOUT,
        )

    def _get(self, path: str, kind: type[T]) -> T:
        response = self._ask(self._request("GET", path))
        _raise_for_status(response)
        return _decode(response, kind)

    def _request(self, method: str, path: str, **details: Any) -> httpx.Request:
        with self._reaching():
            return self._http.build_request(
                method, path, extensions={"trace": self._interrupts.on_event}, **details
            )

    def _ask(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        with self._reaching():
            return self._http.send(request, stream=stream)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            with self._interrupts.held():
                yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            _raise_for_trust(error, self.address)
            raise BoxUnreachable(
                f"no box answers at {self.address} ({_reason(error)}); is hearthd running?"
            ) from error
        except httpx.TimeoutException as error:
            raise BoxUnreachable(
                f"the box at {self.address} did not answer within {ANSWER_SECONDS:.0f} s"
            ) from error
        except httpx.DecodingError as error:
            raise NotHearth(f"the answer of the box cannot be read: {error}") from error
        except httpx.TransportError as error:
            raise BoxUnreachable(
                f"the connection to the box at {self.address} was lost ({_reason(error)})"
            ) from error
        except httpx.InvalidURL as error:
            raise UsageError(f"{str(self.address)!r} is not a URL: {error}") from error


def _open(address: Address, key: str | None, tls: ssl.SSLContext | None) -> httpx.Client:
    return httpx.Client(
        base_url=address.url,
        headers={} if key is None else {"authorization": f"Bearer {key}"},
        transport=_transport(address, tls),
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
    )


def _transport(address: Address, tls: ssl.SSLContext | None) -> httpx.HTTPTransport:
    """Never through a proxy: a box is near."""
    if address.socket is not None:
        return httpx.HTTPTransport(uds=str(address.socket), verify=False)
    return httpx.HTTPTransport(
        verify=tls or address.url.startswith("https:"), socket_options=_keepalive_options()
    )


def _keepalive_options() -> list[tuple[int, int, int]]:
    """A box that lost its power is noticed within a minute, also while a stream is silent."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not every system has them
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _decode_chunk(data: bytes) -> Chunk:
    try:
        return msgspec.json.decode(data, type=Chunk)
    except msgspec.MsgspecError as error:
        raise NotHearth(f"an event of the stream cannot be read: {error}") from error


def _decode(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError:
        raise _not_hearth(response) from None


def _raise_for_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        error = msgspec.json.decode(response.content, type=ErrorEnvelope).error
    except msgspec.MsgspecError:
        raise _not_hearth(response) from None
    message = error.message
    if response.status_code == httpx.codes.UNAUTHORIZED:
        message = _about_the_key(response, message)
    if seconds := response.headers.get("retry-after"):
        message = f"{message} (try again in {seconds} s)"
    raise _box_error(message, response.status_code, error.code)


def _about_the_key(response: httpx.Response, message: str) -> str:
    """What to do about a 401; the box speaks of headers, and does not know where a key came from."""
    if "authorization" in response.request.headers:
        return f"the box does not take the key that was sent: {message}"
    return (
        f"the box wants a key: put it into ${VARIABLE}, or into a file and say {FLAG} FILE "
        f"({message})"
    )


def _box_error(message: str, status: int | None, code: str | int | None) -> BoxError:
    return BoxError(message, status=status, code=None if code is None else str(code))


def _not_hearth(response: httpx.Response) -> NotHearth:
    return NotHearth(
        f"{response.request.url} does not answer like a Hearth box (HTTP {response.status_code})",
        status=response.status_code,
    )


def _raise_for_trust(error: BaseException, address: Address) -> None:
    """Raise BoxUntrusted where a connection ended because of the certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CertificateChanged):
            raise BoxUntrusted(
                f"the certificate of the box at {address} is not the one it is known by: it shows "
                f"{cause.args[0]}; if that is what 'hearth status' says on the box, say --fingerprint "
                f"{cause.args[0]}"
            ) from error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise BoxUntrusted(
                f"the certificate of the box at {address} is not believed: {cause.verify_message}"
            ) from error
        cause = cause.__cause__ or cause.__context__


def _reason(error: httpx.TransportError) -> str:
    """The system's words without its error number."""
    text = str(error) or type(error).__name__
    return text.partition("] ")[2] if text.startswith("[Errno") else text
