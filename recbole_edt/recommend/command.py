"""``recbole-edt recommend``: what a trained model recommends, to one user or to all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, model_validator
from tqdm import tqdm

from recbole_edt.errors import ConfigError
from recbole_edt.io.files import atomic_write, check_writable
from recbole_edt.recommend.recommender import History, Recommender
from recbole_edt.settings import Count, Name, Settings, help_text, parse_arguments, validate

_CARRIERS = 3  # rows of the history that are named per recommendation, at most


class RecommendSettings(Settings, use_attribute_docstrings=True):
    """Keys of ``recbole-edt recommend``."""

    dataset: Name
    """name of the data set"""
    checkpoint: Name
    """checkpoint of `run`, in saved/ or --checkpoint_dir"""
    user: Annotated[str, BeforeValidator(str)] | None = None
    """a user, whose history and recommendations are shown: title, domain, score, and the rows of
    the history that carried each item; or all, with --output"""
    output: Name | None = None
    """file for the recommendations of all users, as tab-separated text"""
    export: Name | None = None
    """folder that receives item and user vectors (.npy) and their ids, for a nearest-neighbour
    index"""
    domain: Name | None = None
    """items of one domain (default: both, each topk)"""
    topk: Count = 10
    """items per domain"""
    history: History = "all"
    """where histories end: all, or before the target of the test or validation: test, valid"""
    data_path: Name | None = None
    """folder that holds DATASET/ (default: dataset/, then dataset_atomic/)"""
    eval_batch_size: Count | None = None
    """users at a time (default: 1024)"""
    use_gpu: bool | None = None
    """False: the CPU"""
    gpu_id: Any = None
    threads: Count | None = None
    """compute threads"""

    @model_validator(mode="after")
    def _says_what(self) -> RecommendSettings:
        if self.user is None and self.export is None:
            raise ValueError("say --user=U, --user=all or --export=DIR")
        if self.user == "all" and self.output is None:
            raise ValueError("--user=all needs --output=FILE")
        return self


HELP = help_text(
    "recbole-edt recommend --dataset=D --checkpoint=C --user=U [--domain=X] [--topk=10]",
    "Recommend items with a trained model.",
    RecommendSettings,
)


def recommend(arguments: Sequence[str]) -> None:
    """Recommend as the command line asks for it.

    Raises
    ------
    EDTError
        If arguments, configuration or data are invalid.
    """
    settings = validate(RecommendSettings, parse_arguments(arguments))
    if settings.output is not None:
        check_writable("output", settings.output)
    places = {"eval_batch_size", "use_gpu", "gpu_id", "threads"}
    recommender = Recommender.from_checkpoint(
        settings.checkpoint, settings.dataset, settings.data_path, settings.history,
        settings.model_dump(include=places, exclude_none=True),
    )  # fmt: skip
    names = recommender.data.domains
    if settings.domain is not None and settings.domain not in names:
        raise ConfigError(f"unknown domain '{settings.domain}' (there are: {', '.join(names)})")
    domains = [number for number, name in enumerate(names) if settings.domain in (None, name)]
    if settings.export is not None:
        for path in recommender.export(Path(settings.export)):
            print(f"written: {path}")
    if settings.user == "all" and settings.output is not None:
        lines = write_all(recommender, domains, settings.topk, Path(settings.output))
        print(f"written: {settings.output} ({lines:,} recommendations)")
    elif settings.user is not None:
        show(recommender, settings.user, domains, settings.topk)


def show(recommender: Recommender, user: str, domains: Sequence[int], k: int) -> None:
    """Print a user's history and recommendations."""
    place = recommender.place(user)
    items, inserted = recommender.history(place)
    names, item_domain = recommender.data.domains, recommender.data.item_domain
    print(f"user {user}: the last {len(items)} rows of the history")
    for number, title in enumerate(recommender.titles(items)):
        mark = "  (inserted)" if inserted[number] else ""
        print(f"  [{number + 1:>2}] {names[item_domain[items[number]]]:<12} {title}{mark}")
    for domain in domains:
        print(f"\nrecommended from {names[domain]} (carried by the rows of the history)")
        found = recommender.recommend(place, domain, k)
        titles = recommender.titles(np.array([one.item for one in found], dtype=np.int64))
        for rank, (one, title) in enumerate(zip(found, titles, strict=True), start=1):
            carriers = ", ".join(f"[{r + 1}] {fall:+.2f}" for r, fall in one.carried_by[:_CARRIERS])
            print(f"  {rank:>2}. {one.score:8.4f}  {title}  <- {carriers or 'no single row'}")


def write_all(recommender: Recommender, domains: Sequence[int], k: int, path: Path) -> int:
    """Write the recommendations of all users; return their number."""
    data, n = recommender.data, 0
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("user_id\tdomain\trank\titem_id\tscore\n")
        for places in tqdm(recommender.batches(), desc="users", leave=False):
            users = data.id2token(data.uid_field, recommender.users[places])
            for domain in domains:
                items, scores = recommender.top(places, domain, k)
                names = data.id2token(data.iid_field, items)
                rows, ranks = np.nonzero(~np.isneginf(scores))
                for row, rank in zip(rows, ranks, strict=True):
                    file.write(f"{users[row]}\t{data.domains[domain]}\t{rank + 1}\t"
                               f"{names[row, rank]}\t{scores[row, rank]:.6g}\n")  # fmt: skip
                n += len(rows)
    return n
