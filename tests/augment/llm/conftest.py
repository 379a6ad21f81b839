"""What all tests of the LLM client need."""

import logging

import pytest


@pytest.fixture(autouse=True)
def _warnings_are_logged() -> None:
    """Undo what an earlier run of the process chose with ``state``."""
    logging.getLogger().setLevel(logging.WARNING)
