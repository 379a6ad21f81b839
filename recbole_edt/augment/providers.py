"""Providers of a stage: one class in one file, registered under the name that settings choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

T = TypeVar("T")


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
