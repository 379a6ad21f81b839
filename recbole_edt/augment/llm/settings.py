"""Endpoints of models, their prices, retries and limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import yaml
from pydantic import Field, model_validator

from recbole_edt import settings
from recbole_edt.errors import ConfigError
from recbole_edt.io.files import read_yaml, value_sha256
from recbole_edt.io.paths import properties_dir
from recbole_edt.settings import Amount, Count, Name, NonNegative, Positive, Settings, Share


class Prices(Settings):
    """Dollars per million tokens; ``cached`` is the price of prompt tokens the vendor had seen."""

    prompt: NonNegative = 0.0
    cached: NonNegative | None = None
    cached_from: Count | None = None  # least tokens of a common beginning that the vendor keeps
    completion: NonNegative = 0.0
    batch: Share = Field(default=0.5, description="share of these prices that the batch API costs")

    def dollars(self, prompt: int, cached: int = 0, completion: int = 0) -> float:
        """Price of a call whose ``prompt`` tokens include ``cached`` ones."""
        seen = self.prompt if self.cached is None else self.cached
        whole = (prompt - cached) * self.prompt + cached * seen + completion * self.completion
        return whole / 1e6


class Endpoint(Settings):
    """What the chat and the embedding endpoint have in common."""

    kind: ClassVar[str] = ""
    base_url: Name  # address of an OpenAI-compatible API, such as https://api.deepseek.com
    model: str = ""  # the vendor's name of the model; empty for a server that has one alone
    key_env: str = ""  # environment variable that holds the key; empty where none is needed
    timeout_s: Positive = 120.0  # seconds after which a call counts as failed
    extra: dict[str, Any] = {}  # further fields of the request body, known to one vendor alone
    prices: Prices = Prices()  # for the accounting and max_cost

    @model_validator(mode="after")
    def _plain_address(self) -> Endpoint:
        # Of the whole model, so that no message repeats an address with a key in it.
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must be an http or https address")
        try:
            _ = parts.port
            if parts.hostname.replace(".", "").isdecimal():
                IPv4Address(parts.hostname)
        except ValueError as error:
            raise ValueError(f"base_url has a wrong host or port: {error}") from error
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "base_url must hold no key, password or '?...': name a variable in key_env instead"
            )
        return self

    @property
    def address(self) -> str:
        """Address, model and what decides how it is asked."""
        chosen = self.model_dump(include={"base_url", "model", "json_mode"})
        return str(value_sha256([self.kind, chosen]))

    @property
    def place(self) -> str:
        """Scheme and host alone, for messages: some gateways have a key in the path."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        return host in ("localhost", "0.0.0.0", "::1") or host.startswith("127.")

    def key(self) -> str:
        """The key from the environment; empty for an endpoint that needs none."""
        if not self.key_env:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise ConfigError(
                f"the environment variable {self.key_env} holds no key for {self.place}"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(f"what the environment variable {self.key_env} holds is no key")
        if key in self.base_url:  # which errors and costs would repeat
            raise ConfigError(f"base_url holds the key of {self.key_env}: take it out")
        return key


class ChatEndpoint(Endpoint):
    """The endpoint that writes: generation and profiles."""

    kind: ClassVar[str] = "chat"
    temperature: NonNegative | None = 0.0  # empty for models that refuse the field
    max_tokens: Count = 1024  # longest answer
    json_mode: bool = True  # ask for a JSON schema or, where that is refused, for any JSON object


class EmbeddingEndpoint(Endpoint):
    """The endpoint that turns texts into vectors."""

    kind: ClassVar[str] = "embedding"
    batch_size: Count = 64  # texts per call
    dimensions: Count | None = None  # size of the vectors, for models that can shorten them


class LLMSettings(Settings):
    """Settings of the client."""

    chat: ChatEndpoint | None = None  # empty if nothing is to be written
    embedding: EmbeddingEndpoint | None = None  # empty if nothing is to be embedded
    concurrency: int = Field(64, ge=1, le=1000)  # parallel calls
    retries: Amount = 7  # repeats of a call that failed on its way
    asks: Count = 3  # fresh starts of a request of which neither answer nor re-ask can be used
    backoff_s: NonNegative = 0.5  # first wait before a repeated call; it doubles, with jitter
    max_wait_s: NonNegative = 120.0  # longest wait; a server that asks for more ends the run
    batch: bool = False  # ask the chat endpoint through the provider's batch API
    poll_s: Positive = 30.0  # seconds between two looks at a batch
    max_cost: NonNegative | None = None  # dollars that one run may spend

    def endpoint(self, kind: str) -> Any:
        """The endpoint of a kind, "chat" or "embedding"; ConfigError if there is none."""
        if (found := getattr(self, kind)) is None:
            raise ConfigError(f"the LLM settings name no {kind} endpoint")
        return found

    @classmethod
    def load(
        cls, profile: str | Path = "deepseek", overrides: Mapping[str, Any] | None = None
    ) -> LLMSettings:
        """Read a profile and lay settings over it.

        Parameters
        ----------
        profile : str or Path
            A name in ``properties/llm/``, or a YAML file.
        overrides : mapping, optional
            Settings to replace, nested or dotted (``chat.model``); unnamed ones stay.

        Raises
        ------
        ConfigError
            If there is no such profile, or a key or value is invalid.
        """
        values = _lay(_read(str(profile)), settings.nest(overrides or {}))
        for name, endpoint in (("chat", ChatEndpoint), ("embedding", EmbeddingEndpoint)):
            if isinstance(values.get(name), dict):  # apart, so that messages name the nested key
                values[name] = settings.validate(endpoint, values[name], f"{name}.")
        return settings.validate(cls, values)


def _read(profile: str) -> dict[str, Any]:
    folder = properties_dir() / "llm"
    if "://" in profile:  # not repeated: an address may hold a key
        raise ConfigError("an LLM profile is a name or a YAML file with base_url, no address")
    path = folder / f"{profile}.yaml"
    if not path.is_file():
        path = Path(profile)
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise ConfigError(
            f"there is no LLM profile or file '{profile}'{settings.nearest(profile, known)} "
            f"(profiles: {', '.join(known)})"
        )
    try:
        values = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"the LLM profile {path} cannot be read") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the LLM profile {path} {settings.yaml_fault(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"the LLM profile {path} holds no 'key: value' lines")
    return values


def _lay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others, at any depth."""
    out = dict(below)
    for key, value in above.items():
        is_nested = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _lay(out[key], value) if is_nested else value
    return out
