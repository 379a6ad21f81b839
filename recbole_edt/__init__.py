"""RecBole-EDT: LLM-EDT and cross-domain sequential recommendation for RecBole 1.2.1.

One import makes RecBole run on a current stack and lets its own look-ups (``get_model``,
``create_dataset``, ``get_trainer``, ``Config``, ``run_recbole``) find the plugin's classes.
It loads neither torch nor RecBole: their modules are patched when they are imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recbole_edt.compat import patch_recbole
from recbole_edt.signals import watch_imports
from recbole_edt.threads import limit_spinning

if TYPE_CHECKING:
    from recbole_edt.importing.command import import_frames
    from recbole_edt.quick_start import run_recbole_edt
    from recbole_edt.recommend.recommender import Recommender
    from recbole_edt.registry import register_model

watch_imports()
limit_spinning()
patch_recbole()

__version__ = "0.1.0"
_HOMES = {
    "Recommender": "recommend.recommender",
    "import_frames": "importing.command",
    "register_model": "registry",
    "run_recbole_edt": "quick_start",
}
__all__ = ["Recommender", "import_frames", "register_model", "run_recbole_edt"]


def __getattr__(name: str) -> Any:
    """Import public functions on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'recbole_edt' has no attribute '{name}'")
    return getattr(import_module(f"recbole_edt.{_HOMES[name]}"), name)
