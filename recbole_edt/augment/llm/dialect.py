"""What an endpoint takes, and which model answers there: found out once, then kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from recbole_edt.augment.llm.refusals import Refusal
from recbole_edt.augment.llm.settings import Endpoint
from recbole_edt.errors import ConfigError

# Of an entry in a list of models: what changes with the clock or the size of the context
_PASSING = re.compile(
    r"created|modified|updated|permission|ctx|context|max_model_len|status|state|loaded"
)
_SHOWN = 12  # names of models that a message lists


class Dialect(BaseModel):
    """How one endpoint wants to be asked. Starts with the best form and gives way when refused."""

    model: str = ""
    served: str = ""  # what the server's list says about the model
    answers_as: str = ""  # the model that its responses name
    response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    max_tokens_key: str = "max_tokens"
    temperature: bool = True  # the field is sent
    system: bool = True  # there is a role for the system's message
    stream: bool = False
    encoding_format: Literal["base64", "float", ""] = "base64"
    batch_size: int = 0  # most texts of a call; 0 while nothing was refused

    @classmethod
    def of(cls, endpoint: Endpoint) -> Dialect:
        """Start with an endpoint's settings."""
        return cls(
            model=endpoint.model,
            response_format="json_schema" if getattr(endpoint, "json_mode", False) else "text",
        )

    @property
    def identity(self) -> list[str]:
        """What names the model that answers: a part of the key of each of its answers."""
        return [self.model, self.served, self.answers_as]

    @property
    def named(self) -> str:
        """Name the model for a message."""
        return ", ".join(filter(None, (self.answers_as, self.served))) or self.model

    def adapt(self, refusal: Refusal, body: Mapping[str, Any]) -> bool:
        """Change what a refusal is about; false if there is nothing left to change."""
        said = refusal.said.lower()
        names_form = re.search(r"response_format|json|schema|grammar|system (role|message)", said)
        if refusal.is_too_large or refusal.status not in (400, 404, 405, 415, 422, 500, 501):
            return False
        if refusal.status not in (400, 415, 422) and not names_form:
            return False
        if "max_tokens" in body and "max_completion_tokens" in said:
            self.max_tokens_key = "max_completion_tokens"
        elif "temperature" in body and "temperature" in said:
            self.temperature = False
        elif "messages" in body and self.system and re.search(r"system (role|message)", said):
            self.system = False
        elif "messages" in body and not body.get("stream") and re.search(r"\bstream\b", said):
            self.stream = True
        elif body.get("encoding_format") and re.search(r"encoding.?format|base64", said):
            self.encoding_format = "float" if self.encoding_format == "base64" else ""
        elif "response_format" in body:
            is_first = self.response_format == "json_schema"
            self.response_format = "json_object" if is_first else "text"
        else:
            return False
        return True

    def find(self, listed: Sequence[Mapping[str, Any]], endpoint: Endpoint) -> None:
        """Find the model in the server's list.

        Raises
        ------
        ConfigError
            If it is not there, or none is named and there are several.
        """
        names = {str(entry["id"]): entry for entry in listed}
        wanted = endpoint.model or (next(iter(names)) if len(names) == 1 else "")
        same = (wanted, f"{wanted}:latest", f"models/{wanted}")  # Ollama, Gemini
        aliases = (name for name, entry in names.items() if wanted in _aliases(entry))
        found = next((name for name in (*same, *aliases) if name in names), None)
        if not wanted or found is None:
            shown = ", ".join(list(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            what = f"serves no model '{wanted}'" if wanted else "serves several models"
            raise ConfigError(
                f"{endpoint.place} {what}: set {endpoint.kind}.model to one of {shown}"
            )
        self.model = wanted
        self.served = json.dumps(_lasting(names[found]), sort_keys=True)


def _aliases(entry: Mapping[str, Any]) -> Sequence[Any]:
    aliases = entry.get("aliases")
    return aliases if isinstance(aliases, list) else ()


def _lasting(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _lasting(one) for key, one in value.items() if not _PASSING.search(str(key))}


def read_list(payload: Any) -> list[dict[str, Any]]:
    """Read a list of models in the two shapes there are; empty if it is none."""
    entries = payload.get("data") if isinstance(payload, Mapping) else payload
    entries = entries if isinstance(entries, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("id")]
