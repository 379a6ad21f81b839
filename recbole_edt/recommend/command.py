"""``recbole-edt recommend``: what a trained model recommends, to one user or to all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_edt.errors import ConfigError
from recbole_edt.evaluation.report import check_writable
from recbole_edt.io.files import atomic_write
from recbole_edt.recommend.recommender import HISTORIES, Recommender
from recbole_edt.settings import nearest, parse_arguments

HELP = """\
usage: recbole-edt recommend --dataset=D --checkpoint=C --user=U [--domain=X] [--topk=10]

Recommend items with a trained model (a checkpoint of `run`, in saved/ or --checkpoint_dir).

  --user=U                a user's history and what is recommended to him: title, domain, score, and
                          the rows of his history that carried each item
  --user=all --output=F   everybody's recommendations as tab-separated text, in bounded memory
  --export=DIR            item and user vectors (.npy) and their ids, for a nearest-neighbour index
  --domain=X              items of one domain (default: both, topk of each)
  --topk=10
  --history=all           where histories end: all, or before the target of the test or validation:
                          test, valid
  --data_path=IN          folder that holds D/ (default: dataset/, then dataset_atomic/)
  --eval_batch_size=1024  users at a time
"""

_KEYS = ("dataset", "checkpoint", "user", "output", "export", "domain", "topk", "history",
         "data_path", "eval_batch_size", "use_gpu", "gpu_id", "threads")  # fmt: skip
_PLACES = ("eval_batch_size", "use_gpu", "gpu_id", "threads")
_CARRIERS = 3
"""Rows of the history that are named per recommendation, at most."""


def recommend(arguments: Sequence[str]) -> None:
    """Recommend as the command line asks for it.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    given = checked(parse_arguments(arguments))
    changes: dict[str, Any] = {key: given[key] for key in _PLACES if key in given}
    recommender = Recommender.from_checkpoint(
        given["checkpoint"], given["dataset"], given.get("data_path"), given["history"], changes
    )
    domains = chosen_domains(recommender, given.get("domain"))
    if "export" in given:
        for path in recommender.export(Path(str(given["export"]))):
            print(f"written: {path}")
    if "user" not in given:
        return
    if str(given["user"]) == "all":
        lines = write_all(recommender, domains, given["topk"], Path(str(given["output"])))
        print(f"written: {given['output']} ({lines:,} recommendations)")
        return
    show(recommender, str(given["user"]), domains, given["topk"])


def checked(given: dict[str, Any]) -> dict[str, Any]:
    """Refuse what no recommendation could be made of.

    Raises
    ------
    ConfigError
        Naming the argument.
    """
    for key in given:
        if key not in _KEYS:
            raise ConfigError(f"unknown key '{key}'{nearest(key, _KEYS)}")
    for key in ("dataset", "checkpoint"):
        if not isinstance(given.get(key), str):
            raise ConfigError(f"--{key} is missing")
    given = {"topk": 10, "history": "all", **given}
    if type(given["topk"]) is not int or given["topk"] < 1:
        raise ConfigError(f"topk must be a whole number of at least 1, not '{given['topk']}'")
    if given["history"] not in HISTORIES:
        raise ConfigError(f"history '{given['history']}' is not one of {', '.join(HISTORIES)}")
    if "user" not in given and "export" not in given:
        raise ConfigError("say --user=U, --user=all or --export=DIR")
    if given.get("user") == "all":
        if "output" not in given:
            raise ConfigError("--user=all needs --output=FILE")
        check_writable("output", str(given["output"]))
    return given


def chosen_domains(recommender: Recommender, name: Any) -> list[int]:
    """Numbers of the wanted domains.

    Raises
    ------
    ConfigError
        For an unknown one.
    """
    names = recommender.data.domains
    if name is None:
        return list(range(len(names)))
    if name not in names:
        raise ConfigError(f"unknown domain '{name}' (there are: {', '.join(names)})")
    return [names.index(name)]


def show(recommender: Recommender, user: str, domains: Sequence[int], k: int) -> None:
    """Print a user's history and what is recommended to him."""
    place = recommender.place(user)
    steps = recommender.history(place)
    names, item_domain = recommender.data.domains, recommender.data.item_domain
    titles = recommender.titles([step.item for step in steps])
    print(f"user {user}: the last {len(steps)} rows of the history")
    for number, (step, title) in enumerate(zip(steps, titles, strict=True), start=1):
        mark = "  (inserted)" if step.inserted else ""
        print(f"  [{number:>2}] {names[item_domain[step.item]]:<12} {title}{mark}")
    for domain in domains:
        print(f"\nrecommended from {names[domain]} (carried by the rows of the history)")
        found = recommender.recommend(place, domain, k)
        titles = recommender.titles([one.item for one in found])
        for rank, (one, title) in enumerate(zip(found, titles, strict=True), start=1):
            carriers = ", ".join(f"[{r + 1}] {fall:+.2f}" for r, fall in one.carried_by[:_CARRIERS])
            print(f"  {rank:>2}. {one.score:8.4f}  {title}  <- {carriers or 'no single row'}")


def write_all(recommender: Recommender, domains: Sequence[int], k: int, path: Path) -> int:
    """Write everybody's recommendations.

    Returns
    -------
    int
        Number of recommendations.
    """
    data, n = recommender.data, 0
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("user_id\tdomain\trank\titem_id\tscore\n")
        total = -(-len(recommender.users) // int(recommender.config["eval_batch_size"]))
        for places in tqdm(recommender.batches(), total=total, desc="users", leave=False):
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
