"""The command line; an error of the plugin becomes one line and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from recbole_edt.errors import ConfigError, EDTError
from recbole_edt.signals import Terminated, ending_cleanly, exit_code, line


@dataclass(frozen=True)
class Command:
    """A command of the console script; its module is imported when it is asked for.

    Attributes
    ----------
    summary : str
        Half a line of help.
    module : str
        Module with a function of the command's name, which takes the arguments.
    help : str
        ``module:name`` of its help: a text, or a function of the arguments.
    """

    summary: str
    module: str
    help: str


def _command(summary: str, module: str, help_: str | None = None) -> Command:
    module = f"recbole_edt.{module}"
    return Command(summary, module, f"recbole_edt.{help_}" if help_ else f"{module}:HELP")


COMMANDS = {
    "prepare": _command("public Amazon files -> atomic files", "prepare.command"),
    "augment": _command("atomic files -> augmented atomic files", "augment.command"),
    "run": _command("train and test one model", "quick_start", "run_settings:help_of_run"),
    "compare": _command("many models over seeds, one table", "experiment.compare"),
    "experiment": _command("tables and figures of the paper", "experiment.command"),
    "report": _command("all of them in one HTML page", "experiment.report"),
    "search": _command("settings that validate best", "experiment.search"),
    "recommend": _command("a trained model at work", "recommend.command"),
}


def usage() -> str:
    """Help of the console script."""
    lines = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: recbole-edt COMMAND [arguments]", "", *lines, "",
            "recbole-edt COMMAND --help lists the arguments of a command.", "",
        ]
    )  # fmt: skip


def execute(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code.

    An :class:`EDTError`, or a file or disk that fails, becomes one line on standard error and exit
    code 2; Ctrl-C and SIGTERM become one line, and 130 and 143.
    """
    try:
        command = _find(name)
        if "--help" in arguments or "-h" in arguments:
            place, attribute = command.help.split(":")
            help_ = getattr(import_module(place), attribute)
            print(help_(arguments) if callable(help_) else help_, end="")
            return 0
        if name != "run" and _is_one_of_several():
            raise ConfigError(f"{name} is one process: only run takes several")
        run = getattr(import_module(command.module), name)
        with ending_cleanly():
            run(arguments)
    except (EDTError, OSError) as error:
        who = f"process {os.environ['RANK']}: " if _is_one_of_several() else ""
        print(f"error: {who}{' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as told:
        number = signal.SIGTERM if isinstance(told, Terminated) else signal.SIGINT
        print(line(number), file=sys.stderr)
        return exit_code(number)
    return 0


def _find(name: str) -> Command:
    if name not in COMMANDS:
        from recbole_edt.settings import nearest

        known = ", ".join(COMMANDS)
        raise ConfigError(f"unknown command '{name}'{nearest(name, COMMANDS)} (known: {known})")
    return COMMANDS[name]


def _is_one_of_several() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "LOCAL_RANK" in os.environ


def run_main() -> None:
    """Entry point of ``run_recbole_edt.py``."""
    sys.exit(execute("run", sys.argv[1:]))


def main() -> None:
    """Entry point of the console script ``recbole-edt``."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(usage(), end="")
        sys.exit(0)
    sys.exit(execute(name, arguments))
