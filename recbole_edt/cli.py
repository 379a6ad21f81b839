"""The command line: arguments in, one clear line and exit code 2 for what the user can mend."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

from recbole_edt.config import take_names
from recbole_edt.distributed import is_launched, rank
from recbole_edt.errors import EDTError
from recbole_edt.quick_start import run_recbole_edt
from recbole_edt.settings import parse_arguments
from recbole_edt.signals import Terminated, ending_cleanly, exit_code, line

RUN_HELP = """\
usage: run_recbole_edt.py --model=MODEL --dataset=DATASET [--key=value ...]

Train a model and test it under the leak-free protocol.

  --model=LLMEDT              a model of the plugin, or a sequential one of RecBole (SASRec, ...)
  --dataset=cloth_sport       a folder in dataset/, dataset_atomic/ or --data_path
  --data_path=DIR             folder that holds the dataset's folder
  --preset=paper              property set with every key as the paper prints it
  --config_files="a.yaml b.yaml"
  --eval_args.mode=uni100     full, uni100 or uni999
  --report_modes="['full']"   further protocols to test the same model under
  --result_file=out.json      where to write the results
  --seed=42
  --resume                    go on behind the last whole epoch of the same run
  --KEY=VALUE                 any other key of RecBole or of the property files

Several processes train one model to the same result (LLMEDT, and RecBole's own in RecBole's way):
  torchrun --nproc_per_node=2 run_recbole_edt.py --model=LLMEDT --dataset=cloth_sport
"""

HELP = """\
usage: recbole-edt COMMAND [arguments]

  prepare     public Amazon files -> atomic files      (recbole-edt prepare --help)
  augment     atomic files -> augmented atomic files   (recbole-edt augment --help)
  run         train and test one model                 (recbole-edt run --help)
  compare     many models over seeds, one table        (recbole-edt compare --help)
  experiment  tables and figures of the paper          (recbole-edt experiment --help)
  report      all of them in one HTML page             (recbole-edt report --help)
  search      settings that validate best              (recbole-edt search --help)
  recommend   a trained model at work                  (recbole-edt recommend --help)
"""


Command = Callable[[Sequence[str]], None]


def run(arguments: Sequence[str]) -> None:
    """Run one training as the command line asks for it.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    overrides = parse_arguments(arguments)
    model, dataset = take_names(overrides, "model", "dataset")
    files = str(overrides.pop("config_files", "") or "").split()
    run_recbole_edt(model, dataset, config_file_list=files, config_dict=overrides)


def guarded(command: Command, arguments: Sequence[str], help_: str) -> int:
    """Run a command and return its exit code.

    What the user can mend (an :class:`EDTError`, or a file or disk that fails) becomes one line on
    standard error and exit code 2; Ctrl-C and SIGTERM become one line, and 130 and 143.
    """
    if "--help" in arguments or "-h" in arguments:
        print(help_, end="")
        return 0
    try:
        with ending_cleanly():
            command(arguments)
    except (EDTError, OSError) as error:
        who = f"process {rank()}: " if rank() else ""
        print(f"error: {who}{' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as told:
        number = signal.SIGTERM if isinstance(told, Terminated) else signal.SIGINT
        print(line(number), file=sys.stderr)
        return exit_code(number)
    return 0


def _prepare() -> tuple[Command, str]:
    from recbole_edt.prepare import command

    return command.prepare, command.HELP


def _augment() -> tuple[Command, str]:
    from recbole_edt.augment import command

    return command.augment, command.HELP


def _compare() -> tuple[Command, str]:
    from recbole_edt.experiment import compare

    return compare.compare, compare.HELP


def _experiment() -> tuple[Command, str]:
    from recbole_edt.experiment import command

    return command.experiment, command.HELP


def _report() -> tuple[Command, str]:
    from recbole_edt.experiment import report

    return report.report, report.HELP


def _recommend() -> tuple[Command, str]:
    from recbole_edt.recommend import command

    return command.recommend, command.HELP


def _search() -> tuple[Command, str]:
    from recbole_edt.experiment import search

    return search.search, search.HELP


COMMANDS: dict[str, Callable[[], tuple[Command, str]]] = {
    "prepare": _prepare,
    "augment": _augment,
    "run": lambda: (run, RUN_HELP),
    "compare": _compare,
    "experiment": _experiment,
    "report": _report,
    "search": _search,
    "recommend": _recommend,
}
"""Name of each command -> what runs it, and its help; imported when it is asked for."""


def run_main() -> None:
    """Entry point of ``run_recbole_edt.py``."""
    sys.exit(guarded(run, sys.argv[1:], RUN_HELP))


def main() -> None:
    """Entry point of the console script ``recbole-edt``."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h"):
        print(HELP, end="")
        sys.exit(0)
    if arguments[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: unknown command '{arguments[0]}' (known: {known})", file=sys.stderr)
        sys.exit(2)
    if arguments[0] != "run" and is_launched({}):
        print(f"error: {arguments[0]} is one process: only run takes several", file=sys.stderr)
        sys.exit(2)
    command, help_ = COMMANDS[arguments[0]]()
    sys.exit(guarded(command, arguments[1:], help_))
