"""``recbole-edt prepare``: public Amazon files in, atomic files and their statistics out."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_edt.errors import ConfigError
from recbole_edt.io.datasets import command_line
from recbole_edt.io.statistics import statistics_lines
from recbole_edt.prepare.amazon import find_prepared, prepare_pair
from recbole_edt.prepare.settings import PrepareCommand
from recbole_edt.prepare.sources import pair_names
from recbole_edt.settings import help_text, parse_arguments, validate

HELP = help_text(
    "recbole-edt prepare PAIR [--key=value ...]",
    "Make the atomic files of two domains from the public Amazon reviews and metadata. PAIR is "
    f"one of {', '.join(pair_names())}, or --categories names any two. Existing files are "
    "not fetched or made again.",
    PrepareCommand,
    "The filters of ABXI are --users=both --min_rows_per_domain=3 --max_rows=50.\n",
)


def prepare(arguments: Sequence[str]) -> None:
    """Prepare the data set that the arguments describe, and print its statistics."""
    pair: list[str] = []
    given = parse_arguments(arguments, PrepareCommand, pair)
    if len(pair) > 1 or not (pair or "categories" in given):
        known = ", ".join(pair_names())
        raise ConfigError(f"name one pair to prepare ({known}), or two --categories")
    options = validate(PrepareCommand, given | dict(zip(["pair"], pair, strict=False)))
    found = find_prepared(options)
    statistics = found or prepare_pair(options)
    print(*statistics_lines(options.name, statistics), sep="\n")
    print(f"{options.target} " + ("was prepared before" if found else "is prepared"))
    line = command_line("augment", options.name, options.output_path)
    print(f"next: {line} --output_path=augmented")
