"""Stage *generate* (eq. 4): items proposed for a user in one domain, A2B and B2A."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

from recbole_edt.augment.clusters import Clusters, Representatives
from recbole_edt.augment.encode import item_text
from recbole_edt.augment.histories import Histories
from recbole_edt.augment.llm import ChatRequest, LLMClient
from recbole_edt.augment.prompts import GENERATED_ITEMS_SCHEMA, prompt

_MOST_OWNED = 50
"""Own items that retrieval looks past; a user with more near ones may be offered fewer items."""


class Task(NamedTuple):
    """One call of eq. 4: a user, and the domain that new items are wanted in."""

    user: int
    target: int


@dataclass
class Generated:
    """What was proposed.

    Attributes
    ----------
    items : list of np.ndarray
        Per task the item lines proposed, best first; lines from ``len(histories.items)`` on are
        new items.
    new_items : list of dict
        Attributes of the new items, each listed once.
    failures : dict
        User token -> why nothing could be generated for him in a domain at least, one line.
    """

    items: list[np.ndarray]
    new_items: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


class Generator(Protocol):
    """Anything that proposes items of a domain to users."""

    def generate(self, tasks: Sequence[Task]) -> Generated:
        """Propose items for each task."""
        ...


class RetrievalGenerator:
    """Proposes existing items of a domain by embedding similarity. No model, no network.

    A user is offered the nearest items of those he has in the target domain, which is what eq. 6
    asks of a transferable item; where he has none there, the nearest ones of his other domain's
    representatives. He is never offered what he has.

    Parameters
    ----------
    histories : Histories
        Training rows.
    vectors : np.ndarray
        Any float type [n_items, d_L]; item embeddings.
    chosen : Representatives
        What stands for each user's history.
    num : int
        Most items to propose for a task.
    """

    def __init__(
        self, histories: Histories, vectors: np.ndarray, chosen: Representatives, num: int
    ) -> None:
        self.histories = histories
        # In float32 the number of threads would show, in the order of near-equal neighbours.
        self.units = normalize(np.asarray(vectors, dtype=np.float64))
        self.chosen = chosen
        self.num = num

    def generate(self, tasks: Sequence[Task]) -> Generated:
        """Propose up to ``num`` items for each task, best first."""
        items: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(tasks)
        for target in (0, 1):
            mine = [place for place, task in enumerate(tasks) if task.target == target]
            lines = [self._known(tasks[place]) for place in mine]
            if not lines:
                continue
            asked = np.unique(np.concatenate(lines))
            near, scores = self._nearest(asked, target, max(map(len, lines)))
            for place, known in zip(mine, lines, strict=True):
                at = np.searchsorted(asked, known)
                items[place] = self._best(tasks[place].user, near[at], scores[at])
        return Generated(items)

    def _owned(self, user: int) -> np.ndarray:
        offsets = self.histories.offsets
        return self.histories.rows[offsets[user] : offsets[user + 1]]

    def _known(self, task: Task) -> np.ndarray:
        """Items whose neighbours are offered: the user's own ones of the target domain, if any."""
        owned = self._owned(task.user)
        own = owned[self.histories.item_domain[owned] == task.target]
        if len(own):
            return own
        return self.histories.rows[self.chosen.of(task.user, 1 - task.target)]

    def _nearest(self, asked: np.ndarray, target: int, owned: int) -> tuple[np.ndarray, np.ndarray]:
        """Nearest items of the target domain of each asked item, [asked, n], best first.

        ``owned`` more than wanted are looked for, within reason: they may be the user's own.
        """
        pool = np.flatnonzero(self.histories.item_domain == target)
        n = min(self.num + min(owned, _MOST_OWNED), len(pool))
        near, scores = [], []
        for start in range(0, len(asked), 1024):
            block = self.units[asked[start : start + 1024]] @ self.units[pool].T
            block = np.round(block, 5)  # the last bits of a product depend on the machine
            top = np.argpartition(-block, n - 1, axis=1)[:, :n]
            least = np.take_along_axis(block, top, 1).min(axis=1, keepdims=True)
            for row, floor in zip(block, least, strict=True):
                over = np.flatnonzero(row >= floor)  # ties at the end: the first lines stay
                best = over[np.argsort(-row[over], kind="stable")[:n]]
                near.append(pool[best])
                scores.append(row[best])
        return np.array(near), np.array(scores)

    def _best(self, user: int, near: np.ndarray, scores: np.ndarray) -> np.ndarray:
        flat, score = near.reshape(-1), scores.reshape(-1)
        order = np.lexsort((flat, -score))
        ranked = flat[order]
        ranked = ranked[~np.isin(ranked, self._owned(user))]
        first = np.sort(np.unique(ranked, return_index=True)[1])
        return ranked[first[: self.num]]


class LLMGenerator:
    """Asks a chat model for items (appendix A.1).

    Parameters
    ----------
    histories, clusters, chosen
        Training rows, clusters, and what stands for each user's history.
    client : LLMClient
        Where to ask.
    num : int
        How many items to ask for.
    """

    def __init__(
        self,
        histories: Histories,
        clusters: Clusters,
        chosen: Representatives,
        client: LLMClient,
        num: int,
    ) -> None:
        self.histories, self.clusters, self.chosen = histories, clusters, chosen
        self.client, self.num = client, num
        self.records = histories.items.to_dict("records")

    def requests(self, tasks: Sequence[Task]) -> list[ChatRequest]:
        """Write the prompt of each task."""
        system = prompt("system")
        return [
            ChatRequest(
                system,
                self._prompt(task),
                GENERATED_ITEMS_SCHEMA,
                likely=partial(self._likely, task),
            )
            for task in tasks
        ]

    def _likely(self, task: Task) -> dict[str, Any]:
        """Make up an answer for estimates: as many items like the domain's, under new names."""
        medoids = self.clusters.medoids[task.target]
        some = [self.records[medoids[n % len(medoids)]] for n in range(self.num)]
        new = [f"{item.get('title', '')} {task.user} {n}" for n, item in enumerate(some)]
        return {"items": [_described(item, title) for item, title in zip(some, new, strict=True)]}

    def _prompt(self, task: Task) -> str:
        rows, domains = self.histories.rows, self.histories.domains
        own = rows[self.chosen.of(task.user, task.target)]
        other = rows[self.chosen.of(task.user, 1 - task.target)]
        return prompt(
            "generate",
            attributes="title, brand, price, categories and description, where known",
            source_domain=domains[1 - task.target],
            target_domain=domains[task.target],
            user=self.histories.users[task.user],
            source_samples=self._samples(other),
            target_samples=self._samples(own if len(own) else self.clusters.medoids[task.target]),
            num=self.num,
        )

    def _samples(self, lines: np.ndarray) -> str:
        return "\n".join(f"- {item_text(self.records[line])}" for line in lines)

    def generate(self, tasks: Sequence[Task]) -> Generated:
        """Ask for each task; a user whose call failed is named in ``failures``."""
        answers = self.client.chat(self.requests(tasks), stage="generate")
        catalogue = Catalogue(self.histories.items, self.histories.domains)
        out = Generated([])
        for task, answer in zip(tasks, answers, strict=True):
            if answer.error is not None or answer.value is None:
                out.failures[str(self.histories.users[task.user])] = str(answer.error)
                out.items.append(np.zeros(0, dtype=np.int64))
                continue
            lines = [catalogue.line(item, task.target) for item in answer.value["items"]]
            offsets = self.histories.offsets
            owned = self.histories.rows[offsets[task.user] : offsets[task.user + 1]]
            new = [line for line in dict.fromkeys(lines) if line not in owned]
            out.items.append(np.array(new[: self.num], dtype=np.int64))
        out.new_items = catalogue.new_items
        return out


class Catalogue:
    """Items by what they are called, so that the same thing is one item for everybody.

    Two items are the same when their domain and full name agree but for case, spaces and
    punctuation; the full name is the brand, then the title, and a brand that the title begins with
    counts once. A model that names no brand means the first item of that title.
    """

    def __init__(self, items: pd.DataFrame, domains: Sequence[str]) -> None:
        self.domains = domains
        self.size = len(items)
        self.new_items: list[dict[str, Any]] = []
        self.named: dict[tuple[str, str], int] = {}
        self.titled: dict[tuple[str, str], int] = {}
        for line, record in enumerate(items.to_dict("records")):
            if record.get("title"):
                self._enter(str(record["domain"]), record, line)

    def _enter(self, domain: str, record: dict[str, Any], line: int) -> None:
        self.named.setdefault((domain, _full_name(record)), line)
        self.titled.setdefault((domain, _plain(record.get("title"))), line)

    def line(self, item: dict[str, Any], domain: int) -> int:
        """Line of an item that a model described: the catalogue's, or a new one."""
        name = self.domains[domain]
        found = self.named.get((name, _full_name(item)))
        if found is None and not _plain(item["brand"]):
            found = self.titled.get((name, _plain(item["title"])))
        if found is None:
            found = self.size + len(self.new_items)
            record = _record(item, name)
            self.new_items.append(record)
            self._enter(name, record, found)
        return found


def _full_name(item: Mapping[str, Any]) -> str:
    """Brand and title; many titles begin with the brand, which is then said once."""
    brand, title = _plain(item.get("brand")), _plain(item.get("title"))
    return title if f"{title} ".startswith(f"{brand} ") else f"{brand} {title}".strip()


def _plain(text: object) -> str:
    """Reduce a name to its words."""
    return " ".join(re.findall(r"\w+", str(text or "").casefold()))


def _record(item: dict[str, Any], domain: str) -> dict[str, Any]:
    """Attributes of a generated item as ``.item`` holds them."""
    price = item.get("price")
    return {
        "domain": domain,
        "title": _line(item["title"]),
        "brand": _line(item["brand"]),
        "price": "" if price is None else f"{float(price):.2f}",
        "categories": " | ".join(_line(part) for part in item["categories"]),
        "description": _line(item["description"]),
    }


def _described(item: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Say of a line of ``.item`` what a model says of the items it writes."""
    return {
        "title": title,
        "brand": item.get("brand", ""),
        "price": float(item["price"]) if item.get("price") else None,
        "categories": str(item.get("categories", "")).split(" | "),
        "description": item.get("description", ""),
    }


def _line(text: object) -> str:
    """Bring a text onto one line, as an atomic file needs it; control characters go."""
    kept = (c if c.isprintable() else " " for c in str(text or ""))
    return " ".join("".join(kept).replace('"', "''").split())
