"""The models that a run can train, by name: the plugin's, RecBole's, and users' own.

A model of the plugin subclasses :class:`~recbole_edt.model.base.CrossDomainModel`. Those inside the
package are in modules of ``recbole_edt.model`` and ``recbole_edt.model.baselines`` that are named
like a property file. Of RecBole's models the sequential and the general ones are trained. A class
from elsewhere is registered, or named ``package.module:Class``.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recbole_edt.errors import ConfigError, DependencyError
from recbole_edt.io.files import file_sha256, value_sha256
from recbole_edt.io.paths import properties_dir
from recbole_edt.settings import nearest

_registered: dict[str, type] = {}

_GRAPH = (
    "is not trained here: it reads a knowledge graph (files such as <dataset>.kg, <dataset>.link "
    "and <dataset>.ent), which data sets of the plugin do not have"
)
_CLICKS = (
    "is not trained here: it predicts the label of a row from its features, and the plugin ranks "
    "items (by sequential and general models)"
)
# packages of RecBole's models -> why their models are not trained
_PACKAGES = {
    "sequential_recommender": None,
    "general_recommender": None,
    "context_aware_recommender": _CLICKS,
    "exlib_recommender": _CLICKS,
    "knowledge_aware_recommender": _GRAPH,
}
_SEQUENTIAL_OF_GRAPHS = {"KSR", "GRU4RecKG"}
_NEEDED = {"NCL": "faiss"}  # what a model imports when its training is under way
_CORRECTED = {"Pop": "recbole_edt.model.recbole_pop"}


def is_plugin_model(model: Any) -> bool:
    """Whether a class is a model of the plugin, or a subclass of one."""
    bases = getattr(model, "__mro__", ())
    return any(base.__module__ == "recbole_edt.model.base" for base in bases)


def is_users_own(model: type) -> bool:
    """Whether a class is defined outside this package and RecBole."""
    return model.__module__.partition(".")[0] not in ("recbole", "recbole_edt")


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


@cache
def _models_of_recbole() -> dict[str, str]:
    """Name -> package of RecBole's models, from the packages' text: importing takes seconds."""
    out = {}
    for package in _PACKAGES:
        spec: Any = find_spec(f"recbole.model.{package}")
        names = re.findall(r" import (\w+)$", Path(spec.origin).read_text("utf-8"), re.MULTILINE)
        out.update(dict.fromkeys(names, package))
    return out


def plugin_models() -> dict[str, type]:
    """Name -> class of the plugin's models and of their registered subclasses."""
    return {**_own_models(), **{k: v for k, v in _registered.items() if is_plugin_model(v)}}


def registered_models() -> dict[str, type]:
    """Name -> class of all models that RecBole itself does not know."""
    return {**_own_models(), **_registered}


def register_model(model: type) -> type:
    """Let a model be found by the name of its class, in this process.

    The class is returned, so that this is usable as a decorator. A class that is no model, or
    whose name is taken, is a :class:`ConfigError`.
    """
    name = getattr(model, "__name__", str(model))
    _check(model, name)
    if name not in _registered and name in {*_own_models(), *_models_of_recbole()}:
        raise ConfigError(f"the name {name} is taken by another model")
    _registered[name] = model
    return model


def known_models() -> list[str]:
    """Names of the models that a run can train, but for unregistered ones of the user."""
    served = (
        name
        for name, package in _models_of_recbole().items()
        if _PACKAGES[package] is None and name not in _SEQUENTIAL_OF_GRAPHS
    )
    return sorted({*served, *registered_models()})


def find_model(name: str | type) -> type:
    """Class of a model.

    Parameters
    ----------
    name : str or type
        A name of :func:`known_models`; ``package.module:Class``, where modules in the working
        folder are found, too; or the class itself.

    Raises
    ------
    ConfigError
        If there is no such model, or it cannot be trained here; the message says why.
    """
    if isinstance(name, type):
        return _check(name, name.__name__)
    if ":" in name:
        return _check(_load(name), name)
    if name in registered_models():
        return registered_models()[name]
    check_known(name)
    packages = _models_of_recbole()
    if reason := _GRAPH if name in _SEQUENTIAL_OF_GRAPHS else _PACKAGES[packages[name]]:
        raise ConfigError(f"{name} {reason}")
    if name in _NEEDED and find_spec(_NEEDED[name]) is None:
        raise DependencyError(f"{name} needs the package {_NEEDED[name]}, which is not installed")
    home = _CORRECTED.get(name) or f"recbole.model.{packages[name]}.{name.lower()}"
    return getattr(import_module(home), name)


def check_known(name: str) -> None:
    """Raise a ConfigError with the nearest name if neither RecBole nor the plugin has a model."""
    known = {*_models_of_recbole(), *registered_models()}
    if name not in known:
        hint = "" if "." in name else nearest(name, known)
        own = ": a class of your own is --model=package.module:Class"
        if ":" in name:  # what `find_model` loads, and RecBole's own functions do not
            hint = ": RecBole's functions take the class itself"
        raise ConfigError(f"unknown model '{name}'{hint or own}")


def _load(name: str) -> type:
    """Import ``package.module:Class``; errors inside the module are the user's to see."""
    place, _, path = name.partition(":")
    module_name = place.removesuffix(".py").replace("/", ".")
    if not all(map(str.isidentifier, f"{module_name}.{path}".split("."))):
        raise ConfigError(f"model '{name}' is not of the form package.module:Class")
    if module_name == "__main__" and not hasattr(sys.modules["__main__"], path):
        raise ConfigError(f"{path} was defined in a script: move it into a module, and train again")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a console script does not look there
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module itself imports something that is missing
        raise ConfigError(f"model {name}: no module {error.name} in {os.getcwd()}") from None
    for part in path.split("."):
        classes = [key for key, value in vars(found).items() if isinstance(value, type)]
        if part not in classes:
            raise ConfigError(f"{module_name} has no class '{part}'{nearest(part, classes)}")
        found = getattr(found, part)
    return found


def _check(model: Any, name: str) -> type:
    """Return the class if it is a model that a run can train."""
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.utils import ModelType

    if not isinstance(model, type) or not issubclass(model, AbstractRecommender):
        raise ConfigError(
            f"{name} is no model: it subclasses neither RecBole's SequentialRecommender or "
            "GeneralRecommender nor a model of the plugin"
        )
    kind = model.type  # type: ignore[attr-defined]
    if kind in (ModelType.CONTEXT, ModelType.DECISIONTREE):
        raise ConfigError(f"{name} {_CLICKS}")
    if kind == ModelType.KNOWLEDGE:
        raise ConfigError(f"{name} {_GRAPH}")
    return model


def reference(model: type) -> str:
    """Name by which another process finds a model, see :func:`find_model`."""
    return f"{model.__module__}:{model.__qualname__}" if is_users_own(model) else model.__name__


def short_name(name: str) -> str:
    """Name of the class that ``package.module:Class`` or a plain name is of."""
    return name.rpartition(":")[2].rpartition(".")[2]


def builtin_name(model: type) -> str:
    """Name of the model of RecBole that a class is or subclasses; its own name if there is none.

    RecBole looks property files, trainers and loaders up by it.
    """
    packages = tuple(f"recbole.model.{package}." for package in _PACKAGES)
    names = (base.__name__ for base in model.__mro__ if base.__module__.startswith(packages))
    return next(names, model.__name__)


def properties_of(model: type) -> tuple[str, type]:
    """Name of a model's property files, and the class they belong to: the model or a base of it."""
    folder = properties_dir() / "model"
    for ancestor in model.__mro__:
        name = vars(ancestor).get("properties") or ancestor.__name__
        if (folder / f"{name}.yaml").is_file() and not is_users_own(ancestor):
            return name, ancestor
    return model.__name__, model


def preset_file(model: type, preset: str) -> Path:
    """Property file of a model's preset, whether or not there is one."""
    return properties_dir() / "model" / f"{properties_of(model)[0]}-{preset}.yaml"


def own_property_file(model: type) -> Path | None:
    """Property file beside the module of a user's own class, if there is one."""
    home = getattr(sys.modules.get(model.__module__), "__file__", None)
    if not home or not is_users_own(model):
        return None
    file = Path(home).with_name(f"{model.__name__}.yaml")
    return file if file.is_file() else None


def code_of(model: type) -> str | None:
    """Reference of a user's own class and a hash of the modules that define it and its bases.

    None for the plugin's and RecBole's own.
    """
    if not is_users_own(model):
        return None
    known = ("recbole", "recbole_edt", "torch", "builtins")
    names = [base.__module__ for base in model.__mro__]
    outside = [name for name in dict.fromkeys(names) if name.partition(".")[0] not in known]
    files = (getattr(sys.modules.get(name), "__file__", None) for name in outside)
    hashes = [file_sha256(Path(file)) for file in files if file]
    return f"{reference(model)} {value_sha256(hashes)[:10]}"
