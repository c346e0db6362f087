"""A served FakeServing, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from api_server import ApiServer
from fake_serving import FakeServing
from openai import AsyncOpenAI


@pytest.fixture
async def serving() -> AsyncIterator[FakeServing]:
    """Answers "Hello" in two deltas until a test gives it another script."""
    fake = FakeServing()
    yield fake
    await fake.stop()


@pytest.fixture
async def server(serving: FakeServing) -> AsyncIterator[ApiServer]:
    async with ApiServer(serving) as running:
        yield running


@pytest.fixture
async def http(server: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with server.http() as session:
        yield session


@pytest.fixture
async def openai(server: ApiServer) -> AsyncIterator[AsyncOpenAI]:
    async with server.openai() as client:
        yield client
