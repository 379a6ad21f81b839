"""Providers of a stage: one class in one file, registered under the name that settings choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, TypeVar, cast

from recbole_edt.augment.llm import LLMClient

T = TypeVar("T")


class Provider:
    """Base of all providers.

    Parameters
    ----------
    settings : AugmentSettings
        Keys of the command (untyped here: that class takes its choices from the providers).
    about
        What the stage works on: the path of ``<D>.item_emb.npy`` of the raw data, which need not
        exist (encoders), an ``ItemSpace`` (generators), or ``Described`` items (profilers).
    client : LLMClient
        None unless a stage has ``uses_llm``.
    """

    uses_llm: ClassVar[bool] = False

    def __init__(self, settings: Any, about: Any = None, client: LLMClient | None = None) -> None:
        self.settings, self.about, self.client = settings, about, cast(LLMClient, client)


def registration(table: dict[str, type[T]]) -> Callable[[str], Callable[[type[T]], type[T]]]:
    """Make a decorator that enters a class into a table under a name."""

    def register(name: str) -> Callable[[type[T]], type[T]]:
        def enter(provider: type[T]) -> type[T]:
            table[name] = provider
            return provider

        return enter

    return register


def import_providers(package: str, folders: Iterable[str]) -> None:
    """Import every module of a package: each registers the provider that it holds."""
    for module in iter_modules(folders):
        import_module(f"{package}.{module.name}")
