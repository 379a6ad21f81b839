"""The commands: help, one run from end to end, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_edt import cli
from recbole_edt.trainer import checkpoint

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "--dataset=tiny", "--epochs=1", "--hidden_size=16", "--eval_args.mode=uni5", "--topk=3",
    "--valid_metric=NDCG@3", "--use_gpu=False",
]  # fmt: skip
OWN = ["--inner_size=16", "--finetune_epochs=1"]


@pytest.fixture
def shop(make_shop):
    return make_shop(seed=3, n_users=20, n_items=(12, 14), lengths=(4, 8))


@pytest.fixture
def write(shop, write_dataset, tmp_path_factory):
    """Write the shop's dataset, or a spoilt one, and return the folder for ``--data_path``."""

    def make(**parts) -> Path:
        vectors = np.random.default_rng(0).normal(size=(26, 6))
        folder = tmp_path_factory.mktemp("data")
        return write_dataset(folder, shop, **{"item_emb": vectors, **parts})

    return make


@pytest.fixture
def refused(capfd):
    """Run arguments that must be refused: exit code 2, one line, nothing written. Give the line."""

    def check(*arguments) -> str:
        before = sorted(Path().rglob("*"))
        assert cli.guarded(cli.run, arguments, cli.RUN_HELP) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.endswith("\n") and err.count("\n") == 1
        assert sorted(Path().rglob("*")) == before
        return err

    return check


def command(*arguments, program=(str(ROOT / "run_recbole_edt.py"),)):
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
    )


# --- real processes -------------------------------------------------------------------------------


def test_full_run_in_a_process_of_its_own(write):
    data = write()
    done = command("--model=LLMEDT", *SMALL, *OWN, f"--data_path={data}", "--result_file=r.json")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line[:1] not in ("=", "")] == [
        "LLMEDT", "art", "bike", "overall",
    ]  # fmt: skip
    results = json.loads(Path("r.json").read_text())
    assert results["test"]["domains"].keys() == {"art", "bike"}
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert "hidden_size" not in done.stderr  # the settings are in the log file, not on the screen
    (log,) = Path("log/LLMEDT").iterdir()
    assert "hidden_size = 16" in log.read_text()
    assert {file.suffix for file in Path("saved").iterdir()} == {".pth"}


def test_refused_run_of_the_console_script_in_a_process_of_its_own(write):
    data = write()
    (data / "tiny" / "tiny.item").unlink()
    script = ("-c", "from recbole_edt.cli import main; main()", "run")
    arguments = ["--model=LLMEDT", *SMALL, f"--data_path={data}", "--result_file=r.json"]
    done = command(*arguments, program=script)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {data}/tiny/tiny.item is missing\n"
    assert not list(Path().iterdir())


# --- help and commands ----------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(capsys, flag):
    assert cli.guarded(cli.run, ["--model=x", flag], cli.RUN_HELP) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: ") and "--result_file" in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 0, "usage: recbole-edt"),
        (["--help"], 0, "usage: recbole-edt"),
        (["run", "--help"], 0, "--eval_args.mode"),
        (["runn"], 2, "unknown command 'runn'"),
        (["run"], 2, "--model=NAME is missing"),
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
    monkeypatch.setattr(sys, "argv", ["recbole-edt", "compare", "--dataset=cloth_sport"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "compare is one process" in capsys.readouterr().err


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["LLMEDTPretrain", "SASRec", "GRU4Rec", "BERT4Rec"])
def test_every_model_prints_the_same_table(write, capsys, model):
    data = write()
    arguments = [f"--model={model}", *SMALL, f"--data_path={data}", "--state=ERROR"]
    assert cli.guarded(cli.run, arguments, "") == 0
    title, rule, *rows = capsys.readouterr().out.rstrip().splitlines()
    assert title.split() == [model, "test,", "uni5", "users", "hit@3", "ndcg@3", "mrr"]
    assert set(rule) == {"="}
    assert [row.split()[0] for row in rows] == ["art", "bike", "overall"]
    assert int(rows[0].split()[1]) + int(rows[1].split()[1]) == int(rows[2].split()[1]) == 20
    assert all(0 <= float(cell) <= 1 for row in rows for cell in row.split()[2:])


def test_runs_of_one_process_have_logs_and_curves_of_their_own(write):
    data = write()
    for seed in (1, 2):
        arguments = ["--model=SASRec", *SMALL, f"--data_path={data}", f"--seed={seed}"]
        assert cli.guarded(cli.run, arguments, "") == 0
    logs = [file.read_text() for file in Path("log/SASRec").iterdir()]
    assert sorted("seed = 1" in log for log in logs) == [False, True]
    assert all(log.count("epoch 0 training") == 1 for log in logs)
    assert len(list(Path("log_tensorboard").iterdir())) == 2


def test_simulated_data_are_called_so(write, capsys):
    data = write()
    (data / "tiny" / "SIMULATED").write_text("These data are simulated.\n")
    cli.guarded(cli.run, ["--model=SASRec", *SMALL, f"--data_path={data}", "--state=ERROR"], "")
    assert capsys.readouterr().out.endswith("These data are simulated.\n")


# --- refused: names and settings ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset=tiny"], "--model=NAME is missing"),
        (["--model=SASRec"], "--dataset=NAME is missing"),
        (["--model", "--dataset=tiny"], "--model=NAME is missing"),
        (["--model=SASRec", "--dataset=7"], "--dataset=NAME is missing"),
        (["model=SASRec"], "is not of the form --key=value"),
        (["--model=LLMEDTX", "--dataset=tiny"], "did you mean 'LLMEDT'"),
        (["--model=LLMEDT", "--dataset=tiny", "--epoch=3"], "did you mean 'epochs'"),
        (["--model=LLMEDT", "--dataset=tiny", "--epochs=3", "--epochs=4"], "given twice"),
        (["--model=LLMEDT", "--dataset=tiny", "--preset=papr"], "has no preset 'papr'"),
        (["--model=LLMEDT", "--dataset=tiny", "--config_files=no.yaml"], "no.yaml cannot be read"),
        (["--model=LLMEDT", "--dataset=nowhere"], "there is no dataset 'nowhere'"),
        (["--model=LLMEDT", "--dataset=tiny", "--device=cuda"], "unknown key 'device'"),
    ],
)
def test_bad_names(refused, arguments, words):
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    "setting",
    [
        "learning_rate=abc", "epochs=-1", "hidden_size=abc", "MAX_ITEM_LIST_LENGTH=0", "topk=0",
        "eval_args.mode=foo", "metrics=Foo", "gpu_id=abc", "report_modes=['fool']", "seed=x",
        "result_file", "eval_args.split=none", "domains=cloth", "loss=foo", "n_heads=5",
        "backbone=lstm", "report_modes=['full','uni999']", "eval_args.mode=uni100",
        "domains=['art','shoes']", "USER_ID_FIELD=nobody",
    ],
)  # fmt: skip
def test_bad_values(write, refused, setting):
    small = [
        argument for argument in SMALL if argument.split("=")[0] != f"--{setting.split('=')[0]}"
    ]
    refused("--model=LLMEDT", *small, f"--data_path={write()}", f"--{setting}")


@pytest.mark.parametrize("setting", ["loss_type=foo", "hidden_act=foo", "n_heads=5"])
def test_bad_values_inside_recboles_own_models(write, refused, setting):
    refused("--model=SASRec", *SMALL, f"--data_path={write()}", f"--{setting}")


def test_too_few_items_for_a_protocol_show_before_the_training(write, refused):
    for setting in ("eval_args.mode=uni20", "report_modes=['uni20']"):
        small = SMALL if "report" in setting else [a for a in SMALL if "mode" not in a]
        line = refused("--model=LLMEDT", *small, f"--data_path={write()}", f"--{setting}")
        assert "uni20 needs 20 items" in line


# --- refused: places ------------------------------------------------------------------------------


def test_places_that_cannot_be_written_show_before_the_training(write, refused, monkeypatch):
    data = write()
    Path("file").write_text("kept")
    Path("folder").mkdir()
    Path("locked").mkdir()
    arguments = ["--model=LLMEDT", *SMALL, f"--data_path={data}"]
    assert "is a folder" in refused(*arguments, "--result_file=folder")
    assert "cannot be written" in refused(*arguments, "--result_file=file/r.json")
    assert "cannot be written" in refused(*arguments, "--checkpoint_dir=file")
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p).name != "locked" and access(p, mode))
    assert "locked takes no new file" in refused(*arguments, "--result_file=locked/new/r.json")
    assert Path("file").read_text() == "kept"


def test_full_disk_is_one_line(write, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save", full)
    arguments = ["--model=SASRec", *SMALL, f"--data_path={write()}", "--state=CRITICAL"]
    assert cli.guarded(cli.run, arguments, "") == 2
    assert "No space left on device" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    assert cli.guarded(interrupted, [], "") == 130
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--resume" in err


def test_what_only_a_programmer_can_mend_keeps_its_traceback():
    def broken(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.guarded(broken, [], "")


# --- refused: data --------------------------------------------------------------------------------

ROW = ("u0", "art1", 5, 0)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"rows": [("u0", "art1", 5)]}, "has no column 'position:float'"),
        ({"rows": [ROW, ROW, ROW]}, "repeat a (user_id, position)"),
        ({"rows": [ROW, ("u0", "art2", 5, "")]}, "have no position"),
        ({"rows": [ROW, ("u0", "art2", 5, "nan")]}, "position"),
        ({"rows": [ROW, ("u0", "shoe", 5, 1)]}, "does not list"),
        ({"rows": [ROW, ("u0", "art2", "soon", 1)]}, "tiny.inter"),
        ({"items": [("art1", "art")]}, "does not list"),
        ({"item_emb": np.ones((25, 6))}, "has 25 rows, but there are 26 items"),
        ({"item_emb": np.ones(26)}, "must hold a float matrix"),
        ({"item_emb": np.full((26, 6), np.nan)}, "not finite"),
        ({"item_emb": None}, "tiny.item_emb.npy is missing"),
        ({"users": ["u0"], "user_emb": np.ones((2, 6))}, "but there are 1 users"),
    ],
)
def test_bad_data(write, refused, parts, words):
    assert words in refused("--model=LLMEDT", *SMALL, *OWN, f"--data_path={write(**parts)}")


@pytest.mark.parametrize("n_domains", [1, 3])
def test_other_than_two_domains(write, shop, refused, n_domains):
    items = [(item, f"d{place % n_domains}") for place, (item, _) in enumerate(shop.items)]
    line = refused("--model=LLMEDT", *SMALL, f"--data_path={write(items=items)}")
    assert f"names {n_domains} domains" in line


def test_empty_files(write, refused):
    for suffix in ("inter", "item"):
        data = write()
        (data / "tiny" / f"tiny.{suffix}").write_bytes(b"")
        line = refused("--model=LLMEDT", *SMALL, f"--data_path={data}")
        assert f"tiny.{suffix} is empty" in line
        (data / "tiny" / f"tiny.{suffix}").write_text(
            "user_id:token\titem_id:token\ttimestamp:float\tposition:float\tdomain:token\n"
        )
        line = refused("--model=LLMEDT", *SMALL, f"--data_path={data}")
        assert f"tiny.{suffix} has no rows" in line


# --- refused: checkpoints -------------------------------------------------------------------------


def test_checkpoints(write, refused, shop, capfd):
    data = write()
    place = f"--data_path={data}"
    run = ["--model=LLMEDTPretrain", *SMALL, "--inner_size=16"]
    assert cli.guarded(cli.run, [*run, place, "--state=ERROR"], "") == 0
    (good,) = (file for file in Path("saved").iterdir() if ".last" not in file.name)
    (last,) = (file for file in Path("saved").iterdir() if ".last" in file.name)
    capfd.readouterr()

    tune = ["--model=LLMEDTFinetune", *SMALL, *OWN]
    assert "needs --pretrained_path" in refused(*tune, place)
    assert "there is no checkpoint none.pth" in refused(*tune, place, "--pretrained_path=none.pth")
    whole = good.read_bytes()
    Path("half.pth").write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in refused(*tune, place, "--pretrained_path=half.pth")
    fits = f"--pretrained_path={good}"
    assert "other sizes" in refused(*tune[:-2], "--inner_size=32", place, fits)
    other = f"--data_path={write(rows=shop.rows[:-3])}"
    assert "belongs to another dataset" in refused(*tune, other, fits)
    assert "belongs to another dataset" in refused(*run, other, "--resume")
    last.write_bytes(whole[:-100])
    assert "is damaged" in refused(*run, place, "--resume")
    assert good.read_bytes() == whole
