"""``recbole-edt prepare``: arguments in, atomic files and their statistics out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from recbole_edt.errors import ConfigError
from recbole_edt.io.statistics import statistics_lines
from recbole_edt.prepare.amazon import Recipe, find_prepared, prepare_pair
from recbole_edt.prepare.filters import Filters
from recbole_edt.prepare.sources import default_options, pair_names, pair_source
from recbole_edt.settings import nearest

HELP = """\
usage: recbole-edt prepare PAIR [--key=value ...]

Make the atomic files of two domains from the public Amazon reviews and metadata.

  PAIR                        cloth_sport, electronic_phone or food_kitchen
  --edition=2014              2014 or 2018
  --source=FOLDER             read the raw files from a folder (gzipped or plain) instead of
                              downloading them
  --base_url=URL              download from a mirror
  --output_path=dataset       receives PAIR/ and, in .downloads/, the raw files

Which reviews stay (properties/prepare/amazon.yaml says more):
  --cross_listed=listed       ASINs of both domains leave both: `listed` if the reviews or the
                              metadata of both hold them, `reviewed` if the reviews do
  --repeated=first            of reviews of one item by one user keep the `first`, or `all`
  --min_item_rows=5           k-core: least rows of an item
  --min_user_rows=5           k-core: least rows of a user
  --min_rows_per_domain=0     least rows of a user in each domain he has
  --users=all                 `all`, or `both`: users of both domains only
  --max_rows=0                keep only a user's last rows (0 = all)
  --description_length=500    longest description, in characters
  --max_malformed=0.01        share of unreadable lines from which a file is refused

What is there already is not fetched or made again. ABXI's filters are
  --users=both --min_rows_per_domain=3 --max_rows=50
"""


class _Parser(argparse.ArgumentParser):
    """A parser that raises what the command line turns into one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _whole(least: int) -> Callable[[str], int]:
    """Read a whole number of at least ``least``."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {least}")
        return int(text)

    return read


def _share(text: str) -> float:
    """Read a number from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to below 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="recbole-edt prepare", add_help=False, allow_abbrev=False)
    parser.add_argument("pair", nargs="?")
    parser.add_argument("--edition")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--base_url")
    parser.add_argument("--output_path", type=Path, default=Path("dataset"))
    parser.add_argument("--cross_listed", choices=("listed", "reviewed"))
    parser.add_argument("--repeated", choices=("first", "all"))
    parser.add_argument("--users", choices=("all", "both"))
    for name, least in (
        ("min_item_rows", 1),
        ("min_user_rows", 1),
        ("min_rows_per_domain", 0),
        ("max_rows", 0),
        ("description_length", 0),
    ):
        parser.add_argument(f"--{name}", type=_whole(least))
    parser.add_argument("--max_malformed", type=_share)
    parser.set_defaults(**default_options())
    return parser


def parse(arguments: Sequence[str]) -> Recipe:
    """Make a recipe of the arguments, which may be ``--key=value`` or ``--key value``.

    Raises
    ------
    ConfigError
        For an unknown pair, edition or key, and for values that make no sense.
    """
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    known = [action.dest for action in parser._actions]
    if unknown:
        key = unknown[0].lstrip("-").partition("=")[0]
        raise ConfigError(f"unknown argument '{unknown[0]}'{nearest(key, known)}")
    if options.pair is None:
        raise ConfigError(f"name the pair to prepare: {', '.join(pair_names())}")
    if options.source is not None and options.base_url is not None:
        raise ConfigError("--source and --base_url cannot both be set")
    values: dict[str, Any] = vars(options)
    return Recipe(
        source=pair_source(options.pair, str(options.edition), options.base_url),
        output_path=options.output_path,
        local=options.source,
        filters=Filters(**{field.name: values[field.name] for field in fields(Filters)}),
        cross_listed=options.cross_listed,
        description_length=options.description_length,
        max_malformed=options.max_malformed,
    )


def prepare(arguments: Sequence[str]) -> None:
    """Prepare a data set as the command line asks for it, and print its statistics.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    recipe = parse(arguments)
    there = find_prepared(recipe) is not None
    statistics = prepare_pair(recipe)
    for line in statistics_lines(recipe.source.pair, statistics):
        print(line)
    steps = statistics["prepared"]["rows_after"]
    print("  rows: " + ", ".join(f"{count:,} {step}" for step, count in steps.items()))
    print(f"{recipe.target} " + ("was prepared before" if there else "is prepared"))
