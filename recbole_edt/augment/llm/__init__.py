"""The client of chat and embedding models: asks in parallel, pays once, loses nothing."""

from recbole_edt.augment.llm.client import LLMClient
from recbole_edt.augment.llm.costs import CostLimitError
from recbole_edt.augment.llm.dry_run import DryRun
from recbole_edt.augment.llm.requests import Answer, ChatRequest
from recbole_edt.augment.llm.settings import LLMSettings
from recbole_edt.augment.llm.transport import EndpointError

__all__ = [
    "Answer",
    "ChatRequest",
    "CostLimitError",
    "DryRun",
    "EndpointError",
    "LLMClient",
    "LLMSettings",
]
