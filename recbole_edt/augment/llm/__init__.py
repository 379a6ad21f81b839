"""The client of chat and embedding models: asks in parallel, pays once, loses nothing."""

from recbole_edt.augment.llm.requests import Answer, ChatRequest
from recbole_edt.augment.llm.settings import LLMSettings

__all__ = ["Answer", "ChatRequest", "LLMSettings"]
