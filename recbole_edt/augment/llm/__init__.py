"""Client of chat and embedding models: parallel requests, each paid once."""

from recbole_edt.augment.llm.client import Answer, ChatRequest, LLMClient
from recbole_edt.augment.llm.costs import CostLimitError
from recbole_edt.augment.llm.dry_run import DryRun
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
