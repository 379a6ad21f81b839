"""A language model's server for every test of the preprocessing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recbole_edt.augment.llm import LLMClient, LLMSettings
from tools.simulate import simulate, write_atomic

sys.path.append(str(Path(__file__).parent / "llm"))

from llm_server import LLMServer


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """Folder of a simulated shop of 200 users, ``shop``."""
    folder = tmp_path_factory.mktemp("raw")
    write_atomic(simulate(200), folder / "shop", "shop")
    return folder


@pytest.fixture
def llm_servers() -> Iterator[Callable[..., LLMServer]]:
    """Start servers: ``llm_servers(latency_s=0.2, ...)``; they stop with the test."""
    started: list[LLMServer] = []

    def start(**moods) -> LLMServer:
        started.append(LLMServer(**moods).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def llm_server(llm_servers) -> LLMServer:
    """A server that behaves, until told otherwise (``llm_server.misbehave(share=0.2)``)."""
    return llm_servers()


@pytest.fixture(scope="session")
def llm_settings() -> Callable[..., LLMSettings]:
    """Make settings for a server: ``llm_settings(server, **overrides)``, dotted keys welcome."""

    def make(server: LLMServer, **overrides) -> LLMSettings:
        quick = {
            "chat.base_url": server.url,
            "chat.model": "m",
            "embedding.model": "m",
            "chat.timeout_s": 1.5,
            "chat.prices": {"prompt": 1.0, "completion": 2.0},
            "embedding.base_url": server.url,
            "embedding.timeout_s": 1.5,
            "embedding.prices": {"prompt": 0.5},
            "embedding.batch_size": 16,
            "backoff_s": 0.01,
        }
        return LLMSettings.load("vllm", quick | overrides)

    return make


@pytest.fixture
def llm_client(tmp_path, llm_settings) -> Iterator[Callable[..., LLMClient]]:
    """Open clients: ``llm_client(server, **overrides)``; they share one cache, so close each."""
    with ExitStack() as opened:
        yield lambda server, **overrides: opened.enter_context(
            LLMClient(llm_settings(server, **overrides), tmp_path / "llm.sqlite")
        )
