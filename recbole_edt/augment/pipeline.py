"""The stages in their order: encode, generate, filter, insert, profile, encode, write."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import scipy
import yaml
from sklearn.preprocessing import normalize

from recbole_edt.augment.cached import CachedEncoder, StageCache
from recbole_edt.augment.clusters import Clusters, Representatives, cluster_items, representatives
from recbole_edt.augment.encode import (
    EndpointEncoder,
    FileEncoder,
    LsaEncoder,
    SentenceEncoder,
    TextEncoder,
    item_text,
)
from recbole_edt.augment.generate import (
    Generated,
    Generator,
    LLMGenerator,
    RetrievalGenerator,
    Task,
)
from recbole_edt.augment.histories import Histories, read_histories
from recbole_edt.augment.insert import (
    Balance,
    Insertions,
    amounts,
    balancing_tasks,
    filter_items,
    insert,
    match,
)
from recbole_edt.augment.llm import DryRun, LLMClient, LLMSettings
from recbole_edt.augment.profile import ExtractiveProfiler, LLMProfiler, Profiler, UserGroups
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io.files import (
    INTER_COLUMNS,
    ITEM_COLUMNS,
    file_sha256,
    write_array,
    write_table,
)
from recbole_edt.io.lock import run_lock
from recbole_edt.io.paths import properties_dir
from recbole_edt.io.statistics import dataset_statistics
from recbole_edt.settings import nearest

CHOICES = {
    "encoder": ("lsa", "file", "openai", "sentence-transformers"),
    "generator": ("retrieval", "openai", "none"),
    "filter": ("similarity", "none"),
    "directions": ("both", "minor", "scarce"),
    "insert": ("anchor", "end", "random"),
    "profiler": ("extractive", "openai", "none"),
    "profile": ("sra", "naive", "none"),
}
_COUNTS = {"lsa_dim": 1, "clusters": 1, "num": 1, "neighbours": 1, "k": 1, "min_history": 0}
"""Least value of each whole number."""
_SHARES = ("inject_ratio", "min_ratio", "tau_quantile")


def augment_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over the defaults of ``properties/augment.yaml`` and check them.

    Raises
    ------
    ConfigError
        For an unknown key, or a value that makes no sense.
    """
    defaults = yaml.safe_load((properties_dir() / "augment.yaml").read_text(encoding="utf-8"))
    for key in given:
        if key not in defaults:
            raise ConfigError(f"unknown key '{key}'{nearest(str(key), defaults)}")
    settings = defaults | dict(given)
    if given.get("tau") is not None and "tau_quantile" not in given:
        settings["tau_quantile"] = None
    for key, choices in CHOICES.items():
        if settings[key] is None:
            settings[key] = "none"  # what `none` reads as on the command line
        if settings[key] not in choices:
            raise ConfigError(f"{key} '{settings[key]}' is not one of {', '.join(choices)}")
    for key, least in _COUNTS.items():
        if type(settings[key]) is not int or settings[key] < least:
            raise ConfigError(
                f"{key} must be a whole number of at least {least}, not '{settings[key]}'"
            )
    for key in _SHARES:
        value = settings[key]
        if value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
            raise ConfigError(f"{key} must be a number from 0 to 1, not '{value}'")
    if (settings["tau"] is None) == (settings["tau_quantile"] is None):
        raise ConfigError("the filter needs either tau or tau_quantile")
    return settings


@dataclass
class Augmentation:
    """Everything that goes into the augmented files."""

    histories: Histories
    vectors: np.ndarray  # [items + new items, d_L]
    new_items: list[dict[str, Any]]
    insertions: Insertions
    profiles: list[str] | None
    user_vectors: np.ndarray | None
    failures: dict[str, dict[str, str]]


class Pipeline:
    """One augmentation of one data set.

    Parameters
    ----------
    name : str
        Name of the data set.
    source : Path
        Folder that holds the raw data set's folder.
    output : Path
        Folder that receives the augmented one's, under the same name.
    settings : mapping
        As :func:`augment_settings` returns them.
    """

    def __init__(self, name: str, source: Path, output: Path, settings: Mapping[str, Any]) -> None:
        self.name, self.settings = name, dict(settings)
        self.raw, self.target = Path(source) / name, Path(output) / name
        if self.raw.resolve() == self.target.resolve():
            raise ConfigError("--output_path is --data_path: the raw data would be lost")
        self.cache = StageCache(Path(output) / ".augment" / name)
        self.client = self._client()
        self.seconds: dict[str, float] = {}

    def _client(self) -> LLMClient | None:
        if "openai" not in (self.settings[key] for key in ("encoder", "generator", "profiler")):
            return None
        limits = (
            {} if self.settings["max_cost"] is None else {"max_cost": self.settings["max_cost"]}
        )
        kind = DryRun if self.settings["dry_run"] else LLMClient
        return kind(
            LLMSettings.load(self.settings["llm"], limits), self.cache.folder / "llm.sqlite"
        )

    def run(self) -> dict[str, Any]:
        """Run every stage and write the augmented data set.

        Returns
        -------
        dict
            The report that is also written as ``augmentation.json``; of a dry run nothing but
            ``dry_run``: the :attr:`DryRun.estimates`, empty where nothing is asked of an LLM.

        Raises
        ------
        EDTError
            For anything the user has to mend.
        """
        if self.settings["dry_run"]:
            return {"dry_run": self._rehearse()}
        with self.client or nullcontext(), run_lock(self.cache.folder):
            made = self._make()
            return self._timed("write", lambda: self._write(made))

    def _rehearse(self) -> list[dict[str, Any]]:
        if not isinstance(self.client, DryRun):
            return []
        with self.client:
            self.settings |= {"tau": None, "tau_quantile": 0.0}  # made-up vectors have no scale
            self._make()
        return self.client.estimates

    def _make(self) -> Augmentation:
        histories = self._timed("read", lambda: read_histories(
            self.raw, self.name, self.settings["domains"]))  # fmt: skip
        encoder = self._encoder()
        texts = [item_text(row) for row in histories.items.to_dict("records")]
        vectors = self._timed("encode", lambda: self._encode(encoder, texts))
        k, seed = self.settings["clusters"], self.settings["seed"]
        clusters = self._timed(
            "cluster", lambda: cluster_items(vectors, histories.item_domain, k, seed)
        )
        chosen = representatives(histories, clusters)
        tasks = self._tasks(histories)
        generated = self._timed("generate", lambda: self._generate(
            histories, vectors, clusters, chosen, tasks))  # fmt: skip
        if generated.new_items:
            more = [item_text(item) for item in generated.new_items]
            further, lost = encode_more(encoder, more)
            forget(generated, tasks, {len(texts) + n: lost[n] for n in lost}, histories)
            if len(lost) == len(more):  # nobody has said how long their vectors are
                further = np.zeros((len(more), vectors.shape[1]), dtype=np.float32)
            vectors = np.concatenate([vectors, further])
        leave_out_failed(generated, tasks, histories)
        insertions = self._timed("insert", lambda: self._insert(
            histories, vectors, clusters, chosen, tasks, generated))  # fmt: skip
        made = Augmentation(
            histories, vectors, generated.new_items, insertions, None, None,
            {"generate": generated.failures},
        )  # fmt: skip
        self._timed("profile", lambda: self._profile(made, clusters, encoder))
        drop_unused(made)
        return made

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        start = perf_counter()
        try:
            return work()
        finally:
            self.seconds[stage] = round(perf_counter() - start, 3)

    # -- encode ---------------------------------------------------------------------------------

    def _encoder(self) -> TextEncoder:
        kind = self.settings["encoder"]
        if kind == "lsa":
            dim = self.settings["lsa_dim"]
            return self._kept(LsaEncoder(dim), f"lsa {dim} scipy {scipy.__version__}")
        if kind == "file":
            writes = {
                "items": self.settings["generator"] == "openai",
                "profiles": self._profiles_wanted() and self.settings["profiler"] == "openai",
            }
            for what, by_llm in writes.items():
                if by_llm:  # said before anything is paid for
                    raise ConfigError(f"encoder 'file' has no vectors for the {what} an LLM writes")
            return FileEncoder(self.raw / f"{self.name}.item_emb.npy")
        if kind == "openai":
            assert self.client is not None
            return EndpointEncoder(self.client)
        model = self.settings["sentence_model"]
        return self._kept(SentenceEncoder(model), f"sentence-transformers {model}")

    def _kept(self, encoder: LsaEncoder | SentenceEncoder, identity: str) -> TextEncoder:
        """Have its vectors kept on disk, unless nothing is to be written."""
        if self.settings["dry_run"]:
            return encoder
        return CachedEncoder(encoder, self.cache, identity)

    def _encode(self, encoder: TextEncoder, texts: list[str]) -> np.ndarray:
        """Encode the items, rounded as they are stored: every stage sees what the reader will."""
        vectors = np.asarray(encoder.encode(texts), dtype=np.float32)
        return vectors.astype(np.float16).astype(np.float32)

    # -- generate, filter, insert ---------------------------------------------------------------

    def _tasks(self, histories: Histories) -> list[Task]:
        if self.settings["generator"] == "none":
            return []
        return balancing_tasks(histories.domain_counts(), self._balance())

    def _balance(self) -> Balance:
        keys = ("min_ratio", "inject_ratio", "directions", "min_history")
        return Balance(**{key: self.settings[key] for key in keys})

    def _generate(
        self,
        histories: Histories,
        vectors: np.ndarray,
        clusters: Clusters,
        chosen: Representatives,
        tasks: Sequence[Task],
    ) -> Generated:
        generator: Generator
        if self.settings["generator"] == "openai":
            assert self.client is not None
            generator = LLMGenerator(histories, clusters, chosen, self.client, self.settings["num"])
        else:
            generator = RetrievalGenerator(histories, vectors, chosen, self.settings["neighbours"])
        return generator.generate(tasks)

    def _insert(self, histories, vectors, clusters, chosen, tasks, generated) -> Insertions:
        matches = [
            match(task, items, vectors, histories, chosen, clusters)
            for task, items in zip(tasks, generated.items, strict=True)
        ]
        if self.settings["filter"] == "none":
            kept = [np.arange(len(items)) for items in generated.items]
        else:
            kept = filter_items(
                matches, self.settings["k"], self.settings["tau"], self.settings["tau_quantile"]
            )
        counts = amounts(
            histories.domain_counts(), tasks, [len(places) for places in kept], self._balance()
        )
        return insert(
            histories, tasks, generated.items, matches, kept, counts,
            self.settings["insert"], self.settings["seed"],
        )  # fmt: skip

    # -- profile --------------------------------------------------------------------------------

    def _profiles_wanted(self) -> bool:
        return "none" not in (self.settings["profiler"], self.settings["profile"])

    def _profile(self, made: Augmentation, clusters: Clusters, encoder: TextEncoder) -> None:
        if not self._profiles_wanted():
            return
        table = all_items(made)
        labels = assign(made.vectors, made.histories, clusters)
        users = user_groups(made, labels)
        profiler: Profiler
        if self.settings["profiler"] == "openai":
            assert self.client is not None
            profiler = LLMProfiler(
                table, made.histories.domains, self.client, self.settings["profile"]
            )
        else:
            profiler = ExtractiveProfiler(
                table, made.histories.domains, made.vectors, self.settings["profile"]
            )
        profiles = profiler.write(users)
        if isinstance(encoder, FileEncoder):
            made.user_vectors = mean_vectors(users, made.vectors, self.settings["profile"])
        else:
            made.user_vectors, lost = encode_profiles(encoder, profiles.texts)
            for place, why in lost.items():
                profiles.texts[place] = ""
                profiles.failures[users[place].user] = f"encode: {why}"
        made.failures["profile"] = profiles.failures
        # RecBole's own reader takes double quotes for marks that enclose a value.
        made.profiles = [text.replace('"', "''") for text in profiles.texts]

    # -- write ----------------------------------------------------------------------------------

    def _write(self, made: Augmentation) -> dict[str, Any]:
        items = all_items(made)
        inter = augmented_rows(made, items)
        report = self._report(made, inter, items)
        folder = Path(mkdtemp(prefix="writing-", dir=self.cache.folder))
        try:
            self._write_files(folder, made, inter, items, report)
            folder.chmod(0o755)
            swap(folder, self.target)
            for left in self.cache.folder.glob("writing-*"):  # by runs that were killed
                shutil.rmtree(left, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return report

    def _write_files(self, folder, made, inter, items, report) -> None:
        columns = INTER_COLUMNS | {"augmented": "token"}
        write_table(inter, columns, folder / f"{self.name}.inter")
        columns = {name: ITEM_COLUMNS.get(name, "token_seq") for name in items.columns}
        write_table(items, columns, folder / f"{self.name}.item")
        save(folder / f"{self.name}.item_emb.npy", made.vectors)
        if made.profiles is not None:
            users = pd.DataFrame({"user_id": made.histories.users, "profile": made.profiles})
            write_table(
                users, {"user_id": "token", "profile": "token_seq"}, folder / f"{self.name}.user"
            )
            save(folder / f"{self.name}.user_emb.npy", made.user_vectors)
        note = self.raw / "SIMULATED"
        if note.is_file():
            shutil.copyfile(note, folder / "SIMULATED")
        report["sha256"] = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        (folder / "augmentation.json").write_text(text, encoding="utf-8")

    def _report(self, made: Augmentation, inter, items) -> dict[str, Any]:
        raw = inter[inter["augmented"] == "0"]
        train = ~np.isin(np.arange(len(inter)), held_out_places(made, inter))
        return {
            "settings": self.settings,
            "statistics": {
                "before": dataset_statistics(raw, items[items["generated"] == "0"]),
                "after": dataset_statistics(inter, items),
                "training_before": dataset_statistics(raw[~made.histories.held_out], items),
                "training_after": dataset_statistics(inter[train], items),
            },
            "similarity": similarities(made, (0.3, 0.6, 1.0)),
            "cost": {} if self.client is None else self.client.costs(),
            "failures": made.failures,
        }


def encode_more(encoder: TextEncoder, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """Encode texts that came after the items.

    Returns
    -------
    vectors : ndarray
        float32 [texts, d_L]; zero where a text failed.
    failures : dict
        Index of each such text -> why, one line.

    Raises
    ------
    ConfigError
        If the encoder only knows the items.
    """
    further = getattr(encoder, "encode_more", None)
    if further is None:
        raise ConfigError("encoder 'file' can encode nothing but the items it was made for")
    vectors, failures = further(texts)
    return np.asarray(vectors, dtype=np.float32), failures


def encode_profiles(
    encoder: TextEncoder, texts: Sequence[str]
) -> tuple[np.ndarray, dict[int, str]]:
    """Encode profiles.

    Returns
    -------
    vectors : ndarray
        float32 [n, d_L]; zero where there is no text, or its encoding failed.
    failures : dict
        Index of each text whose encoding failed -> why, one line.

    Raises
    ------
    DataError
        If not one user has a vector.
    """
    has = [place for place, text in enumerate(texts) if text]
    if not has:
        raise DataError("no user has a profile: there is nothing to embed")
    vectors, lost = encode_more(encoder, [texts[place] for place in has])
    if len(lost) == len(has):
        raise DataError(f"not one profile could be embedded ({next(iter(lost.values()))})")
    out = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
    out[has] = vectors
    return out, {has[n]: why for n, why in lost.items()}


def forget(
    generated: Generated, tasks: Sequence[Task], lost: Mapping[int, str], histories: Histories
) -> None:
    """Take items that have no vector out of what was proposed.

    A user who is left without a proposal for a domain is named among the failures.

    Parameters
    ----------
    generated : Generated
        Changed in place.
    tasks : sequence of Task
        Whom each proposal is for.
    lost : mapping
        Line of each such item -> why.
    """
    for place, task in enumerate(tasks):
        items = generated.items[place]
        kept = items[~np.isin(items, list(lost))]
        if len(items) and not len(kept):
            user = str(histories.users[task.user])
            generated.failures.setdefault(user, f"encode: {lost[int(items[0])]}")
        generated.items[place] = kept


def leave_out_failed(generated: Generated, tasks: Sequence[Task], histories: Histories) -> None:
    """Propose nothing, in either direction, to users that are named among the failures.

    Half of what a user should get would tip his balance the other way.
    """
    for place, task in enumerate(tasks):
        if str(histories.users[task.user]) in generated.failures:
            generated.items[place] = np.zeros(0, dtype=np.int64)


def mean_vectors(
    users: Sequence[UserGroups], vectors: np.ndarray, profile: str = "sra"
) -> np.ndarray:
    """Stand in for embedded profiles where nothing can be encoded: what they are extracted from.

    Parameters
    ----------
    users : sequence of UserGroups
        Their items by domain and cluster.
    vectors : ndarray
        float32 [n_items, d_L].
    profile : {"sra", "naive"}
        ``sra``: the mean over a user's clusters, then over his domains, so that the minor domain
        has as much weight as the major one. ``naive``: the mean over all his items.

    Returns
    -------
    ndarray
        float32 [n_users, d_L]; rows of length 1, or zero for a user without items.
    """
    out = np.zeros((len(users), vectors.shape[1]), dtype=np.float32)
    for place, user in enumerate(users):
        domains = [groups for groups in user.groups if groups]
        if not domains:
            continue
        if profile == "naive":
            lines = np.concatenate([group for groups in domains for group in groups])
            out[place] = vectors[lines].mean(axis=0)
            continue
        sides = [
            np.mean([vectors[lines].mean(axis=0) for lines in groups], axis=0) for groups in domains
        ]
        out[place] = np.mean([normalize(side[None])[0] for side in sides], axis=0)
    return normalize(out)


def all_items(made: Augmentation) -> pd.DataFrame:
    """Lines of ``.item``: the raw ones and the generated ones, all text."""
    raw = made.histories.items.drop(columns="generated", errors="ignore")
    new = pd.DataFrame(made.new_items).reindex(columns=raw.columns, fill_value="")
    width = max(5, len(str(len(new))))
    new["item_id"] = [f"gen{place:0{width}d}" for place in range(1, len(new) + 1)]
    taken = set(raw["item_id"]) & set(new["item_id"])
    if taken:
        raise DataError(f"item '{min(taken)}' has a name that generated items need")
    table = pd.concat([raw, new], ignore_index=True)
    table["generated"] = ["0"] * len(raw) + ["1"] * len(new)
    return table


def assign(vectors: np.ndarray, histories: Histories, clusters: Clusters) -> np.ndarray:
    """Cluster of every item; a new item joins the cluster of the nearest medoid of its domain."""
    n = len(histories.items)
    labels = np.concatenate([clusters.label, np.zeros(len(vectors) - n, dtype=np.int64)])
    if len(vectors) > n:
        medoids = np.concatenate(clusters.medoids)
        nearest_medoid = (normalize(vectors[n:]) @ normalize(vectors[medoids]).T).argmax(axis=1)
        labels[n:] = clusters.label[medoids[nearest_medoid]]
    return labels


def training_items(made: Augmentation, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Augmented training sequences: item lines and the raw row each belongs to (or follows).

    ``share`` takes that part of the insertions only, the same for the same data.
    """
    n = round(share * len(made.insertions.items))
    some = np.sort(np.random.default_rng(0).permutation(len(made.insertions.items))[:n])
    anchors = np.concatenate([np.arange(len(made.histories.rows)), made.insertions.anchors[some]])
    lines = np.concatenate([made.histories.rows, made.insertions.items[some]])
    order = np.argsort(anchors, kind="stable")
    return lines[order], anchors[order]


def item_domains(made: Augmentation) -> np.ndarray:
    """Domain of every item, generated ones included, int64."""
    new = [made.histories.domains.index(item["domain"]) for item in made.new_items]
    return np.concatenate([made.histories.item_domain, np.array(new, dtype=np.int64)])


def user_groups(made: Augmentation, labels: np.ndarray) -> list[UserGroups]:
    """Each user's augmented training items by domain and cluster (3.4.1), large clusters first."""
    lines, anchors = training_items(made)
    domain = item_domains(made)
    bounds = np.searchsorted(anchors, made.histories.offsets)
    out = []
    for place, user in enumerate(made.histories.users):
        mine = lines[bounds[place] : bounds[place + 1]]
        sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for side in (0, 1):
            own = mine[domain[mine] == side]
            groups = [own[labels[own] == label] for label in dict.fromkeys(labels[own].tolist())]
            sides[side].extend(sorted(groups, key=len, reverse=True))
        out.append(UserGroups(str(user), sides))
    return out


def similarities(made: Augmentation, shares: Sequence[float]) -> dict[str, float]:
    """Mean cosine of augmented users' mean item vectors before and after injection (table 3).

    Parameters
    ----------
    shares : sequence of float
        Parts of the insertions to inject.

    Returns
    -------
    dict
        Percentage -> cosine; 1.0 where nobody is augmented.
    """
    owners = made.histories.owners
    touched = np.unique(owners[made.insertions.anchors])
    if not len(touched):
        return {f"{share:.0%}": 1.0 for share in shares}
    units = normalize(np.asarray(made.vectors, dtype=np.float64))
    n_users = len(made.histories.users)
    before = normalize(user_sums(units, made.histories.rows, owners, n_users)[touched])
    out = {}
    for share in shares:
        lines, anchors = training_items(made, share)
        after = normalize(user_sums(units, lines, owners[anchors], n_users)[touched])
        out[f"{share:.0%}"] = round(float((before * after).sum(axis=1).mean()), 6)
    return out


def user_sums(units: np.ndarray, lines, owners, n_users: int) -> np.ndarray:
    """Sum of each user's item vectors, float64 [n_users, d_L]."""
    out = np.zeros((n_users, units.shape[1]))
    for start in range(0, len(lines), 65536):
        part = slice(start, start + 65536)
        np.add.at(out, owners[part], units[lines[part]])
    return out


def drop_unused(made: Augmentation) -> None:
    """Forget new items that no sequence holds after filtering."""
    n = len(made.histories.items)
    used = np.unique(made.insertions.items[made.insertions.items >= n])
    line = np.arange(n + len(made.new_items))
    line[used] = n + np.arange(len(used))
    made.insertions = Insertions(made.insertions.anchors, line[made.insertions.items])
    made.vectors = np.concatenate([made.vectors[:n], made.vectors[used]])
    made.new_items = [made.new_items[place - n] for place in used]


def augmented_rows(made: Augmentation, items: pd.DataFrame) -> pd.DataFrame:
    """Lines of ``.inter``: raw rows and inserted ones, by user and position.

    Inserted rows share the gap behind their anchor evenly and take its timestamp.
    """
    histories, inserted = made.histories, made.insertions
    raw = histories.inter.assign(augmented="0")
    training = raw[~histories.held_out].reset_index(drop=True)
    rank = np.arange(len(inserted.anchors)) - np.searchsorted(inserted.anchors, inserted.anchors)
    behind = np.bincount(inserted.anchors, minlength=len(training) + 1)[inserted.anchors]
    new = training.iloc[inserted.anchors].copy()
    new["item_id"] = items["item_id"].to_numpy()[inserted.items]
    step = (rank + 1) / (behind + 1)
    raw["key"], new["key"] = raw["position"].astype(float), new["position"] + step
    raw["position"] = [str(place) for place in raw["position"]]
    new["position"] = [f"{key:.6f}".rstrip("0") for key in new["key"]]
    new["augmented"] = "1"
    both = pd.concat([raw, new], ignore_index=True)
    order = np.lexsort((both["key"], both["user_id"].to_numpy(dtype=str)))
    both = both.iloc[order].reset_index(drop=True)
    both["timestamp"] = [f"{time:.15g}" for time in both["timestamp"]]
    return both.drop(columns="key")


def held_out_places(made: Augmentation, inter: pd.DataFrame) -> np.ndarray:
    """Places of the held-out rows among all rows."""
    return np.flatnonzero(inter["augmented"] == "0")[made.histories.held_out]


def save(path: Path, matrix: np.ndarray | None) -> None:
    """Write a matrix as float16, the form of all embedding files."""
    write_array(path, np.asarray(matrix, dtype=np.float16))


def swap(folder: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one."""
    if target.exists():
        if not (target / "augmentation.json").is_file():
            raise ConfigError(f"{target} is there and was not made by augment: move it away")
        old = folder.with_name(folder.name + ".old")
        os.replace(target, old)
        os.replace(folder, target)
        shutil.rmtree(old)
    else:
        os.replace(folder, target)
