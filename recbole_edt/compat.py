"""Everything that patches RecBole 1.2.1, each module at the moment when it is imported.

First, it runs on a current stack. It was written for numpy 1.x, pandas 1.x, torch 1.x and ray 2.6;
with the patches it gives the same results on Python 3.10-3.13, numpy 1.26 and 2.x, pandas 2 and 3
and torch up to 2.13.

Second, its look-ups find the plugin. ``get_model``, ``create_dataset`` and ``get_trainer`` look for
a module or a name, which the import system and the modules then provide. RecBole offers no hook
for property files, for processes and for loaders: ``Config._load_internal_config_dict``,
``Config._init_device`` and ``get_dataloader`` are wrapped, and act as before for other models.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from logging import getLogger
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_edt.errors import CheckpointError, ConfigError, DataError, DependencyError

__all__ = ["load_checkpoint", "patch_recbole"]

_PATCHES: dict[str, Callable[[ModuleType], contextlib.AbstractContextManager[None]]] = {}


@functools.cache
def patch_recbole() -> None:
    """Patch RecBole's modules: those imported already at once, the others when they are imported.

    A second call changes nothing.
    """
    sys.meta_path.insert(0, _PatchingFinder())
    sys.meta_path.extend([_ModelFinder(), _RayFinder()])
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            with patch(sys.modules[name]):
                pass


# --- how modules are patched ----------------------------------------------------------------------


class _PatchingFinder(MetaPathFinder):
    """Finds the modules of ``_PATCHES``, and only them; each is executed inside its patch."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in _PATCHES:
            return None
        # not one of this package imported before either: each would ask the other for ever
        others = (one for one in sys.meta_path if type(one).__name__ != type(self).__name__)
        found: Any = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None and spec.loader is not None), None)
        if spec is None and fullname == "recbole":
            raise DependencyError(
                "RecBole is not installed: run `pip install --no-deps recbole==1.2.1`"
            )
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with _PATCHES[fullname](module):
                execute(module)

        spec.loader.exec_module = exec_module
        return spec


def _patches(*names: str) -> Callable[[Callable[[Any], Iterator[None]]], None]:
    """Register a generator function, which executes modules at its ``yield``."""

    def register(patch: Callable[[Any], Iterator[None]]) -> None:
        _PATCHES.update(dict.fromkeys(names, contextlib.contextmanager(patch)))

    return register


def _wraps(owner: Any, name: str) -> Callable[[Callable], None]:
    """Replace a function of a class or module by one whose first argument is the original.

    A package that has imported the module's function has it replaced, too.
    """
    original = getattr(owner, name)

    def replace(function: Callable) -> None:
        @functools.wraps(original, updated=())
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        setattr(owner, name, replaced)
        package = sys.modules.get(owner.__name__.rpartition(".")[0])
        if vars(package or owner).get(name) is original:
            setattr(package, name, replaced)

    return replace


class _Overlay(ModuleType):
    """A module as one RecBole module sees it: some names changed, all others unchanged."""

    def __init__(self, module: ModuleType, **changes: Any) -> None:
        super().__init__(module.__name__, module.__doc__)
        vars(self).update(changes, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


# --- numpy, warnings, pandas, torch and folders ---------------------------------------------------


@_patches("recbole")
def _patch_package(module: Any) -> Iterator[None]:
    """Restore names that numpy 2 dropped; hide warnings about RecBole's own lines."""
    import numpy as np
    from pandas.errors import ChainedAssignmentError

    aliases = {  # `Config` reads the first three, ray.tune `bool8`; the others it would set itself
        "float_": "float64", "complex_": "complex128", "unicode_": "str_", "bool8": "bool_",
        "bool": "bool_", "int": "int_", "float": "float64", "complex": "complex128",
        "object": "object_", "str": "str_", "long": "int_", "unicode": "str_",
    }  # fmt: skip
    for alias, name in aliases.items():
        if alias not in vars(np):
            setattr(np, alias, getattr(np, name))
    for category in (DeprecationWarning, FutureWarning, ChainedAssignmentError):
        # RecBole's only chained assignments are the `fillna` that `_patch_dataset` replaces.
        warnings.filterwarnings("ignore", category=category, module=r"recbole\.")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"recbole\.model\.")
    # A column of a DataFrame is read-only in pandas 3. RecBole drops the frame right after making
    # a tensor of it.
    warnings.filterwarnings(
        "ignore", "The given NumPy array is not writable", module=r"recbole\.data\."
    )
    yield


@_patches("recbole.data.dataset.dataset")
def _patch_dataset(module: Any) -> Iterator[None]:
    """Fill missing values by assignment: pandas 3 copies on write."""
    yield
    vars(module).update(pd=_Overlay(module.pd, read_csv=_read_atomic), len=_row_lengths)

    @_wraps(module.Dataset, "_fill_nan")
    def _fill_nan(original: Callable, self: Any) -> None:
        for feat in (getattr(self, name) for name in self.feat_name_list):
            for field in feat:
                if self.field2type[field] == module.FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif self.field2type[field] == module.FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
        original(self)  # finds only missing sequences left to fill


@_patches("recbole.data.dataset.sequential_dataset", "recbole.data.dataset.kg_dataset")
def _patch_row_lengths(module: Any) -> Iterator[None]:
    yield
    vars(module)["len"] = _row_lengths


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

    ``column.agg(len)`` calls ``len`` for each row up to pandas 2, and once with the column from 3.
    """
    import pandas as pd

    return obj.map(len) if isinstance(obj, pd.Series) else len(obj)


@_patches("recbole.evaluator.metrics")
def _patch_metrics(module: Any) -> Iterator[None]:
    """Load scikit-learn with the first figure of its own, not at the start of every command."""

    class Metrics:
        def __getattr__(self, name: str) -> Callable:
            def metric(*args: Any, **kwargs: Any) -> Any:
                return getattr(import_module("sklearn.metrics"), name)(*args, **kwargs)

            return metric

    def import_(name: str, *args: Any) -> Any:
        return Metrics() if name == "sklearn.metrics" else __import__(name, *args)

    vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_}
    yield
    vars(module)["__builtins__"] = builtins


@_patches("recbole.model.sequential_recommender.sine")
def _patch_anomaly_detection(module: Any) -> Iterator[None]:
    """Undo that ``sine``, which every look-up imports, switches anomaly detection on."""
    yield
    module.torch.autograd.set_detect_anomaly(False)


@_patches(
    *(f"recbole.model.general_recommender.{name}" for name in ("gcmc", "lightgcn", "ncl", "ngcf")),
    "recbole.model.general_recommender.spectralcf",
    "recbole.model.knowledge_aware_recommender.kgin",
    "recbole.model.knowledge_aware_recommender.mcclk",
)
def _patch_sparse_matrices(module: Any) -> Iterator[None]:
    """Restore ``dok_matrix._update``, which scipy 1.13 dropped."""
    yield

    def dok_matrix(*args: Any, **kwargs: Any) -> Any:
        matrix = scipy_sparse.dok_matrix(*args, **kwargs)

        def update(entries: dict[tuple[int, int], float]) -> None:
            matrix[tuple(zip(*entries, strict=True))] = list(entries.values())

        matrix._update = update
        return matrix

    scipy_sparse = module.sp
    module.sp = _Overlay(scipy_sparse, dok_matrix=dok_matrix)


@_patches("recbole.model.knowledge_aware_recommender.kgat")
def _patch_graphs(module: Any) -> Iterator[None]:
    """Call dgl by the names that it has since version 1."""
    yield

    @_wraps(module.KGAT, "init_graph")
    def init_graph(original: Callable, self: Any) -> Any:
        import dgl

        def edge_subgraph(graph: Any, edges: Any, preserve_nodes: bool) -> Any:
            part = dgl.edge_subgraph(graph, edges, relabel_nodes=not preserve_nodes)
            part.adjacency_matrix = getattr(part, "adj_external", part.adjacency_matrix)
            return part

        sys.modules["dgl"] = _Overlay(dgl, edge_subgraph=edge_subgraph)  # imported in its body
        try:
            return original(self)
        finally:
            sys.modules["dgl"] = dgl


@_patches("recbole.utils.utils")
def _patch_utilities(module: Any) -> Iterator[None]:
    """Let ``ensure_dir`` tolerate a folder that another process has just created.

    ``get_model`` names the nearest model: RecBole, looking for an unknown one, imports lightgbm.
    ``list_to_latex`` keeps the results of models with different metrics in their own rows.
    ``dict2str`` writes metrics, which are not rounded here, with four decimals into the log.
    """
    yield
    module.os = _Overlay(os, makedirs=functools.partial(os.makedirs, exist_ok=True))

    @_wraps(module, "get_model")
    def get_model(original: Callable, model_name: str) -> Any:
        from recbole_edt.registry import check_known

        try:
            return original(model_name)
        except (AttributeError, ModuleNotFoundError):
            check_known(model_name)
            raise

    @_wraps(module, "list_to_latex")
    def list_to_latex(original: Callable, convert_list: Any, *args: Any, **kwargs: Any) -> Any:
        names = dict.fromkeys(name for row in convert_list for name in row)
        rows = [{name: row.get(name, float("nan")) for name in names} for row in convert_list]
        return original(rows, *args, **kwargs)

    @_wraps(module, "dict2str")
    def dict2str(original: Callable, metrics: Any) -> str:
        return original({name: f"{value:.4f}" for name, value in metrics.items()})


@_patches("recbole.utils.wandblogger")
def _patch_wandb(module: Any) -> Iterator[None]:
    """Give each training a run of its own, of the first process alone.

    RecBole goes on with the run of the training before. One that the user began is kept.
    """
    yield
    module.opened = None

    @_wraps(module.WandbLogger, "setup")
    def setup(original: Callable, self: Any) -> None:
        from recbole_edt.distributed import rank

        self.log_wandb = self.log_wandb and not rank()
        run: Any = getattr(sys.modules.get("wandb"), "run", None)
        if self.log_wandb and run is not None and run is module.opened:
            run = run.finish()
        original(self)
        if self.log_wandb and run is None:
            module.opened = self._wandb.run


@_patches("recbole.trainer.hyper_tuning")
def _patch_hyper_tuning(module: Any) -> Iterator[None]:
    """Search exhaustively with any hyperopt: from 0.2.6 on it asks for ``integers``."""
    import numpy as np

    class RandomState(np.random.RandomState):
        def integers(self, *args: Any) -> Any:
            return self.randint(*args)

    yield
    module.np = _Overlay(np, random=_Overlay(np.random, RandomState=RandomState))


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
        import torch
        from recbole.model.abstract_recommender import AbstractRecommender

        if name in _CHECKPOINT_GLOBALS.get(module, ()):
            return super().find_class(module, name)
        # Only modules of RecBole and of this plugin are imported because a file names them.
        if module in sys.modules or module.startswith(("recbole.", "recbole_edt.")):
            found = super().find_class(module, name)
            if isinstance(found, torch.dtype):
                return found
            if isinstance(found, type):
                home = found.__module__
                # a model class itself is a value of `Config`
                if issubclass(found, AbstractRecommender) or (
                    issubclass(found, Enum) and home.startswith("recbole.")
                ):
                    return found
                if home.startswith(_SAVED_WHOLE) and not issubclass(found, Enum):
                    # A pickle may call a class that it names: this gives an empty object.
                    return type(name, (), {"__new__": lambda cls: object.__new__(found)})
        raise CheckpointError(
            f"The checkpoint is not read: it names {module}.{name}, which RecBole does not save."
        )


# What `torch.load` takes for the module `pickle`.
_checkpoint_pickle = ModuleType("recbole_checkpoint_pickle")
vars(_checkpoint_pickle).update(
    Unpickler=_CheckpointUnpickler,
    load=lambda file, **kwargs: _CheckpointUnpickler(file, **kwargs).load(),
)


def load_checkpoint(path: Any, map_location: Any = None) -> Any:
    """Read a checkpoint that a RecBole trainer wrote; parameters as for ``torch.load``.

    Where there is no GPU, what was saved of one is on the CPU, and its configuration names that.

    Raises
    ------
    CheckpointError
        If the file refers to something that is no part of a RecBole checkpoint.
    """
    import torch

    if not (on_gpu := torch.cuda.is_available()):
        map_location = "cpu"
    # By the name that is never replaced: `torch.load` may be this function, see below.
    content = torch.serialization.load(
        path, map_location, weights_only=False, pickle_module=_checkpoint_pickle
    )
    if not on_gpu and isinstance(content, dict) and "config" in content:
        content["config"]["device"] = torch.device("cpu")
    return content


@_patches(
    "recbole.model.general_recommender.convncf", "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf", "recbole.model.general_recommender.ract",
    "recbole.model.sequential_recommender.s3rec", "recbole.trainer.trainer",
)  # fmt: skip
def _patch_reader(module: Any) -> Iterator[None]:
    """Read checkpoints; train on CPUs in several processes; let own trainers train our models."""
    yield
    module.torch = _Overlay(module.torch, load=load_checkpoint)
    if module.__name__ != "recbole.trainer.trainer":
        return

    @_wraps(module, "DistributedDataParallel")
    def data_parallel(original: Any, model: Any, device_ids: Any = None, **kwargs: Any) -> Any:
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        return original(model, device_ids=device_ids if on_gpu else None, **kwargs)

    module.Trainer.__new__ = _new_trainer


def _new_trainer(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Put a user's own trainer of a plugin's model over the trainer that the model needs.

    Its methods count before those of the model's trainer, which are what ``super()`` calls.
    """
    from recbole_edt.registry import is_plugin_model
    from recbole_edt.trainer import CrossDomainMixin, trainer_class

    model: Any = type(kwargs.get("model", args[1] if len(args) > 1 else None))
    if is_plugin_model(model) and not issubclass(cls, CrossDomainMixin):
        needed: Any = trainer_class(model)
        cls = needed if issubclass(needed, cls) else needed.below(cls)
    return object.__new__(cls)


class _RayFinder(MetaPathFinder, Loader):
    """Finds a stand-in for ray, where it is missing, for RecBole's quick start and its scripts.

    They import it whatever they tune with. All that is asked of it without ray is
    ``tune.report``, to which nobody listens; anything else says that ray is missing.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.partition(".")[0] != "ray":
            return None
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename.startswith("<frozen importlib"):
            frame = frame.f_back
        importer = frame.f_globals
        tunes = "objective_function" in importer and "HyperTuning" in importer
        if tunes or importer.get("__name__") == "recbole.quick_start.quick_start":
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def exec_module(self, module: ModuleType) -> None:
        def __getattr__(name: str) -> Any:
            if name == "tune" or name.startswith("__"):
                raise AttributeError(name)  # a module, which is imported then

            def refuse(*_: Any, **__: Any) -> None:
                raise DependencyError("ray is not installed: tune with Hyperopt, or install ray")

            return refuse

        vars(module)["__getattr__"] = __getattr__
        if module.__name__ == "ray.tune":
            vars(module)["report"] = lambda *_, **__: None


@_patches("recbole.quick_start.quick_start")
def _patch_quick_start(module: Any) -> Iterator[None]:
    """Import without ray, which does not exist for every Python; read checkpoints."""
    yield
    for name in ("ray", "ray.tune"):  # where other packages look for ray
        if isinstance(getattr(sys.modules.get(name), "__loader__", None), _RayFinder):
            del sys.modules[name]

    @_wraps(module, "load_data_and_model")
    def load_data_and_model(original: Callable, model_file: Any) -> Any:
        import torch

        from recbole_edt.restore import load_run
        from recbole_edt.trainer.checkpoint import is_foreign

        if not is_foreign(model_file):
            return load_run(model_file)
        load = torch.load  # the function imports torch in its body
        torch.load = load_checkpoint  # type: ignore[assignment]
        try:
            return original(model_file)
        finally:
            torch.load = load


@_patches("recbole.utils.case_study")
def _patch_case_study(module: Any) -> Iterator[None]:
    """Recommend no generated item, nothing without a history, and by all terms of a score."""
    import numpy as np

    yield

    @_wraps(module, "full_sort_scores")
    def full_sort_scores(
        original: Callable, uid_series: Any, model: Any, test_data: Any, device: Any = None
    ) -> Any:
        from recbole_edt.data.dataset import CrossDomainDataset
        from recbole_edt.evaluation.history import HistoryTerm

        data = test_data.dataset
        if not isinstance(data, CrossDomainDataset):
            return original(uid_series, model, test_data, device)
        unknown = np.setdiff1d(uid_series, data.inter_feat[data.uid_field])
        if len(unknown):
            users = ", ".join(map(str, data.id2token(data.uid_field, unknown)))
            raise DataError(f"there is no history to start from for these users: {users}")
        scores = original(uid_series, model, test_data, device)
        if term := HistoryTerm.of(model, data):
            rows = [np.flatnonzero(data.inter_feat[data.uid_field] == user) for user in uid_series]
            histories = data[np.concatenate(rows)][model.ITEM_SEQ].to(scores.device)
            scores += term.among(histories)
        scores[:, data.item_generated] = -float("inf")
        return scores


# --- the plugin's classes -------------------------------------------------------------------------

_MODELS = "recbole.model.sequential_recommender."


class _ModelFinder(MetaPathFinder, Loader):
    """Finds ``recbole.model.sequential_recommender.<name>`` of a model of the plugin."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.startswith(_MODELS):
            from recbole_edt.registry import registered_models

            if fullname.removeprefix(_MODELS) in map(str.lower, registered_models()):
                return ModuleSpec(fullname, self)
        return None

    def exec_module(self, module: ModuleType) -> None:
        _provide(module, "")


def _provide(module: ModuleType, ending: str) -> None:
    """Add lazily resolved names ``<Model><ending>`` of the plugin's models to a module."""

    def __getattr__(name: str) -> Any:
        from recbole_edt.registry import is_plugin_model, registered_models

        is_asked = name.endswith(ending) and not name.startswith("_")
        model = registered_models().get(name.removesuffix(ending)) if is_asked else None
        if model is None or (ending and not is_plugin_model(model)):
            raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")
        if ending == "Dataset":
            from recbole_edt.data.dataset import CrossDomainDataset

            return CrossDomainDataset
        if ending == "Trainer":
            from recbole_edt.trainer import trainer_class

            return trainer_class(model)
        return model

    vars(module)["__getattr__"] = __getattr__


@_patches("recbole.data.dataset", "recbole.trainer")
def _patch_packages(module: Any) -> Iterator[None]:
    """Let ``create_dataset`` and ``get_trainer`` find what belongs to the plugin's models."""
    yield
    _provide(module, "Trainer" if module.__name__ == "recbole.trainer" else "Dataset")


def _is_ours(config: Any) -> bool:
    from recbole_edt.config import EDTConfig
    from recbole_edt.registry import is_plugin_model

    return is_plugin_model(config.model_class) or isinstance(config, EDTConfig)


@_patches("recbole.config.configurator")
def _patch_config(module: Any) -> Iterator[None]:
    """Read the plugin's property files, find its data, and join the processes of a launcher."""
    yield

    @_wraps(module.Config, "_get_model_and_dataset")
    def _get_model_and_dataset(original: Callable, self: Any, *args: Any) -> Any:
        from recbole_edt.config import EDTConfig
        from recbole_edt.registry import is_plugin_model, is_users_own, register_model

        found = original(self, *args)
        own = is_users_own(found[1]) and is_plugin_model(found[1])
        if own and not isinstance(self, EDTConfig):
            register_model(found[1])  # RecBole's other look-ups know its name alone
        return found

    @_wraps(module.Config, "_load_internal_config_dict")
    def _load_internal_config_dict(original: Callable, self: Any, *args: Any) -> None:
        from recbole_edt.config import lay_data, lay_properties

        original(self, *args)
        (lay_properties if _is_ours(self) else lay_data)(self)
        internal = self.internal_config_dict
        if {**internal, **self.external_config_dict}.get("loss_type") == "CE":
            if internal["MODEL_TYPE"].name == "SEQUENTIAL":
                internal["train_neg_sample_args"] = None  # a softmax over all items samples none

    @_wraps(module.Config, "_get_final_config_dict")
    def _get_final_config_dict(original: Callable, self: Any) -> dict[str, Any]:
        if not _is_ours(self):
            return original(self)
        from recbole_edt.config import final_settings

        return final_settings(self)

    @_wraps(module.Config, "_set_default_parameters")
    def _set_default_parameters(original: Callable, self: Any) -> None:
        from recbole_edt.evaluation.metrics import check_metrics, refuse_metrics

        if not _is_ours(self):
            return original(self)
        metrics = self.final_config_dict["metrics"]
        refuse_metrics([metrics] if isinstance(metrics, str) else metrics)
        original(self)
        check_metrics(self)

    @_wraps(module.Config, "_init_device")
    def _init_device(original: Callable, self: Any) -> None:
        import torch

        from recbole_edt import distributed
        from recbole_edt.config import EDTConfig

        if not _is_ours(self):
            return original(self)
        settings = self.final_config_dict
        wanted, use_gpu, threads, _ = (self[k] for k in ("device", "use_gpu", "threads", "gpu_id"))
        if threads:
            torch.set_num_threads(threads)
        if wanted == "cpu" or not use_gpu:
            # RecBole decides by the first key alone, several processes by the second
            settings.update(gpu_id="", use_gpu=False)
        if distributed.is_launched(settings):
            distributed.init(settings)
        else:
            original(self)
        given = self.external_config_dict if isinstance(self, EDTConfig) else {}
        if (wanted == "cuda" or given.get("use_gpu") is True) and self["device"].type == "cpu":
            raise ConfigError(
                "a GPU is asked for, but there is none, or torch has no CUDA: say --device=cpu, or "
                "leave out device and use_gpu"
            )


@_patches("recbole.data.utils")
def _patch_loaders(module: Any) -> Iterator[None]:
    """Give the plugin's models its dataset and loaders, and its runs of others the evaluation."""
    yield

    @_wraps(module, "create_dataset")
    def create_dataset(original: Callable, config: Any) -> Any:
        from recbole_edt.config import EDTConfig, known_keys
        from recbole_edt.data import saved
        from recbole_edt.io.atomic import read_header
        from recbole_edt.io.paths import simulated_note
        from recbole_edt.settings import nearest
        from recbole_edt.trainer import trainer_class

        note = simulated_note(config["data_path"])
        if note and not isinstance(config, EDTConfig):  # which says it above its tables
            getLogger().warning(note)
        if _is_ours(config):
            if not isinstance(config, EDTConfig):  # RecBole takes any key
                known = known_keys(config)
                for key in sorted(config.external_config_dict.keys() - known):
                    getLogger().warning(
                        f"only code of your own can use the key '{key}'{nearest(key, known)}"
                    )
            trainer: Any = trainer_class(config.model_class)
            return saved.create_dataset(config, trainer.known_at_start(config))
        items = Path(config["data_path"], f"{config['dataset']}.item")
        if "domain:token" in read_header(items):
            getLogger().warning(
                f"RecBole's own pipeline splits and ranks for {config['model']}: do not compare "
                "its results with those of recbole_edt's models (run_recbole_edt ranks all alike)"
            )
        return original(config)

    @_wraps(module, "create_samplers")
    def create_samplers(original: Callable, config: Any, dataset: Any, built: Any) -> Any:
        if _is_ours(config):  # what a user has for negatives: training rows alone
            from recbole_edt.data.dataset import CrossDomainDataset

            if not isinstance(dataset, CrossDomainDataset):
                raise ConfigError(
                    f"{config['model']} does not read a {type(dataset).__name__}: make the dataset "
                    "with create_dataset, or of a subclass of recbole_edt.data.dataset."
                    "CrossDomainDataset"
                )
            dataset, built = built[0], [built[0]] * len(built)
        return original(config, dataset, built)

    @_wraps(module, "save_split_dataloaders")
    def save_split_dataloaders(original: Callable, config: Any, dataloaders: Any) -> None:
        from recbole_edt.data import saved

        (saved.save_loaders if _is_ours(config) else original)(config, dataloaders)

    @_wraps(module, "load_split_dataloaders")
    def load_split_dataloaders(original: Callable, config: Any) -> Any:
        from recbole_edt.data import saved

        if not _is_ours(config):
            return original(config)
        return saved.load_loaders(config, module.get_dataloader(config, "train"))

    @_wraps(module, "get_dataloader")
    def get_dataloader(original: Callable, config: Any, phase: str) -> Any:
        from recbole_edt.config import EDTConfig
        from recbole_edt.data.dataloader import EvaluationLoader, SequenceLoader
        from recbole_edt.registry import builtin_name, is_plugin_model

        if phase == "train" and is_plugin_model(config.model_class):
            return SequenceLoader
        if phase != "train" and _is_ours(config):
            return EvaluationLoader
        if isinstance(config, EDTConfig):  # a subclass has the loader of its base
            config = {**config.final_config_dict, "model": builtin_name(config.model_class)}
        return original(config, phase)
