"""What an endpoint takes, and which model answers there: found out once, then kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, PrivateAttr

from recbole_edt.augment.llm.payload import within
from recbole_edt.augment.llm.refusals import FORM, Refusal
from recbole_edt.augment.llm.settings import Endpoint
from recbole_edt.errors import ConfigError

# Of an entry in a list of models: what changes with the clock, the context or the vendor's offer
_PASSING = re.compile(
    r"created|modified|updated|permission|ctx|context|max_|status|state|loaded|pric|cost|limit|"
    r"descri|support|default|deprecat|expir|replac|top_provider|running|active|address|accelerator"
)
# Of a refusal: what a server or the template of a model says that takes no system message
_SYSTEM = re.compile(r"\broles?\b|(?:system|developer) (?:message|instruction|prompt)")
_NAMES = 3  # that a server may have in a run; with more it is a router
_SHOWN = 12  # names of models that a message lists


class Dialect(BaseModel):
    """How one endpoint wants to be asked. Starts with the best form and gives way when refused."""

    model: str = ""
    served: str = ""  # what the server's list says about the model
    answers_as: str = ""  # the model that its responses name
    former: list[str] = []  # the names before that
    is_router: bool = False  # it names several models in turn, which count as one
    response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    max_tokens_key: str = "max_tokens"
    temperature: bool = True  # the field is sent
    system: bool = True  # there is a role for the system's message
    stream: bool = False
    encoding_format: Literal["base64", "float", ""] = "base64"
    batch_size: int = 0  # most texts of a call; 0 while nothing was refused
    _heard: list[str] = PrivateAttr(default_factory=list)  # names in this run, as they changed

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

    def agrees(self, other: Dialect) -> bool:
        """Whether it is the same model, by all that both lists tell of it.

        A router tells more of a model that it has loaded, and a newer server of each.
        """
        lists = [json.loads(one.served or "{}") for one in (self, other)]
        return self.model == other.model and _agree(*lists)

    @property
    def known_as(self) -> list[Dialect]:
        """Itself, and for a router what its answers under other names are stored as."""
        others = [name for name in self.former if self.is_router and name != self.answers_as]
        return [self, *(self.model_copy(update={"answers_as": name}) for name in others)]

    def rename(self, name: str) -> None:
        """Note that responses name another model than before."""
        self.former = list(dict.fromkeys([*self.former, self.answers_as]))
        self.answers_as = name

    def take_over(self, kept: Dialect) -> None:
        """Add the names of an earlier run."""
        self.is_router, self.former = kept.is_router, kept.former
        name, self.answers_as = self.answers_as, kept.answers_as
        if name and not self.is_router:  # without a name, nothing has answered yet
            self.rename(name)

    def hear(self, name: Any) -> bool:
        """Note the model that a response names; false if answers so far are to be looked at again.

        A server that was started again with another model has another name from then on; a router
        comes back to one, or has many.
        """
        if self.is_router or not self.answers_as or not isinstance(name, str):
            return True
        self._heard = self._heard or [self.answers_as]
        if name != self._heard[-1]:
            self.is_router = name in self._heard or len(self._heard) >= _NAMES
            self._heard.append(name)
        return not self.is_router and name == self.answers_as

    @property
    def named(self) -> str:
        """Name the model for a message."""
        return ", ".join(filter(None, (self.answers_as, self.served))) or self.model

    def adapt(self, refusal: Refusal, body: Mapping[str, Any]) -> bool:
        """Change what a refusal is about; false if there is nothing left to change."""
        said = refusal.said.lower()
        names_form = FORM.search(said) or "json" in said or _SYSTEM.search(said)
        statuses = (400, 415, 422, *((404, 405, 500, 501) if names_form else ()))
        if refusal.status not in statuses or refusal.is_too_large or refusal.is_unpaid:
            return False
        is_chat = "messages" in body
        if is_chat and self.max_tokens_key == "max_tokens" and "max_completion_tokens" in said:
            self.max_tokens_key = "max_completion_tokens"
        elif is_chat and self.temperature and "temperature" in body and "temperature" in said:
            self.temperature = False
        elif is_chat and self.system and _SYSTEM.search(said):
            self.system = False
        elif is_chat and not self.stream and re.search(r"\bstream", said):
            self.stream = True
        elif not is_chat and self.encoding_format:
            self.encoding_format = "float" if self.encoding_format == "base64" else ""
        elif self.response_format != "text" and "response_format" in body:
            is_first = self.response_format == "json_schema"
            self.response_format = "json_object" if is_first else "text"
        else:
            return False
        return True

    def find(self, listed: Sequence[Mapping[str, Any]], endpoint: Endpoint) -> str:
        """Find the model in the server's list.

        Returns
        -------
        str
            The names in the list, if the model is none of them.

        Raises
        ------
        ConfigError
            If none is named and there are several.
        """
        names = {str(entry["id"]): entry for entry in listed}
        wanted = endpoint.model or (next(iter(names)) if len(names) == 1 else "")
        same = (wanted, f"{wanted}:latest", f"models/{wanted}")  # Ollama, Gemini
        aliased = (name for name, one in names.items() if wanted in list(one.get("aliases") or ()))
        found = next((name for name in (*same, *aliased) if name in names), None)
        shown = ", ".join(list(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        if not wanted:
            raise ConfigError(
                f"{endpoint.place} serves several models: set {endpoint.kind}.model to one of "
                f"{shown}"
            )
        self.model = wanted
        if found or len(names) == 1:  # a server of one model may take any name
            self.served = json.dumps(_lasting(names[found or shown]), sort_keys=True)
        return "" if found else shown


def _lasting(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _lasting(one) for key, one in value.items() if not _PASSING.search(str(key))}


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_agree(one[key], other[key]) for key in one.keys() & other.keys())
    return one is None or other is None or one == other


def read_list(payload: Any) -> list[dict[str, Any]]:
    """Read a list of models in the two shapes there are; empty if it is none."""
    entries = payload if isinstance(payload, list) else within(payload, "data")
    return [entry for entry in entries if within(entry, "id")] if isinstance(entries, list) else []
