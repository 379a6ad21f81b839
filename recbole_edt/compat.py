"""Everything that patches RecBole 1.2.1, each module at the moment when it is imported.

First, it runs on a current stack. It was written for numpy 1.x, pandas 1.x, torch 1.x and ray 2.6;
with the patches it gives the same results on Python 3.10-3.12, numpy 1.26 and 2.x, pandas 2 and 3
and torch up to 2.13:

- numpy 2 dropped old aliases, without which ``Config`` fails: they are set again.
- pandas 3 copies on write: missing values are filled by assignment instead of in place.
- pandas 3 changed ``Series.agg(len)``: ``len`` counts row by row in the modules that rely on it.
- torch 2.6 changed ``torch.load``: RecBole's own reads go through an allow-list.
- The module ``sine``, which every look-up of a sequential model imports, switches torch's anomaly
  detection on for the whole process: it is switched back.
- Data parallelism is not told of a GPU for a model that lies on a CPU.
- Making a folder that another run has just made is no error.
- ray 2.6 does not exist for every Python: a stand-in lets ``recbole.quick_start`` be imported.

Second, its look-ups find the plugin. ``get_model``, ``create_dataset`` and ``get_trainer`` look for
a module or a name, which the import system and the modules then provide. RecBole offers no hook
for property files, for processes and for loaders: ``Config._load_internal_config_dict``,
``Config._init_device`` and ``get_dataloader`` are wrapped, and act as before for other models.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

from recbole_edt.errors import CheckpointError, DependencyError

__all__ = ["load_checkpoint", "patch_recbole"]

Patch = Callable[[types.ModuleType], contextlib.AbstractContextManager[None]]
"""Surrounds the execution of a module."""


@functools.cache
def patch_recbole() -> None:
    """Patch RecBole's modules: those imported already at once, the others when they are imported.

    A second call changes nothing.
    """
    sys.meta_path.insert(0, _PatchingFinder())
    sys.meta_path.append(_ModelFinder())
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            with patch(sys.modules[name]):
                pass


# --- numpy and warnings ---------------------------------------------------------------------------


@contextlib.contextmanager
def _patched_package(module: types.ModuleType) -> Iterator[None]:
    """``recbole``, which is imported before any of its modules."""
    _restore_numpy_names()
    _silence_recbole_deprecations()
    yield


def _restore_numpy_names() -> None:
    """Set the aliases without which ``Config`` (``bool8``: ray.tune) fails on numpy 2."""
    import numpy as np

    aliases = {"float_": "float64", "complex_": "complex128", "unicode_": "str_", "bool8": "bool_"}
    for alias, name in aliases.items():
        if alias not in vars(np):
            setattr(np, alias, getattr(np, name))


def _silence_recbole_deprecations() -> None:
    """Hide warnings about lines of RecBole itself, which users cannot change."""
    from pandas.errors import ChainedAssignmentError

    for category in (DeprecationWarning, FutureWarning, ChainedAssignmentError):
        # RecBole's only chained assignments are the `fillna` that `_patched_dataset` replaces.
        warnings.filterwarnings("ignore", category=category, module=r"recbole\.")
    # A column of a DataFrame is read-only in pandas 3. RecBole drops the frame right after making
    # a tensor of it.
    warnings.filterwarnings(
        "ignore", "The given NumPy array is not writable", module=r"recbole\.data\."
    )


# --- patching a module when it is imported --------------------------------------------------------


class _PatchingFinder(MetaPathFinder):
    """Finds the modules of ``_PATCHES``, and only them, and has them patched as they load."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in _PATCHES:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None and spec.loader is not None:
                    spec.loader = _PatchingLoader(spec.loader, _PATCHES[fullname])
                    return spec
        if fullname == "recbole":
            raise DependencyError(
                "RecBole is not installed: run `pip install --no-deps recbole==1.2.1`"
            )
        return None


class _PatchingLoader(Loader):
    """Runs a module inside its patch, then leaves the module's own loader in its place."""

    def __init__(self, loader: Any, patch: Patch) -> None:
        self._loader = loader
        self._patch = patch

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        with self._patch(module):
            self._loader.exec_module(module)


class _Overlay(types.ModuleType):
    """A module as one RecBole module sees it: some names changed, all others its own."""

    def __init__(self, module: types.ModuleType, **changes: Any) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(changes)
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


# --- pandas ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _patched_dataset(module: types.ModuleType) -> Iterator[None]:
    """``recbole.data.dataset.dataset``: missing values and sequence columns under pandas 3."""
    yield
    vars(module)["pd"] = _Overlay(module.pd, read_csv=_read_atomic)
    vars(module)["len"] = _row_lengths
    dataset_class = module.Dataset
    original = dataset_class._fill_nan
    types_of_field = module.FeatureType

    @functools.wraps(original)
    def _fill_nan(self: Any) -> None:
        for feat in (getattr(self, name) for name in self.feat_name_list):
            for field in feat:
                if self.field2type[field] == types_of_field.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif self.field2type[field] == types_of_field.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
        original(self)  # finds only missing sequences left to fill

    dataset_class._fill_nan = _fill_nan


@contextlib.contextmanager
def _patched_row_lengths(module: types.ModuleType) -> Iterator[None]:
    yield
    vars(module)["len"] = _row_lengths


@contextlib.contextmanager
def _patched_anomaly_detection(module: types.ModuleType) -> Iterator[None]:
    """``sine``: torch's anomaly detection stays as the process had it."""
    import torch

    before = torch.is_anomaly_enabled()
    already = hasattr(module, "SINE")  # imported before us: what it had is lost, off is usual
    yield
    torch.autograd.set_detect_anomaly(before and not already)


@contextlib.contextmanager
def _patched_folders(module: types.ModuleType) -> Iterator[None]:
    """``recbole.utils.utils``: ``ensure_dir`` bears that somebody else was faster."""
    yield
    makedirs = functools.partial(os.makedirs, exist_ok=True)
    vars(module)["os"] = _Overlay(os, makedirs=makedirs)


def _read_atomic(*args: Any, **kwargs: Any) -> Any:
    """``pandas.read_csv`` with text as plain objects and a missing sequence as the empty text."""
    import pandas as pd

    frame = pd.read_csv(*args, **kwargs)
    for column in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[column].dtype):
            text = frame[column].astype(object)
            # the header of an atomic file says `name:token_seq`
            frame[column] = text.fillna("") if column.endswith("_seq") else text
    return frame


def _row_lengths(obj: Any) -> Any:
    """``len``, except that a column gives the length of each of its rows.

    ``column.agg(len)`` called ``len`` for each row up to pandas 2; pandas 3 calls it once, with
    the column.
    """
    import pandas as pd

    return obj.map(len) if isinstance(obj, pd.Series) else len(obj)


# --- checkpoints ----------------------------------------------------------------------------------
#
# `torch.load` reads with `weights_only=True` since torch 2.6, which knows neither the pickle
# protocol of RecBole's checkpoints nor their classes. What RecBole reads itself goes through the
# ordinary unpickler with an allow-list as strict: the names below, and the classes of RecBole and
# of this plugin, whose objects are filled with their saved state and never constructed (`Config`
# evaluates strings).

_CHECKPOINT_GLOBALS = {
    "_codecs": {"encode"},
    "builtins": {"frozenset", "set"},
    "collections": {"Counter", "OrderedDict", "defaultdict"},
    "logging": {"getLogger"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "torch": {"Size", "device"},
    "torch._utils": {"_rebuild_parameter", "_rebuild_sparse_tensor", "_rebuild_tensor_v2"},
    "torch.serialization": {"_get_layout"},
    "yaml.loader": {"FullLoader"},
}

# `Config`, and what SASRecF and others save: a whole layer with the dataset that it was made for.
_SAVED_WHOLE = (
    "recbole.config.", "recbole.data.", "recbole.model.", "recbole_edt.", "torch.nn.modules.",
)  # fmt: skip


class _CheckpointUnpickler(pickle.Unpickler):
    """An unpickler that knows what RecBole's checkpoints are made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _CHECKPOINT_GLOBALS.get(module, ()):
            return super().find_class(module, name)
        # Only modules of RecBole and of this plugin are imported because a file names them.
        if module in sys.modules or module.startswith(("recbole.", "recbole_edt.")):
            found = self._admit(super().find_class(module, name))
            if found is not None:
                return found
        raise CheckpointError(
            f"The checkpoint is not read: it names {module}.{name}, which RecBole does not save."
        )

    @staticmethod
    def _admit(found: Any) -> Any:
        import torch
        from recbole.model.abstract_recommender import AbstractRecommender

        if isinstance(found, torch.dtype):
            return found
        if not isinstance(found, type):
            return None
        if issubclass(found, AbstractRecommender):
            return found  # itself: `Config` keeps its model class as a value
        if issubclass(found, Enum):
            return found if found.__module__.startswith("recbole.") else None
        if not found.__module__.startswith(_SAVED_WHOLE):
            return None
        # A pickle may call any class that it names: this one gives an empty object, whatever it is.
        return type(found.__name__, (), {"__new__": lambda cls: object.__new__(found)})


# What `torch.load` takes for the module `pickle`.
_checkpoint_pickle = types.ModuleType("recbole_checkpoint_pickle")
vars(_checkpoint_pickle).update(
    Unpickler=_CheckpointUnpickler,
    load=lambda file, **kwargs: _CheckpointUnpickler(file, **kwargs).load(),
)


def load_checkpoint(path: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """Read a checkpoint that a RecBole trainer wrote.

    Parameters
    ----------
    path, map_location, **kwargs
        As for ``torch.load``; with ``weights_only`` or ``pickle_module`` the file is left to it.

    Raises
    ------
    CheckpointError
        If the file refers to something that is no part of a RecBole checkpoint.
    """
    import torch

    if not kwargs.keys() & {"weights_only", "pickle_module"}:
        kwargs.update(weights_only=False, pickle_module=_checkpoint_pickle)
    # By the name that is never replaced: `torch.load` may be this function, see below.
    return torch.serialization.load(path, map_location, **kwargs)


@contextlib.contextmanager
def _patched_checkpoint_reader(module: types.ModuleType) -> Iterator[None]:
    """A RecBole module that reads checkpoints: ``torch.load`` is ours in that module only."""
    yield
    vars(module)["torch"] = _Overlay(module.torch, load=load_checkpoint)


@contextlib.contextmanager
def _patched_trainer(module: types.ModuleType) -> Iterator[None]:
    """``recbole.trainer.trainer``: reads its own checkpoints, trains in parallel on CPUs too."""
    with _patched_checkpoint_reader(module):
        yield
    original = module.DistributedDataParallel

    def data_parallel(model: Any, device_ids: Any = None, **kwargs: Any) -> Any:
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        return original(model, device_ids=device_ids if on_gpu else None, **kwargs)

    vars(module)["DistributedDataParallel"] = data_parallel


# --- quick start ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _patched_quick_start(module: types.ModuleType) -> Iterator[None]:
    """``recbole.quick_start.quick_start``: imports without ray and reads its own checkpoints."""
    stand_ins = {}
    if "ray" not in sys.modules and importlib.util.find_spec("ray") is None:
        ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
        vars(tune)["report"] = lambda *_, **__: None  # all that RecBole asks of it
        vars(ray)["tune"] = tune
        stand_ins = {"ray": ray, "ray.tune": tune}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
    load_data_and_model = module.load_data_and_model

    @functools.wraps(load_data_and_model)
    def reading_checkpoints(*args: Any, **kwargs: Any) -> Any:
        import torch

        original = torch.load  # the function imports torch in its body
        torch.load = load_checkpoint  # type: ignore[assignment]
        try:
            return load_data_and_model(*args, **kwargs)
        finally:
            torch.load = original

    for place in (module, sys.modules.get("recbole.quick_start")):
        if hasattr(place, "load_data_and_model"):
            vars(place)["load_data_and_model"] = reading_checkpoints


# --- the plugin's classes -------------------------------------------------------------------------

_MODELS = "recbole.model.sequential_recommender."


class _ModelFinder(MetaPathFinder, Loader):
    """Finds ``recbole.model.sequential_recommender.<name>`` of a model of the plugin."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if not fullname.startswith(_MODELS):
            return None
        from recbole_edt.registry import plugin_models

        if fullname.removeprefix(_MODELS) in map(str.lower, plugin_models()):
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        from recbole_edt.registry import plugin_models

        _provide(module, lambda name: plugin_models().get(name))


def _provide(module: types.ModuleType, find: Callable[[str], Any]) -> None:
    """Let a module have names that are looked up when they are asked for."""

    def __getattr__(name: str) -> Any:
        found = None if name.startswith("_") else find(name)
        if found is None:
            raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")
        return found

    vars(module)["__getattr__"] = __getattr__


def _providing(ending: str, provide: Callable[[type], Any]) -> Patch:
    """Patch that lets a package have ``<Model><ending>`` for each model of the plugin."""

    def find(name: str) -> Any:
        from recbole_edt.registry import plugin_models

        model = plugin_models().get(name.removesuffix(ending)) if name.endswith(ending) else None
        return None if model is None else provide(model)

    @contextlib.contextmanager
    def patch(module: types.ModuleType) -> Iterator[None]:
        yield
        _provide(module, find)

    return patch


def _dataset_of(model: type) -> type:
    from recbole_edt.data.dataset import CrossDomainDataset

    return CrossDomainDataset


def _trainer_of(model: type) -> type:
    from recbole_edt.trainer import trainer_class

    return trainer_class(model)


@contextlib.contextmanager
def _patched_config(module: types.ModuleType) -> Iterator[None]:
    """``Config``: the plugin's property files, and several processes that a launcher started."""
    yield
    config_class = module.Config
    load_internal, init_device = config_class._load_internal_config_dict, config_class._init_device

    def is_ours(config: Any) -> bool:
        from recbole_edt.config import EDTConfig
        from recbole_edt.registry import is_plugin_model

        return is_plugin_model(config.model_class) or isinstance(config, EDTConfig)

    @functools.wraps(load_internal)
    def _load_internal_config_dict(self: Any, model: str, model_class: Any, dataset: str) -> None:
        load_internal(self, model, model_class, dataset)
        if is_ours(self):
            from recbole_edt.config import lay_properties

            lay_properties(self)

    @functools.wraps(init_device)
    def _init_device(self: Any) -> None:
        from recbole_edt import distributed

        if is_ours(self) and distributed.is_launched(self.final_config_dict):
            distributed.init(self.final_config_dict)
        else:
            init_device(self)

    config_class._load_internal_config_dict = _load_internal_config_dict
    config_class._init_device = _init_device


@contextlib.contextmanager
def _patched_loaders(module: types.ModuleType) -> Iterator[None]:
    """``recbole.data.utils``: the plugin's loaders for its models, and for its runs of others."""
    yield
    original = module.get_dataloader

    @functools.wraps(original)
    def get_dataloader(config: Any, phase: str) -> Any:
        from recbole_edt.config import EDTConfig
        from recbole_edt.data.dataloader import EvaluationLoader, SequenceLoader
        from recbole_edt.registry import is_plugin_model

        if is_plugin_model(config.model_class):
            return SequenceLoader if phase == "train" else EvaluationLoader
        if isinstance(config, EDTConfig) and phase != "train":
            return EvaluationLoader
        return original(config, phase)

    for place in (module, sys.modules.get("recbole.data")):
        if hasattr(place, "get_dataloader"):
            vars(place)["get_dataloader"] = get_dataloader


_PATCHES: dict[str, Patch] = {
    "recbole": _patched_package,
    "recbole.config.configurator": _patched_config,
    "recbole.data.dataset": _providing("Dataset", _dataset_of),
    "recbole.data.utils": _patched_loaders,
    "recbole.trainer": _providing("Trainer", _trainer_of),
    "recbole.data.dataset.dataset": _patched_dataset,
    "recbole.data.dataset.kg_dataset": _patched_row_lengths,
    "recbole.data.dataset.sequential_dataset": _patched_row_lengths,
    "recbole.model.sequential_recommender.s3rec": _patched_checkpoint_reader,
    "recbole.model.sequential_recommender.sine": _patched_anomaly_detection,
    "recbole.trainer.trainer": _patched_trainer,
    "recbole.quick_start.quick_start": _patched_quick_start,
    "recbole.utils.utils": _patched_folders,
}
