"""``recbole-edt augment``: arguments in, augmented atomic files and what they cost out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_edt.augment.pipeline import Pipeline
from recbole_edt.augment.settings import AugmentCommand
from recbole_edt.io.datasets import command_line
from recbole_edt.io.paths import find_data_root
from recbole_edt.io.statistics import statistics_lines
from recbole_edt.settings import help_text, parse_arguments, validate

HELP = help_text(
    "recbole-edt augment --dataset=D --output_path=OUT [--key=value ...]",
    "Insert items that an LLM, or retrieval, proposes for users, and write a profile of every "
    "user: raw atomic files in, augmented atomic files out. Sees the training rows only.",
    AugmentCommand,
)

_ESTIMATE = """\
  An estimate: a token is four bytes, an answer is as long as its prompt asks for, and each
  generated item is taken for a new one. Calls that fail and are made again come on top."""


def augment(arguments: Sequence[str]) -> None:
    """Augment a data set as the command line asks for it, and print what came out.

    Raises
    ------
    EDTError
        If arguments, configuration or data are invalid, or an endpoint cannot serve the run.
    """
    given = validate(AugmentCommand, parse_arguments(arguments))
    source = Path(given.data_path or find_data_root(given.dataset))
    pipeline = Pipeline(given.dataset, source, Path(given.output_path), given)
    if given.dry_run:
        _print_estimate(pipeline.estimate(), given.max_cost)
        return
    report = pipeline.run()
    for when in ("before", "after"):
        print(f"-- {when} augmentation")
        print(*statistics_lines(given.dataset, report["statistics"][when]), sep="\n")
    for stage, users in report["failures"].items():
        if users:
            user, reason = next(iter(users.items()))
            print(
                f"{stage}: calls failed for {len(users)} users, served without them "
                f"(such as {user}: {reason})"
            )
    print("seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in pipeline.seconds.items()))
    print(f"written: {pipeline.target}")
    print(f"next: {command_line('run --model=LLMEDT', given.dataset, given.output_path)}")


def _print_estimate(calls: Sequence[Mapping[str, Any]], max_cost: float | None) -> None:
    if not calls:
        print("dry run: no stage asks a model behind an endpoint; nothing was written")
        return
    print("dry run: nothing was asked, nothing was written")
    print(pd.DataFrame(calls).to_string(index=False, float_format="{:,.4f}".format))
    dollars = sum(call["dollars"] for call in calls)
    print(f"  about {dollars:.4f} dollars in all\n{_ESTIMATE}")
    if max_cost is not None and dollars > max_cost:
        print(f"  That is more than max_cost ({max_cost:g}), at which the run would stop.")
