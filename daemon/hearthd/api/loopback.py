"""Loopback: the daemon asks itself, over a connection in memory, so that nothing is answered in two ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp.web_protocol import RequestHandler

from hearthd.api.authentication import PRINCIPAL_INFO
from hearthd.batch.answerer import Answer, Question
from hearthd.serving.principal import Principal

_HEAD_END: Final = b"\r\n\r\n"


class Loopback:
    """An Answerer: a line of a batch takes the way of any request, from its bytes to the bytes of its answer."""

    def __init__(self, accept: Callable[[], RequestHandler]) -> None:
        """`accept` makes the daemon's end of a new connection."""
        self._accept = accept

    async def ask(self, question: Question) -> Answer:
        """The whole answer; cancelling ends the request, as a client does that goes away."""
        connection = self._accept()
        transport = MemoryTransport(connection, question.principal)
        connection.connection_made(transport)
        try:
            connection.data_received(_request_of(question))
            return await transport.answer
        finally:
            transport.abort()


class MemoryTransport(asyncio.Transport):
    """The transport of one request: gathers its answer instead of sending it."""

    def __init__(self, protocol: asyncio.Protocol, principal: Principal) -> None:
        super().__init__({PRINCIPAL_INFO: principal})
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._protocol: asyncio.BaseProtocol = protocol
        self._received = bytearray()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Take in a part of the answer."""
        self._received += data
        if not self.answer.done() and (answer := _answer_in(self._received)) is not None:
            self.answer.set_result(answer)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Nothing more will be written."""
        self.abort()

    def abort(self) -> None:
        """End the connection; idempotent."""
        if self._closing:
            return
        self._closing = True
        if not self.answer.done():
            self.answer.set_exception(ConnectionResetError("the daemon has hung up"))
            self.answer.exception()  # who was cancelled does not ask for it
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """All there is to read has been given already."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""


def _request_of(question: Question) -> bytes:
    """A question as it would come over a socket. Pure."""
    head = (
        f"POST {question.url} HTTP/1.1\r\n"
        "Host: localhost\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(question.body)}\r\n"
        f"X-Request-Id: {question.request_id}\r\n"
        "X-Request-Class: batch\r\n"
        f"X-Request-Deadline: {question.deadline:.3f}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + question.body


def _answer_in(data: bytearray) -> Answer | None:
    """The answer, once it is whole. Pure; raises ValueError for one without a length."""
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    status_line, *lines = bytes(data[:end]).decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    n_bytes = int(headers["content-length"])
    begin = end + len(_HEAD_END)
    if len(data) < begin + n_bytes:
        return None
    retry_after = headers.get("retry-after")
    return Answer(
        status=int(status_line.split(" ", 2)[1]),
        request_id=headers.get("x-request-id", ""),
        body=bytes(data[begin : begin + n_bytes]),
        retry_after_seconds=None if retry_after is None else float(retry_after),
    )
