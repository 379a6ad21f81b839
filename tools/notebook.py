"""Run the notebook of the docs and keep what it shows: ``python -m tools.notebook``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

PATH = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def run(folder: str | Path) -> nbformat.NotebookNode:
    """Return the notebook with new outputs; its commands work in a folder.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    notebook = nbformat.read(PATH, as_version=4)
    bin_folder = Path(sys.executable).parent  # of `recbole-edt`, where no environment is active
    env = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    client = NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute(env=env)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        nbformat.write(run(folder), PATH)
