"""Client of chat and embedding models: parallel requests, each paid once."""

from recbole_edt.augment.llm.chat import Answer, ChatRequest
from recbole_edt.augment.llm.client import LLMClient
from recbole_edt.augment.llm.dry_run import DryRun
from recbole_edt.augment.llm.settings import LLMSettings

__all__ = ["Answer", "ChatRequest", "DryRun", "LLMClient", "LLMSettings"]
