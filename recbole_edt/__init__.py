"""RecBole-EDT: LLM-EDT and cross-domain sequential recommendation for RecBole 1.2.1.

One import makes RecBole run on a current stack and lets its own look-ups (``get_model``,
``create_dataset``, ``get_trainer``, ``Config``, ``run_recbole``) find the plugin's classes.
"""

from recbole_edt.signals import watch_imports

watch_imports()

from recbole_edt.compat import patch_recbole  # noqa: E402

patch_recbole()

from recbole_edt.quick_start import run_recbole_edt  # noqa: E402
from recbole_edt.registry import register  # noqa: E402

register()

__version__ = "0.1.0"
__all__ = ["run_recbole_edt"]
