"""``recbole-edt sample``: the bundled data set, to look at its files and to try the commands."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from recbole_edt.errors import ConfigError
from recbole_edt.io.datasets import command_line
from recbole_edt.io.files import check_writable
from recbole_edt.io.paths import bundled_data
from recbole_edt.settings import Name, Settings, help_text, parse_arguments, validate

NAME = "cloth_sport"


class SampleCommand(Settings, use_attribute_docstrings=True):
    """Keys of ``recbole-edt sample``."""

    output_path: Name = "dataset_atomic"
    """folder that receives the data set's folder"""


HELP = help_text(
    "recbole-edt sample [--output_path=dataset_atomic]",
    f"Write the bundled data set, {NAME}: about 2,000 simulated users of two shops, already "
    "augmented. It shows the files that the other commands read and how they work, not how models "
    "compare.",
    SampleCommand,
)


def sample(arguments: Sequence[str]) -> None:
    """Copy the bundled data set into a folder that does not hold one of its name.

    Raises
    ------
    ConfigError
        If arguments are invalid, or there is something already.
    """
    settings = validate(SampleCommand, parse_arguments(arguments, SampleCommand))
    target = Path(settings.output_path) / NAME
    if target.exists():
        raise ConfigError(f"{target} is there already: move it away, or say --output_path=FOLDER")
    check_writable("output_path", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as scratch:
        whole = shutil.copytree(bundled_data() / NAME, Path(scratch) / NAME)
        whole.rename(target)
    print((target / "SIMULATED").read_text(encoding="utf-8").strip())
    # the default one is looked up
    folder = "dataset" if settings.output_path == "dataset_atomic" else str(target.parent)
    print(f"written: {target}")
    print(f"next: {command_line('run --model=LLMEDT', NAME, folder)}")
