"""Draw one user's sequence, a figure of README and docs: ``python -m tools.story``.

Trains LLMEDT on the bundled data, with and without augmentation (a minute), and writes
``docs/figures/sequence-light.svg`` and ``sequence-dark.svg``.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from recbole_edt.experiment.command import experiment
from recbole_edt.experiment.pictures import DARK
from recbole_edt.io.paths import bundled_data
from tools.figure import FOLDER

KEYS = {"dataset": "cloth_sport", "seeds": 42, "epochs": 15, "finetune_epochs": 15, "budget": 0}


def main() -> None:
    """Write both figures."""
    with TemporaryDirectory() as folder:
        keys = {**KEYS, "data_path": bundled_data(), "output_path": folder}
        experiment(["case", *(f"--{key}={value}" for key, value in keys.items())])
        drawn = Path(folder, "cloth_sport", "case", "case.svg").read_text(encoding="utf-8")
    light = re.sub("@media.*(?=</style>)", "", drawn)  # the page that shows it chooses
    dark = light
    for colour, other in DARK.items():
        dark = dark.replace(colour, other)
    for name, text in (("light", light), ("dark", dark)):
        (FOLDER / f"sequence-{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
