"""Where the models are, what they cost, and how patiently they are asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from recbole_edt.errors import ConfigError
from recbole_edt.io.paths import properties_dir
from recbole_edt.settings import nearest, nest


class _Strict(BaseModel):
    """Settings that take no unknown key and do not change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class Prices(_Strict):
    """Dollars per million tokens; ``cached`` is the price of prompt tokens the vendor had seen."""

    prompt: float = Field(default=0.0, ge=0)
    cached: float | None = Field(default=None, ge=0)
    completion: float = Field(default=0.0, ge=0)

    def dollars(self, prompt: int, cached: int = 0, completion: int = 0) -> float:
        """Price of a call whose ``prompt`` tokens include ``cached`` ones."""
        seen = self.prompt if self.cached is None else self.cached
        whole = (prompt - cached) * self.prompt + cached * seen + completion * self.completion
        return whole / 1e6


class Endpoint(_Strict):
    """What the chat and the embedding endpoint have in common.

    Parameters
    ----------
    base_url : str
        Address of an OpenAI-compatible API, such as ``https://api.deepseek.com``.
    model : str
        The vendor's name of the model.
    key_env : str
        Environment variable that holds the key; empty for a server that needs none.
    timeout_s : float
        Seconds after which a call counts as failed.
    extra : mapping
        Further fields of the request body, for what only one vendor knows.
    prices : Prices
        For the accounting and ``max_cost``.
    """

    base_url: str
    model: str = Field(min_length=1)
    key_env: str = ""
    timeout_s: float = Field(default=120.0, gt=0)
    extra: dict[str, Any] = {}
    prices: Prices = Prices()

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http or https address")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no key or password: name a variable in key_env instead")
        return value.rstrip("/")

    @property
    def place(self) -> str:
        """Scheme and host alone, for messages: some gateways have a key in the path."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}"

    def key(self) -> str:
        """The key from the environment; empty for an endpoint that needs none.

        Raises
        ------
        ConfigError
            If the variable is empty or holds what cannot be a key, or the address repeats it.
        """
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
    """The endpoint that writes: generation and profiles.

    Parameters
    ----------
    temperature : float or None
        0 for answers that vary least; None leaves it to models that refuse the field.
    max_tokens : int
        Longest answer, unless a request says otherwise.
    max_tokens_key : str
        Name of that field in the request; newer OpenAI models want ``max_completion_tokens``.
    json_mode : bool
        Ask the server to write nothing but a JSON object.
    """

    temperature: float | None = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=1024, ge=1)
    max_tokens_key: str = Field(default="max_tokens", min_length=1)
    json_mode: bool = True


class EmbeddingEndpoint(Endpoint):
    """The endpoint that turns texts into vectors.

    Parameters
    ----------
    batch_size : int
        Texts per call.
    dimensions : int or None
        Size of the vectors, for models that can shorten them; None takes what comes.
    """

    batch_size: int = Field(default=64, ge=1)
    dimensions: int | None = Field(default=None, ge=1)


class LLMSettings(_Strict):
    """Everything the client has to know.

    Parameters
    ----------
    chat : ChatEndpoint, optional
        None where nothing is to be written.
    embedding : EmbeddingEndpoint, optional
        None where nothing is to be embedded; some chat vendors serve no embeddings.
    concurrency : int
        Calls under way at the same time.
    retries : int
        How often a call that failed on its way is repeated.
    asks : int
        How often a request is asked from scratch when neither its answer nor that to the re-ask
        can be used.
    backoff_s, max_wait_s : float
        First and longest wait before a repeated call; waits double, with jitter. A server that
        asks (Retry-After) for more than ``max_wait_s`` ends the run.
    max_cost : float, optional
        Dollars that one run may spend.
    """

    chat: ChatEndpoint | None = None
    embedding: EmbeddingEndpoint | None = None
    concurrency: int = Field(default=64, ge=1, le=1000)
    retries: int = Field(default=7, ge=0)
    asks: int = Field(default=3, ge=1)
    backoff_s: float = Field(default=0.5, ge=0)
    max_wait_s: float = Field(default=120.0, ge=0)
    max_cost: float | None = Field(default=None, ge=0)

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
            If there is no such profile, or a key or value is not known.
        """
        path = _profile_path(str(profile))
        try:
            below = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"the LLM profile {path} cannot be read as YAML") from error
        if not isinstance(below, dict):
            raise ConfigError(f"the LLM profile {path} holds no 'key: value' lines")
        try:
            return cls.model_validate(_lay(below, nest(overrides or {})))
        except ValidationError as error:
            raise ConfigError(f"LLM settings: {_first_problem(error)}") from None


def _profile_path(profile: str) -> Path:
    folder = properties_dir() / "llm"
    named = folder / f"{profile}.yaml"
    if named.is_file():
        return named
    if "://" in profile:  # not repeated: an address may hold a key
        raise ConfigError("an LLM profile is a name or a YAML file with base_url, no address")
    if not Path(profile).is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise ConfigError(
            f"there is no LLM profile or file '{profile}'{nearest(profile, known)} "
            f"(profiles: {', '.join(known)})"
        )
    return Path(profile)


def _lay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others, whatever their depth."""
    out = dict(below)
    for key, value in above.items():
        lower = out.get(key)
        if isinstance(value, Mapping) and isinstance(lower, Mapping):
            value = _lay(lower, value)
        out[key] = value
    return out


def _first_problem(error: ValidationError) -> str:
    """Say what the first problem is, without the value: it could be a key put in a wrong place."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        known: Any = LLMSettings
        for part in place[:-1]:
            known = {"chat": ChatEndpoint, "embedding": EmbeddingEndpoint}.get(part, Prices)
        return f"unknown key '{'.'.join(place)}'{nearest(place[-1], known.model_fields)}"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}: {said[0].lower()}{said[1:]}"
