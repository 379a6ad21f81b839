"""The commands: help, one run from end to end, and one clear line for everything that is wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from running import arguments_of

from recbole_edt import cli

ROOT = Path(__file__).resolve().parents[1]
SMALL = arguments_of(state="INFO")


@pytest.fixture
def refused(capfd):
    """Run arguments that must be refused: exit code 2, one line, nothing written. Give the line."""

    def check(*arguments) -> str:
        before = sorted(Path().rglob("*"))
        assert cli.execute("run", arguments) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.endswith("\n") and err.count("\n") == 1
        assert sorted(Path().rglob("*")) == before
        return err

    return check


def test_full_run_in_a_process_of_its_own(python, data_path):
    script = ROOT / "run_recbole_edt.py"
    options = ["--finetune_epochs=1", f"--data_path={data_path}", "--result_file=r.json"]
    done = python(script, "--model=LLMEDT", *SMALL, *options)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line[:1] not in ("=", "")] == [
        "LLMEDT", "art", "bike", "overall", "for", "checkpoint:",
    ]  # fmt: skip
    results = json.loads(Path("r.json").read_text())
    assert results["test"]["domains"].keys() == {"art", "bike"}
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert "hidden_size" not in done.stderr  # the settings are in the log file, not on the screen
    (log,) = Path("log/LLMEDT").iterdir()
    assert "hidden_size = 16" in log.read_text()
    named = re.findall(r"\S+\.pth", done.stdout)
    assert sorted(named) == sorted(map(str, Path("saved").glob("*.pth")))


LOADED = "print([n for n in ('torch', 'recbole', 'numpy', 'pydantic') if n in sys.modules])"


def test_help_loads_next_to_nothing(python):
    done = python(
        "-c",
        "import sys, time; sys.argv = ['recbole-edt', '--help']\n"
        "try:\n    from recbole_edt.cli import main; main()\n"
        f"except SystemExit:\n    print(time.process_time()); {LOADED}",
    )
    *_, seconds, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert float(seconds) < 0.5


@pytest.mark.parametrize(
    "module", ["run_settings", "prepare.command", "augment.command", "data.sequences"]
)
def test_what_needs_neither_torch_nor_recbole_loads_neither(python, module):
    done = python("-c", f"import sys, recbole_edt.{module}; {LOADED}")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "recbole"} & set(eval(done.stdout.splitlines()[-1]))


def test_without_recbole_help_works_and_a_run_is_one_line(python):
    code = (
        "import importlib.machinery as m, sys\n"
        "find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = classmethod("
        "lambda cls, name, *rest: None if name == 'recbole' else find(name, *rest))\n"
        "from recbole_edt.cli import execute\n"
        "sys.exit(max(execute(name, sys.argv[2:]) for name in sys.argv[1].split(',')))\n"
    )
    helped = python("-c", code, ",".join(cli.COMMANDS), "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.count("usage: ") == len(cli.COMMANDS)
    helped = python("-c", code, "run", "--model=LLMEDT", "--help")
    assert (helped.returncode, helped.stderr) == (0, "") and "--seed" in helped.stdout
    assert "keys of LLMEDT alone are not shown: RecBole is not installed" in helped.stdout
    done = python("-c", code, "run", "--model=LLMEDT", "--dataset=tiny")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: RecBole is not installed: run `pip install --no-deps recbole==1.2.1`\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 0, "usage: recbole-edt"),
        (["--help"], 0, "usage: recbole-edt"),
        (["run", "--help"], 0, "--eval_args.mode"),
        (["run", "--model=LLMEDT", "--help"], 0, "--hidden_size"),
        (["run", "--model=LLMED", "--help"], 2, "did you mean 'LLMEDT'"),
        (["run", "--model=LLMEDT", "--help"], 0, "keys of every run: --history_weight=auto\n"),
        (["run", "--model=SASRec", "--help"], 0, "attn_dropout_prob: 0.5 "),
        (["run", "--model=SASRec", "--help"], 0, "hidden_size: 128\n"),
        (["--version"], 0, "recbole-edt "),
        (["runn"], 2, "unknown command 'runn', did you mean 'run'?"),
    ],
)
def test_console_script(capsys, monkeypatch, arguments, code, words):
    monkeypatch.setattr(sys, "argv", ["recbole-edt", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code
    out, err = capsys.readouterr()
    assert words in (err if code else out)


def test_commands_of_one_process_refuse_several(capsys, monkeypatch):
    for key, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    assert cli.execute("compare", ["--dataset=cloth_sport"]) == 2
    assert "compare is one process" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr("recbole_edt.quick_start.run", lambda _: signal.raise_signal(signal.SIGINT))
    assert cli.execute("run", []) == 130
    assert capsys.readouterr().err.startswith("interrupted: the same command goes on")


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("recbole_edt.quick_start.run", lambda arguments: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.execute("run", [])


def test_runs_of_one_process_have_logs_and_curves_of_their_own(data_path):
    for seed in (1, 2):
        arguments = ["--model=SASRec", *SMALL, f"--data_path={data_path}", f"--seed={seed}"]
        assert cli.execute("run", arguments) == 0
    logs = [file.read_text() for file in Path("log/SASRec").iterdir()]
    assert sorted("seed = 1" in log for log in logs) == [False, True]
    assert all(log.count("epoch 0 training") == 1 for log in logs)
    assert len(list(Path("log_tensorboard").iterdir())) == 2


@pytest.mark.parametrize("model", ["SASRec", "LLMEDT"])
def test_the_screen_has_one_line_per_epoch_and_the_log_file_all_of_recboles(
    data_path, capfd, model
):
    small = [argument.replace("--epochs=1", "--epochs=2") for argument in SMALL]
    arguments = [f"--model={model}", *small, f"--data_path={data_path}"]
    assert cli.execute("run", arguments) == 0
    screen, (file,) = capfd.readouterr().err, Path("log", model).iterdir()
    lines = re.findall(
        r"(?:stage (\d), )?epoch (\d) \(of 2\): loss [\d.]+ \(\d+[.]\d s\), validation ndcg@3 "
        r"0[.]\d{4} \(\d+[.]\d s\), best 0[.]\d{4} \((?:epoch \d|before the first epoch)\); "
        r"early stop after \d+ more below the best",
        screen,
    )
    stages = "12" if model == "LLMEDT" else [""]
    assert lines == [(stage, epoch) for stage in stages for epoch in "01"]
    for words in ("valid result", "Saving current", "training [time"):
        assert words not in screen
        assert words in file.read_text()


def test_simulated_data_are_called_so(data_path, capsys):
    note = Path(data_path, "tiny", "SIMULATED")
    note.write_text("These data are simulated.\n")
    cli.execute("run", ["--model=SASRec", *SMALL, f"--data_path={data_path}"])
    note.unlink()
    assert capsys.readouterr().out.startswith("These data are simulated.\n\n")


def test_the_bundled_data_are_written_once(capsys):
    assert cli.execute("sample", ["--output_path=over here"]) == 0
    first, written, following = capsys.readouterr().out.splitlines()
    assert first.startswith("simulated data")
    assert written == f"written: {Path('over here/cloth_sport')}"
    command = shlex.split(following.removeprefix("next: recbole-edt run "))
    assert cli.execute("run", [*command, "--epochs=1", "--time_limit=0.1", "--state=ERROR"]) == 0
    capsys.readouterr()
    assert cli.execute("sample", ["--output_path=over here"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in Path("over here").iterdir()] == ["cloth_sport"]


def test_a_reader_that_stops_ends_a_command_quietly(python):
    code = (
        "import os, sys; sys.argv = ['recbole-edt', 'experiment', 'list']\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "from recbole_edt.cli import main; main()\n"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_terminal_that_lacks_a_letter_gets_its_number(monkeypatch):
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), encoding="cp1252"))
    monkeypatch.setattr("recbole_edt.prepare.sample.sample", lambda _: print("\u66f8"))
    assert cli.execute("sample", []) == 0
    assert sys.stdout.buffer.getvalue().split() == [b"\\u66f8"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset=tiny"], "--model is missing"),
        (["--model=SASRec"], "--dataset is missing"),
        (["--model", "--dataset=tiny"], "model must be text"),
        (["model=SASRec"], "is not of the form --key=value"),
        (["--model=LLMEDT", "--dataset=tiny", "--config_files=no.yaml"], "no.yaml cannot be read"),
        (["--model=LLMEDT", "--dataset=nowhere"], "there is no dataset 'nowhere'"),
        (["--model=LLMEDT", "--dataset=tiny", "--device=cuda"], "a GPU is asked for"),
        (["--model=LLMEDT", "--dataset=tiny", "--use_gpu"], "a GPU is asked for"),
        (["--model=LLMEDT", "--dataset=tiny", "--local-rank=0"], "in place of torch.distributed"),
        (["--model=LLMEDT", "--dataset=tiny", "--seed=4294967296"], "must be at most 4294967295"),
    ],
)
def test_bad_names(refused, arguments, words):
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    "setting",
    [
        "model=LLMEDT --result_file", "model=LLMEDT --USER_ID_FIELD=nobody",
        "model=LLMEDT --report_modes=['full','uni999']", "model=LLMEDT --n_heads=5",
        "model=SASRec --loss_type=foo", "model=SASRec --hidden_act=foo",
    ],
)  # fmt: skip
def test_bad_values(data_path, refused, setting):
    refused(*f"--{setting}".split(), *SMALL, f"--data_path={data_path}")


def test_a_folder_without_room_for_logs_is_named(data_path, capfd, monkeypatch):
    def init_logger(_):
        raise OSError(errno.EROFS, "Read-only file system", "./log")

    monkeypatch.setattr("recbole_edt.log.init_logger", init_logger)
    assert cli.execute("run", ["--model=LLMEDT", *SMALL, f"--data_path={data_path}"]) == 2
    assert "start the run in a folder that can be written" in capfd.readouterr().err


def test_places_that_cannot_be_written_show_before_the_training(data_path, refused, monkeypatch):
    Path("file").write_text("kept")
    Path("folder").mkdir()
    Path("locked").mkdir()
    arguments = ["--model=LLMEDT", *SMALL, f"--data_path={data_path}"]
    assert "is a folder" in refused(*arguments, "--result_file=folder")
    assert "cannot be written" in refused(*arguments, "--result_file=file/r.json")
    assert "cannot be written" in refused(*arguments, "--checkpoint_dir=file")
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p).name != "locked" and access(p, mode))
    assert "locked takes no new file" in refused(*arguments, "--result_file=locked/new/r.json")
