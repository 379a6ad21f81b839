"""The plugin's models, by name: those in its packages and those registered from outside.

A model is a class with the attributes ``settings`` (its keys, their types and defaults) and
``trainer`` (what trains it), both inherited from
:class:`~recbole_edt.model.base.CrossDomainModel`. The plugin's models are in modules of
``recbole_edt.model`` and ``recbole_edt.model.baselines`` that are named like a property file.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import Any

from recbole_edt.errors import ConfigError
from recbole_edt.io.paths import properties_dir
from recbole_edt.settings import nearest

_registered: dict[str, type] = {}


def is_plugin_model(model: Any) -> bool:
    """Whether a class declares settings, as the plugin's models do."""
    return isinstance(model, type) and hasattr(model, "settings")


@cache
def _own_models() -> dict[str, type]:
    files = {file.stem.lower() for file in (properties_dir() / "model").glob("*.yaml")}
    modules = [
        import_module(f"{package}.{module.name}")
        for package in ("recbole_edt.model", "recbole_edt.model.baselines")
        for module in pkgutil.iter_modules(import_module(package).__path__)
        if module.name in files
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if is_plugin_model(value) and value.__module__ == module.__name__ and name[0] != "_"
    }


def plugin_models() -> dict[str, type]:
    """Name -> class of the plugin's models and of the registered ones."""
    return {**_own_models(), **_registered}


def register_model(model: type) -> type:
    """Let a subclass of :class:`~recbole_edt.model.base.CrossDomainModel` be found by its name.

    The class is returned, so that this is usable as a decorator. A class that is no such model, or
    whose name is taken, is a :class:`ConfigError`.
    """
    if not is_plugin_model(model):
        raise ConfigError(f"{model} is no subclass of recbole_edt.model.base.CrossDomainModel")
    name = model.__name__
    if name not in _registered and name in known_models():
        raise ConfigError(f"the name {name} is taken by another model")
    _registered[name] = model
    return model


def known_models() -> list[str]:
    """Names of the plugin's models and of RecBole's built-in sequential models."""
    import recbole.model.sequential_recommender as builtin

    names = [name for name in vars(builtin) if name[0].isupper()]
    modules = {module.name for module in pkgutil.iter_modules(builtin.__path__)}
    return sorted({name for name in names if name.lower() in modules} | set(plugin_models()))


def find_model(name: str) -> type:
    """Class of a model of the plugin or of RecBole."""
    from recbole.utils import get_model

    known = known_models()
    if name not in known:
        raise ConfigError(f"unknown model '{name}'{nearest(name, known)}")
    return get_model(name)


def properties_of(model: type) -> tuple[str, type]:
    """Name of a model's property files, and the class they belong to: the model or a base of it."""
    folder = properties_dir() / "model"
    for ancestor in model.__mro__:
        name = vars(ancestor).get("properties") or ancestor.__name__
        if (folder / f"{name}.yaml").is_file():
            return name, ancestor
    return model.__name__, model
