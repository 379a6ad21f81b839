"""``recbole-edt augment``: arguments in, augmented atomic files and what they cost out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_edt.augment.pipeline import Pipeline, augment_settings
from recbole_edt.errors import ConfigError
from recbole_edt.io.paths import find_data_root
from recbole_edt.io.statistics import statistics_lines
from recbole_edt.settings import parse_arguments

HELP = """\
usage: recbole-edt augment --dataset=D --output_path=OUT [--key=value ...]

Insert items that an LLM, or retrieval, proposes for users, and write everybody's profile:
raw atomic files in, augmented atomic files out. Sees the training rows only.

  --dataset=D                 name of the data set
  --data_path=IN              folder that holds D/ (default: dataset/, then dataset_atomic/)
  --output_path=OUT           receives D/, augmented; train on it with --data_path=OUT
  --encoder=lsa               lsa, file, openai, sentence-transformers
  --generator=retrieval       retrieval (no network), openai, none
  --profiler=extractive       extractive (no network), openai, none
  --llm=deepseek              endpoints: deepseek, openai, local, or a YAML file
  --dry-run                   say what each stage would cost, call nothing, write nothing
  --max-cost=DOLLARS          stop before more is spent; what was paid for is kept

Ablations and parameters (properties/augment.yaml says more; - and _ in keys mean the same):
  --filter=similarity|none    --insert=anchor|end|random     --profile=sra|naive|none
  --inject_ratio=1.0          --tau=0.9, or --tau_quantile=0.2
  --directions=scarce|both|minor     --min_ratio=0.0     --min_history=1     --neighbours=1
  --k=10  --num=10  --clusters=10  --seed=2026
"""


_ESTIMATE = """\
  An estimate: a token is four bytes; an answer is as long as its prompt asks for; what is sent is
  an estimate, too, where it builds on answers to come (each generated item is then taken for a new
  one). Calls that fail and are made again come on top."""


def augment(arguments: Sequence[str]) -> None:
    """Augment a data set as the command line asks for it, and print what came out.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    given = {key.replace("-", "_"): value for key, value in parse_arguments(arguments).items()}
    for key in ("dataset", "output_path"):
        if not isinstance(given.get(key), str):
            raise ConfigError(f"--{key} is missing")
    name, output = given.pop("dataset"), given.pop("output_path")
    source = str(given.pop("data_path", None) or find_data_root(name))
    pipeline = Pipeline(name, Path(source), Path(output), augment_settings(given))
    report = pipeline.run()
    if "dry_run" in report:
        _print_estimate(report["dry_run"], pipeline.settings["max_cost"])
        return
    for when in ("before", "after"):
        print(f"-- {when} augmentation")
        for line in statistics_lines(name, report["statistics"][when]):
            print(line)
    _print_failures(report["failures"])
    print("seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in pipeline.seconds.items()))
    print(f"written: {pipeline.target}")


def _print_estimate(calls: Sequence[Mapping[str, Any]], max_cost: float | None) -> None:
    """Say what a run would cost, one line for each stage in the order in which they ask."""
    if not calls:
        print("dry run: no stage asks a model behind an endpoint; nothing was written")
        return
    print("dry run: nothing was asked, nothing was written")
    print(f"  {'stage':<10} {'requests':>9} {'cached':>9} {'calls':>7} {'tokens in':>11} "
          f"{'out':>10} {'dollars':>10}  what is sent")  # fmt: skip
    for call in calls:
        print(
            f"  {call['stage']:<10} {call['requests']:>9,} {call['from_cache']:>9,} "
            f"{call['calls']:>7,} {call['prompt_tokens']:>11,} {call['completion_tokens']:>10,} "
            f"{call['dollars']:>10.4f}  {call['prompts']}"
        )
    dollars = sum(call["dollars"] for call in calls)
    print(f"  about {dollars:.4f} dollars in all\n{_ESTIMATE}")
    if max_cost is not None and dollars > max_cost:
        print(f"  That is more than max_cost ({max_cost:g}), at which the run would stop.")


def _print_failures(failures: dict[str, dict[str, str]]) -> None:
    for stage, users in failures.items():
        if users:
            user, reason = next(iter(users.items()))
            print(
                f"{stage}: calls failed for {len(users)} users, served without them "
                f"(such as {user}: {reason})"
            )
