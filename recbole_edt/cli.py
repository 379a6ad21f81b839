"""The command line; an error of the plugin becomes one line and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import recbole_edt
from recbole_edt.errors import ConfigError, EDTError
from recbole_edt.signals import Terminated, ending_cleanly, line

# name: its summary, and the module that holds HELP and a function of its name, or of that after ":"
COMMANDS = {
    "sample": ("the bundled, simulated data set -> a folder", "prepare.sample"),
    "import": ("files of your own -> atomic files", "importing.command:import_files"),
    "prepare": ("public Amazon files -> atomic files", "prepare.command"),
    "augment": ("atomic files -> augmented atomic files", "augment.command"),
    "run": ("train and test one model", "quick_start"),
    "compare": ("many models over seeds, one table", "experiment.compare"),
    "experiment": ("tables and figures of the paper", "experiment.command"),
    "report": ("all of them in one HTML page", "experiment.report"),
    "search": ("settings that validate best", "experiment.search"),
    "recommend": ("a trained model's recommendations", "recommend.command"),
}


def execute(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code: what it returns if that is a number, else 0.

    An :class:`EDTError`, or a file or disk that fails, becomes one line on standard error and exit
    code 2; Ctrl-C and SIGTERM become one line, and 130 and 143.
    """
    # whether a launcher such as torchrun started this process as one of several
    is_one_of_several = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "LOCAL_RANK" in os.environ
    if isinstance(sys.stdout, TextIOWrapper):  # it may be of an encoding that lacks some letters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if name not in COMMANDS:
            from recbole_edt.settings import nearest

            known = ", ".join(COMMANDS)
            raise ConfigError(f"unknown command '{name}'{nearest(name, COMMANDS)} (known: {known})")
        place, _, function = COMMANDS[name][1].partition(":")
        module = f"recbole_edt.{place}"
        if "--help" in arguments or "-h" in arguments:
            if name == "run":  # without torch and RecBole, which its module loads
                from recbole_edt.run_settings import help_of_run

                print(help_of_run(arguments), end="")
            else:
                print(import_module(module).HELP, end="")
            return 0
        if name != "run" and is_one_of_several:
            raise ConfigError(f"{name} is one process: only run takes several")
        run = getattr(import_module(module), function or name)
        with ending_cleanly():
            code = run(arguments)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (EDTError, OSError) as error:
        who = f"process {os.environ['RANK']}: " if is_one_of_several else ""
        # one write: lines of several processes do not run into each other
        sys.stderr.write(f"error: {who}{' '.join(str(error).splitlines())}\n")
        return 2
    except KeyboardInterrupt as told:
        number = signal.SIGTERM if isinstance(told, Terminated) else signal.SIGINT
        print(line(number), file=sys.stderr)
        return 128 + number


def run_main() -> None:
    """Entry point of ``run_recbole_edt.py``."""
    sys.exit(execute("run", sys.argv[1:]))


def main() -> None:
    """Entry point of the console script ``recbole-edt``."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name == "--version":
        print(f"recbole-edt {recbole_edt.__version__}")
        sys.exit(0)
    if name not in ("--help", "-h"):
        sys.exit(execute(name, arguments))
    print("usage: recbole-edt COMMAND [arguments]\n")
    for command, (summary, _) in COMMANDS.items():
        print(f"  {command:<12}{summary}")
    print("\nrecbole-edt COMMAND --help lists the arguments of a command, --version the version.")
    sys.exit(0)
