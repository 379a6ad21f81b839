"""``recbole-edt augment``: arguments in, augmented atomic files and what they cost out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_edt.augment.pipeline import Pipeline
from recbole_edt.augment.settings import AugmentCommand
from recbole_edt.io.datasets import command_line
from recbole_edt.io.paths import find_data_root
from recbole_edt.io.statistics import statistics_lines
from recbole_edt.settings import help_text, nest, parse_arguments, validate

HELP = help_text(
    "recbole-edt augment --dataset=D --output_path=OUT [--key=value ...]",
    "Augment raw atomic files: insert items that retrieval or an LLM proposes for users, and write "
    "a profile of every user. Reads the training rows only.",
    AugmentCommand,
)

_ESTIMATE = """\
  An estimate: it assumes four bytes per token, answers of the requested length and only new
  generated items. Calls that fail and are repeated come on top."""


_TOO_MANY = 0.1  # share of users who failed from which the exit code is 1


def augment(arguments: Sequence[str]) -> int:
    """Augment a data set as the command line asks for it, and print what came out.

    Returns
    -------
    int
        Exit code: 1 if more than a tenth of the users failed.

    Raises
    ------
    EDTError
        If arguments, configuration or data are invalid, or an endpoint cannot serve the run.
    """
    given = validate(AugmentCommand, nest(parse_arguments(arguments, AugmentCommand)))
    source = Path(given.data_path or find_data_root(given.dataset))
    pipeline = Pipeline(given.dataset, source, Path(given.output_path), given)
    if given.dry_run:
        _print_estimate(pipeline.estimate(), pipeline.max_cost)
        return 0
    report = pipeline.run()
    retrieved = given.generator == "retrieval"
    how = " with existing items by similarity (generator retrieval)" if retrieved else ""
    for when, heading in (("before", ""), ("after", how)):
        print(f"-- {when} augmentation{heading}")
        print(*statistics_lines(given.dataset, report["statistics"][when]), sep="\n")
    for stage, users in report["failures"].items():
        if users:
            user, reason = next(iter(users.items()))
            print(
                f"{stage}: calls failed for {len(users)} users, served without them "
                f"(such as {user}: {reason})"
            )
    for domain, found in report["new_items"].items():
        if found["nearest"] < found["catalogue"]:
            print(
                f"{domain}: the {found['n']:,} new items are unlike the catalogue: their cosine "
                f"with its nearest item is {found['nearest']:.2f} (median), nine in ten catalogue "
                f"items have {found['catalogue']:.2f} or more with another one. Read some "
                f"(generated = 1 in {given.dataset}.item) before you train on them, or ask a "
                "larger model"
            )
    _print_costs(report["cost"])
    print("seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in pipeline.seconds.items()))
    print(f"written: {pipeline.output}")
    print(f"next: {command_line('run --model=LLMEDT', given.dataset, given.output_path)}")
    return _exit_code(report)


def _exit_code(report: Mapping[str, Any]) -> int:
    failed = {user for users in report["failures"].values() for user in users}
    n = report["statistics"]["before"]["users"]
    if len(failed) <= _TOO_MANY * n:
        return 0
    print(
        f"{len(failed):,} of {n:,} users failed, more than a tenth: what is written lacks what "
        "they should have got; run again to ask for it",
        file=sys.stderr,
    )
    return 1


def _print_costs(costs: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what the models behind endpoints cost, over all runs into this folder."""
    if not costs:
        return
    others = ["faults", "answered", "seconds", "in_flight", "concurrency"]
    table = pd.DataFrame.from_dict(costs, orient="index").drop(columns=others)
    table = table.rename(columns=lambda name: name.replace("_", " "))
    table.loc["total"] = table.sum()
    whole = [column for column in table if column != "dollars"]
    table = table.astype(dict.fromkeys(whole, int))
    formats = dict.fromkeys(whole, "{:,}".format) | {"dollars": "{:,.4f}".format}
    print("-- models behind endpoints (from calls on: over all runs into this folder)")
    print(table.to_string(formatters=formats))
    for stage, cost in costs.items():
        if not cost["requests"]:
            continue
        kind = "completion" if cost["completion_tokens"] else "prompt"
        rate = cost[f"{kind}_tokens"] / (cost["seconds"] or 1)
        print(
            f"  {stage}: {rate:,.0f} {kind} tokens a second, {cost['in_flight']} of "
            f"{cost['concurrency']} calls under way (mean)"
            + "".join(f"; {fault} {n:,}" for fault, n in cost["faults"].items())
        )


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
