"""README and docs: blocks of code run as they stand, or say why not; links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from recbole_edt.cli import COMMANDS, execute
from recbole_edt.experiment import pictures
from recbole_edt.model.settings import LLMEDTSettings
from recbole_edt.run_settings import RunSettings
from tools import figure, keys, notebook

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md",
         *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
         "docs/tutorial.ipynb"]  # fmt: skip

LOGS = {"CHANGELOG.md", "docs/experiments.md"}  # of what was, with the options of its day
CODE = [page for page in PAGES if page not in LOGS]

NOT_RUN = {
    "make ": "runs this suite, or makes an environment",
    "pip install": "needs a network",
    "export DEEPSEEK_API_KEY": "needs an endpoint and its key; tests/augment has a local one",
    **dict.fromkeys(
        [
            "llama-server",
            "OLLAMA_CONTEXT_LENGTH",
            "vllm serve",
            "lms server",
            "recbole-edt augment --dataset=cloth_sport --output_path=augmented --generator=openai",
        ],
        "needs raw data and a model; tests/augment has a server of its own",
    ),
    "recbole-edt augment --dataset=cloth_sport --encoder=file": "needs vectors of the real data",
    "recbole-edt prepare": "downloads; tests/prepare runs it against a local server",
    "recbole-edt compare": "trains for hours; tests/experiment/test_compare.py runs it",
    "recbole-edt search": "trains for long; tests/experiment/test_search.py runs it",
    **dict.fromkeys(
        ["# my_", "import my_baseline", "from my_model", "recbole-edt run --model=my_model"],
        "tests/test_extending.py runs what docs/extending.md shows",
    ),
    **dict.fromkeys(
        ["# service", "# faiss_recipe", "# hnswlib_recipe"],
        "tests/recommend/test_serving.py runs the service and the recipes",
    ),
    "# join": "tests/importing/test_import.py runs it",
}
"""Beginnings of blocks that are not run here, and the reason."""

SMALL = ["--epochs=1", "--hidden_size=8", "--n_negatives=16", "--use_gpu=False", "--state=ERROR"]
SMALLER = {
    '{"epochs": 3}': '{"epochs": 1, "hidden_size": 8, "use_gpu": False}',
    '{"eval_args.mode": "full"}': '{"eval_args.mode": "full", "epochs": 1, "use_gpu": False}',
    'dataset="cloth_sport")': 'dataset="cloth_sport", config_dict={"epochs": 1, "hidden_size": 8})',
    "all.parquet": "all.csv",
}
"""What is made smaller in examples, so that they take seconds."""


def text_of(page: str) -> str:
    if page.endswith(".ipynb"):
        return "\n\n".join(map(markdown, nbformat.read(ROOT / page, as_version=4).cells))
    return (ROOT / page).read_text(encoding="utf-8")


def markdown(cell) -> str:
    """A cell of a notebook as a page of Markdown would show it, without its outputs."""
    if cell.cell_type == "markdown":
        return cell.source
    language, body = (
        ("sh", cell.source[5:]) if cell.source[:4] == "%%sh" else ("python", cell.source)
    )
    return f"```{language}\n{body}\n```"


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of each block of code."""
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text_of(page), re.S | re.M):
        if language in ("sh", "bash", "console", "python"):
            yield "python" if language == "python" else "sh", body


def is_run(block: tuple[str, str]) -> bool:
    return not block[1].startswith(tuple(NOT_RUN))


def lines_of(body: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in body.replace("\\\n", "").splitlines()]
    return [words for words in lines if words]


def with_real_checkpoints(text: str) -> str:
    """Put the youngest checkpoint in place of one whose name is cut short."""

    def found(match: re.Match) -> str:
        files = [path for path in Path("saved").glob(f"LLMEDT-{match[1] or ''}*.pth")
                 if path.name.count(".") == 1]  # fmt: skip
        return str(max(files, key=lambda path: path.stat().st_mtime))

    return re.sub(r"saved/LLMEDT-(mine|cloth_sport)?[\w.-]*\.pth", found, text)


def run(language: str, body: str) -> None:
    for whole, part in SMALLER.items():
        body = body.replace(whole, part)
    if language == "python" and (name := re.match(r"# (\w+\.py)\n", body)):
        Path(name[1]).write_text(body, encoding="utf-8")  # a later command starts it
    elif language == "python":
        exec(compile(with_real_checkpoints(body), "block", "exec"), {})
    else:
        for words in lines_of(body):
            command, *arguments = map(with_real_checkpoints, words)
            if (command, *arguments[:1]) == ("python", "run_recbole_edt.py"):
                command, arguments = "recbole-edt", ["run", *arguments[1:]]
            if command == "python":
                runpy.run_path(arguments[0])
                continue
            assert command == "recbole-edt"
            more = SMALL if arguments[0] == "run" else []
            assert execute(arguments[0], [*arguments[1:], *more]) == 0, words


@pytest.fixture
def shop() -> None:
    """A part of the bundled data in ``dataset/``, and the files of two shops."""
    name = "cloth_sport"
    bundled, folder = ROOT / "dataset_atomic" / name, Path("dataset") / name
    folder.mkdir(parents=True)
    for suffix in (".item", ".item_emb.npy"):
        shutil.copy(bundled / f"{name}{suffix}", folder)
    rows = pd.read_csv(bundled / f"{name}.inter", sep="\t", dtype=str)
    rows = rows[rows["user_id:token"] <= "u00120"]
    rows.to_csv(folder / f"{name}.inter", sep="\t", index=False)
    rows.columns = [column.partition(":")[0] for column in rows]
    titles = pd.read_csv(bundled / f"{name}.item", sep="\t", dtype=str)
    rows["title"] = rows["item_id"].map(titles.set_index("item_id:token")["title:token_seq"])
    for file, letter in (("books", "c"), ("movies", "s")):
        mine = rows[rows["item_id"].str.startswith(letter) & (rows["augmented"] == "0")]
        mine[["user_id", "item_id", "timestamp", "title"]].to_csv(f"{file}.csv", index=False)


PAGES_RUN = [page for page in CODE if page.endswith(".md") and any(map(is_run, blocks(page)))]


@pytest.mark.parametrize("page", PAGES_RUN)
def test_the_blocks_of_a_page_run(page, shop):
    if page == "docs/serving.md":
        run("sh", "recbole-edt run --model=LLMEDT --dataset=cloth_sport")
    for block in filter(is_run, blocks(page)):
        run(*block)


def test_the_notebook_holds_what_it_shows_when_it_runs(tmp_path):
    def shown(cell) -> object:
        """What commands print, but for times and numbers; of other cells the kinds of outputs.

        Processors round differently, and an item more or less is inserted.
        """
        outputs = cell.get("outputs", [])
        if cell.source.startswith("%%sh"):
            texts = (re.sub(r"seconds: .*", "", out.text) for out in outputs)
            return [re.sub(r"\d[\d,.]*", "0", text) for text in texts]
        return {(out.output_type, *sorted(out.get("data", ()))) for out in outputs}

    held, made = nbformat.read(notebook.PATH, as_version=4), notebook.run(tmp_path)
    for old, new in zip(held.cells, made.cells, strict=True):
        assert shown(old) == shown(new), "run: python -m tools.notebook"
    hits = [float(re.search(r"overall +\d+ +([.\d]+)", str(one))[1]) for one in (held, made)]
    assert hits[1] == pytest.approx(hits[0], abs=0.05)


def test_what_is_not_run_exists():
    bodies = [body for page in CODE for _, body in blocks(page)]
    for beginning in NOT_RUN:
        assert any(body.startswith(beginning) for body in bodies), beginning


@pytest.mark.parametrize("page", CODE)
def test_commands_name_keys_that_exist(page):
    of_runs = {*RunSettings.model_fields, *LLMEDTSettings.model_fields, "last", "config_files"}
    targets = set(re.findall(r"^(\w+):", text_of("Makefile"), re.M))
    for language, body in blocks(page):
        for command, *arguments in lines_of(body) if language == "sh" else []:
            if command == "make":
                assert arguments[0] in targets
            if command != "recbole-edt":
                continue
            name, *given = arguments
            assert name in COMMANDS
            known = set(getattr(keys.COMMANDS.get(name), "model_fields", ["dataset"]))
            if name in ("run", "compare", "experiment", "search"):
                known |= of_runs | {"model", "dataset"}
            for argument in given:
                key = re.match(r"--([\w-]+)", argument)
                assert key is None or key[1].replace("-", "_") in known, (page, argument)


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.S | re.M)
    links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(
        r'(?:src|srcset|href)="(.+?)"', prose
    )
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in slugs(target), link


@pytest.mark.parametrize("page", CODE)
def test_files_that_are_named_exist(page):
    named = re.findall(
        r"`((?:recbole_edt|properties|benchmarks|tests|tools)/[\w./]*)`", text_of(page)
    )
    absent = [name for name in named if not (ROOT / name).exists()]
    assert absent == ["properties/model/RecentMean.yaml"] * (page == "docs/extending.md")


def test_functions_beside_the_equations_exist():
    names = re.findall(r"`(?:LLM\w+\.)?(\w+)` \|$", text_of("docs/method.md"), re.M)
    code = "".join(path.read_text("utf-8") for path in (ROOT / "recbole_edt").rglob("*.py"))
    assert len(names) > 9 and all(f"def {name}(" in code for name in names), names


def test_the_page_of_keys_is_current():
    assert text_of("docs/keys.md") == keys.page(), "run: python -m tools.keys"


def test_the_figure_is_current():
    for name, colours in figure.COLOURS.items():
        assert text_of(f"docs/figures/pipeline-{name}.svg") == figure.draw(colours)


def test_the_picture_of_a_sequence_is_the_same_in_light_and_dark():
    light, dark = (text_of(f"docs/figures/sequence-{name}.svg") for name in ("light", "dark"))
    colours = pictures.DARK.items()
    assert reduce(lambda text, pair: text.replace(*pair), colours, light) == dark != light
    assert re.search(r'role="img" aria-label="[^"]*rank \d', light) and "@media" not in light
