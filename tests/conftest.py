"""Fixtures of the end-to-end tests."""

import openai
import pytest

import support


@pytest.fixture(scope="session")
def server():
    """A server of the demo model, shared by the tests that leave it as it was."""
    with support.serving("demo") as running:
        yield running


@pytest.fixture
def client(server):
    """The `openai` package, pointed at the server as vLLM's quick start does."""
    return openai.OpenAI(api_key="EMPTY", base_url=server.base_url, max_retries=0, timeout=60)
