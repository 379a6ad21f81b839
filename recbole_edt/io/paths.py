"""Locations of property files and data sets."""

from __future__ import annotations

from pathlib import Path

from recbole_edt.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


def _shipped(name: str) -> Path:
    """Folder that comes with the package: inside an installed one, beside it in a checkout."""
    for folder in (_PACKAGE / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the folder {name} of recbole_edt is not installed")


def properties_dir() -> Path:
    """Folder of the property files."""
    return _shipped("properties")


def find_data_root(dataset: str) -> str:
    """Folder that holds the dataset's folder: ``dataset/`` before the bundled ``dataset_atomic/``.

    Both are looked up in the working folder, then in the checkout or the installed package. Where
    neither holds it, the answer is ``dataset``, so that the error names the expected place.
    """
    for root in (Path.cwd(), _PACKAGE.parent, _PACKAGE):
        for folder in ("dataset", "dataset_atomic"):
            if (root / folder / dataset).is_dir():
                return str(root / folder)
    return "dataset"


def bundled_data() -> Path:
    """Folder of the bundled data set."""
    return _shipped("dataset_atomic")


def simulated_note(folder: str | Path) -> str:
    """Sentence that figures of a data set's folder begin with if it is simulated, else ''."""
    note = Path(folder) / "SIMULATED"
    return note.read_text(encoding="utf-8").strip() if note.is_file() else ""
