"""``recbole-edt recommend``: what a trained model recommends, to one user or to all."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import pandas as pd
from pydantic import BeforeValidator, model_validator
from tqdm import tqdm

from recbole_edt.errors import DependencyError
from recbole_edt.io.files import atomic_write, check_writable, write_text
from recbole_edt.io.paths import simulated_note
from recbole_edt.settings import (
    Count,
    Name,
    Settings,
    help_text,
    parse_arguments,
    parse_value,
    validate,
)

if TYPE_CHECKING:
    from recbole_edt.recommend.recommender import Recommender

LEAST = 0.1
"""Least fall of a score, in distances from the first to the tenth, that makes a row a reason."""


def _ids(value: Any) -> list[str]:
    """Read ids: ``a,b``, or a list in brackets for ids that hold commas."""
    if isinstance(value, str):
        value = parse_value(value) if value.startswith("[") else value.split(",")
    if not isinstance(value, list):
        raise ValueError("ids such as u1,u2")
    return [str(name) for name in value]


def _ids_or_file(value: Any) -> list[str]:
    if not isinstance(value, str) or not value.startswith("@"):
        return _ids(value)
    try:
        lines = Path(value[1:]).read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError("ids such as i1,i2 or @FILE, text with an id in each line") from error
    return [line.strip() for line in lines if line.strip()]


Ids = Annotated[list[Name], BeforeValidator(_ids)]


_NOT_WRITTEN = {
    "tsv", "xlsx", "xls", "ods", "gz", "bz2", "zip", "xz", "zst", "feather", "html",
}  # fmt: skip
_FOR_LOADING = {
    "checkpoint", "dataset", "data_path", "until", "eval_batch_size", "use_gpu", "gpu_id",
    "threads",
}  # fmt: skip


class RecommendSettings(Settings, use_attribute_docstrings=True):
    """Keys of ``recbole-edt recommend``."""

    checkpoint: Name
    """checkpoint of `run`, in saved/ or --checkpoint_dir"""
    dataset: Name | None = None
    """name of the data set (default: the one of the run)"""
    data_path: Name | None = None
    """folder that holds DATASET/ (default: the one of the run)"""
    user: Ids | None = None
    """ids of users, such as u1,u2, or ['Doe, Jo'] if an id holds a comma, or all (with --output);
    without --output their histories and recommendations are printed, with the rows of the history
    that explain each item"""
    history: Ids | None = None
    """instead of users: item ids of one history, oldest first, such as i7,i3"""
    topk: Count = 10
    """items per domain"""
    domain: Name | None = None
    """items of one domain (default: both, each topk)"""
    repeat: bool = False
    """also recommend items of the history, for what is bought again"""
    exclude: Annotated[list[Name], BeforeValidator(_ids_or_file)] = []
    """ids of items to leave out, such as i7,i3, or @FILE with an id in each line; unknown ids of a
    file are named and ignored"""
    until: Literal["all", "test", "valid"] = "all"
    """end of the histories: all rows, or before the target of test or of valid"""
    output: Name | None = None
    """file for the recommendations: user, domain, rank, item, title, score"""
    format: Literal["csv", "json", "parquet"] | None = None
    """format of --output, json with an object per line (default: by its name, else csv)"""
    html: Name | None = None
    """file for a page of histories, recommendations and the rows that explain them"""
    explain: bool = False
    """add the column because to --output: the item of the history that explains most of the
    recommendation, or nothing if no single one does; takes longer"""
    export: Name | None = None
    """folder that receives each domain's item and user vectors (.npy) and ids, for a
    nearest-neighbour index"""
    eval_batch_size: Count | None = None
    """users at a time (default: 1024)"""
    use_gpu: bool | None = None
    """False: use the CPU"""
    gpu_id: Any = None
    """which GPU, as in RecBole"""
    threads: Count | None = None
    """compute threads"""

    @model_validator(mode="after")
    def _says_what(self) -> RecommendSettings:
        if self.user is None and self.history is None and self.export is None:
            raise ValueError("say --user=U, --user=all, --history=ITEM,ITEM or --export=DIR")
        if self.user is not None and self.history is not None:
            raise ValueError("say either --user or --history")
        if self.html is not None and self.user in (["all"], None) and self.history is None:
            raise ValueError("--html shows users of --user=U,U or one --history, and not all users")
        if self._suffix in _NOT_WRITTEN and self.format is None:
            raise ValueError(
                f"output: .{self._suffix} is not written: .csv, .json or .parquet, or --format"
            )
        if self.output is None and (self.user == ["all"] or self.format or self.explain):
            raise ValueError("--user=all, --format and --explain need --output=FILE")
        return self

    @property
    def _suffix(self) -> str:
        return Path(self.output or "").suffix.removeprefix(".").lower()

    @property
    def written_as(self) -> str:
        """Format of the file of ``output``."""
        by_name = {"json": "json", "jsonl": "json", "parquet": "parquet"}
        return self.format or by_name.get(self._suffix, "csv")


HELP = help_text(
    "recbole-edt recommend --checkpoint=C --user=U [--domain=X] [--topk=10]",
    "Recommend items with a trained model, from its data or from data that have grown since.",
    RecommendSettings,
)


def recommend(arguments: Sequence[str]) -> None:
    """Recommend as the command line asks for it; EDTError if that is invalid."""
    as_text = ("user", "history", "exclude")
    given = parse_arguments(arguments, RecommendSettings, as_text=as_text)
    settings = validate(RecommendSettings, given)
    vectors = settings.export and Path(settings.export, "users.txt")
    for key, path in {"output": settings.output, "html": settings.html, "export": vectors}.items():
        if path is not None:
            check_writable(key, path)
    if settings.written_as == "parquet" and find_spec("pyarrow") is None:
        raise DependencyError("--format=parquet needs pyarrow: run `pip install pyarrow`")
    # help does without RecBole
    from recbole_edt.recommend.recommender import Recommender, check_domain
    from recbole_edt.trainer import checkpoint

    if settings.domain is not None:
        check_domain(settings.domain, checkpoint.load(settings.checkpoint)["dataset"]["domains"])
    load = settings.model_dump(include=_FOR_LOADING, exclude_none=True)
    recommender = Recommender.load(**load)
    users = None if settings.user == ["all"] else settings.user
    histories = recommender.asked(users, settings.history)  # all ids are checked
    if settings.export is not None:
        for path in recommender.export(settings.export):
            print(f"written: {path}")
    exclude = settings.exclude
    if (file := str(given.get("exclude"))).startswith("@"):
        exclude = _known_items(recommender, exclude, file[1:])
    asked: Any = {"k": settings.topk, "domain": settings.domain, "history": settings.history,
                  "repeat": settings.repeat, "exclude": exclude}  # fmt: skip
    names = [None] if settings.history is not None else users
    if settings.output is not None:
        frames = recommender.batches(users, **asked)
        if settings.explain:
            known = recommender.data.id2token(recommender.data.uid_field, histories.users)
            told = (explained(recommender, user, **asked) for user in names or known)
            frames = (one.with_reasons() for one in told)
        n = write(frames, settings.output, settings.written_as)
        print(f"written: {settings.output} ({n:,} recommendations)")
    if settings.html is not None:
        shown = [explained(recommender, user, **asked) for user in names or []]
        write_html(shown, settings.html, recommender)
        print(f"written: {settings.html}")
    elif settings.output is None:
        if names and (note := simulated_note(recommender.config["data_path"])):
            print(note, end="\n\n")
        for place, user in enumerate(names or []):
            print("\n" * (place > 0), end="")  # between users
            show(explained(recommender, user, **asked))


def _known_items(recommender: Recommender, items: list[str], file: str) -> list[str]:
    """Leave out, and name, ids of a file that no item has: a shop's list may hold many."""
    known = recommender.data.field2token_id[recommender.data.iid_field]
    if strangers := [item for item in items if item not in known]:
        tqdm.write(
            f"{file}: {len(strangers):,} of {len(items):,} ids are of no item here: "
            f"{', '.join(strangers[:3])}", file=sys.stderr
        )  # fmt: skip
    return [item for item in items if item in known]


class Explained(NamedTuple):
    """What is recommended to a user, and because of what."""

    user: str  # "" for a history
    rows: pd.DataFrame  # the history, as `Recommender.rows_of_training` returns it
    found: pd.DataFrame  # recommendations; the rows that carry them in `carriers`, by `number`

    @property
    def seen(self) -> pd.DataFrame:
        """Rows of the history that the model sees, by their number."""
        return self.rows[self.rows["number"] > 0].set_index("number", drop=False)

    def with_reasons(self) -> pd.DataFrame:
        """Recommendations, and in ``because`` the item that carries most; empty if none does."""
        ids = self.seen["item_id"]
        because = [ids[of[0][0]] if of else "" for of in self.found["carriers"]]
        return self.found.drop(columns="carriers").assign(because=because)


def explained(recommender: Recommender, user: str | None, k: int, **asked: Any) -> Explained:
    """Recommend to one user; ``asked`` as ``Recommender.recommend`` takes it.

    Rows carry an item if its score falls without them by at least ``LEAST`` of the distance
    between the first and the tenth score of its domain. A single row carries everything.
    """
    found = recommender.recommend(user, max(k, 10), **asked)
    scores = found[found["rank"] <= 10].groupby("domain")["score"]
    least = LEAST * found["domain"].map(scores.max() - scores.min())
    found, least = found[found["rank"] <= k], least[found["rank"] <= k]
    history = recommender.asked(user, asked["history"])
    rows = recommender.rows_of_training(history)
    of_items = recommender.carriers(history, found["item_id"])
    if recommender.reads_histories and (rows["number"] > 0).sum() == 1:
        carriers = [[(1, float("nan"))] for _ in of_items]
    else:
        carriers = [[(place + 1, fall) for place, fall in of if fall >= low]
                    for of, low in zip(of_items, least, strict=True)]  # fmt: skip
    return Explained(user or "", rows, found.assign(carriers=carriers))


def show(told: Explained) -> None:
    """Print a history and its recommendations."""
    seen = told.seen
    print(f"{f'user {told.user}' if told.user else 'history'}: the last {len(seen)} rows")
    for row in seen.itertuples():
        mark = "  (inserted)" if row.inserted else ""
        print(f"  [{row.number:>2}] {row.domain:<12} {row.item_id:<12} {row.title}{mark}")
    for domain, of_domain in told.found.groupby("domain", sort=False):
        print(f"\nrecommended from {domain} (with the rows of the history that raise the score)")
        for row in of_domain.itertuples():
            carriers = ", ".join(f"[{number}] {fall:+.2f}" for number, fall in row.carriers)
            if carriers and len(seen) == 1:
                carriers = "[1], the only row"
            print(
                f"  {row.rank:>2}. {row.score:8.4f}  {row.item_id:<12} {row.title}"
                f"  <- {carriers or 'the history as a whole'}"
            )


def write_html(told: Sequence[Explained], path: str, recommender: Recommender) -> None:
    """Write a self-contained page of what is recommended to users."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("recbole_edt.recommend"), autoescape=True)
    config = recommender.config
    text = environment.get_template("users.html.j2").render(
        told=told, domains=recommender.domains, model=config["model"], dataset=config["dataset"],
        note=simulated_note(config["data_path"]),
        inserted=any(one.rows["inserted"].any() for one in told),
    )  # fmt: skip
    write_text(Path(path), text)


def _with_rows(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Leave out frames without rows, which have no types; the last one stays if there are none."""
    n, frame = 0, pd.DataFrame()
    for frame in frames:
        n += len(frame)
        if len(frame):
            yield frame
    if not n:
        yield frame


def write(frames: Iterator[pd.DataFrame], path: str, format: str) -> int:
    """Write recommendations, a batch of users at a time; return their number."""
    n = 0
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        writer: Any = None
        for frame in _with_rows(tqdm(frames, desc="batches of users", leave=False, disable=None)):
            if format == "parquet":
                import pyarrow
                from pyarrow.parquet import ParquetWriter

                table = pyarrow.Table.from_pandas(frame, preserve_index=False)
                writer = writer or ParquetWriter(file, table.schema)
                writer.write_table(table)
            elif format == "json":
                frame.to_json(file, orient="records", lines=True, force_ascii=False)
            else:
                frame.to_csv(file, index=False, header=not n, lineterminator="\n")
            n += len(frame)
        if writer is not None:
            writer.close()
    return n
