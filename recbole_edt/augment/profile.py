"""Stage *profile* (3.4): one text for each user, from the clusters of his training items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

from recbole_edt.augment.encode import item_text
from recbole_edt.augment.llm import ChatRequest, LLMClient
from recbole_edt.augment.prompts import TEXT_SCHEMA, imbalance, prompt
from recbole_edt.errors import ConfigError

T = TypeVar("T")

SAMPLES = 10
"""Most items of a cluster that a text looks at: its latest ones."""

WORDS = {"summarise": 50, "reform": 50, "analyse": 100, "naive": 100}
"""Most words that each template allows a text, which is what estimates count with."""

ATTRIBUTES = "title, brand, price, categories and description, where known"


@dataclass(frozen=True)
class UserGroups:
    """A user's training items.

    Attributes
    ----------
    user : str
        Token.
    groups : tuple of list of np.ndarray
        Per domain the item lines of each cluster, in the order of the sequence; the largest cluster
        first.
    """

    user: str
    groups: tuple[list[np.ndarray], list[np.ndarray]]

    def sizes(self) -> tuple[int, int]:
        """Count the items of each domain."""
        first, second = (sum(map(len, side)) for side in self.groups)
        return first, second


@dataclass(frozen=True)
class Profiles:
    """What was written.

    Attributes
    ----------
    texts : list of str
        One per user; empty where a user failed or has no items.
    failures : dict
        User -> why, one line.
    """

    texts: list[str]
    failures: dict[str, str] = field(default_factory=dict)


class Profiler(Protocol):
    """Anything that writes profiles."""

    def write(self, users: Sequence[UserGroups]) -> Profiles:
        """Write one profile per user."""
        ...


class ExtractiveProfiler:
    """Extracts profiles from the items themselves: a template, no language model, no network.

    ``sra`` says for each domain how much of the whole it is and, for each of its clusters, the most
    central items and the commonest brand and category. Both domains may name as many items as the
    one with more clusters has clusters, so that the minor one gets as much room as the major one.
    ``naive`` lists items of both domains.

    Parameters
    ----------
    items : DataFrame
        Lines of ``.item`` as text.
    domains : sequence of str
        Names of domain A and B.
    embeddings : np.ndarray
        Any float type [n_items, d_L].
    pipeline : {"sra", "naive"}
        How.
    """

    def __init__(
        self, items: pd.DataFrame, domains: Sequence[str], embeddings: np.ndarray, pipeline: str
    ) -> None:
        n = len(items)
        self.domains = domains
        self._one = _chosen(pipeline, sra=self._sra, naive=self._naive)
        self.units = normalize(np.asarray(embeddings, dtype=np.float32))
        self.brands = items["brand"].tolist() if "brand" in items else [""] * n
        paths = items["categories"].tolist() if "categories" in items else [""] * n
        self.kinds = [path.split(" | ")[-1] for path in paths]
        titles = items["title"].tolist() if "title" in items else [""] * n
        self.titles = [title or kind for title, kind in zip(titles, self.kinds, strict=True)]

    def write(self, users: Sequence[UserGroups]) -> Profiles:
        """Write one profile per user."""
        return Profiles([self._one(user) if any(user.sizes()) else "" for user in users])

    def _sra(self, user: UserGroups) -> str:
        sizes = user.sizes()
        room = max(map(len, user.groups))
        parts = []
        for place, groups in enumerate(user.groups):
            if groups:
                extent = imbalance(sizes[place], sizes[1 - place])
                shares = [(room + n) // len(groups) for n in reversed(range(len(groups)))]
                said = "; ".join(map(self._summary, groups, shares))
                parts.append(f"{self.domains[place]}, {extent}: {said}.")
        return " ".join(parts)

    def _summary(self, group: np.ndarray, room: int) -> str:
        """Say what is typical of a cluster, with up to ``room`` items."""
        latest = group[-SAMPLES:]
        mean = self.units[group].mean(axis=0)
        closeness = np.round(self.units[latest] @ mean, 5)
        central = latest[np.argsort(-closeness, kind="stable")]
        titles = dict.fromkeys(self.titles[line] for line in central)
        words = [
            *list(titles)[:room],
            _commonest(self.kinds[line] for line in group),
            _commonest(self.brands[line] for line in group),
        ]
        return ", ".join(dict.fromkeys(word for word in words if word))

    def _naive(self, user: UserGroups) -> str:
        return "; ".join(dict.fromkeys(self.titles[line] for line in sample_both(user)))


def sample_both(user: UserGroups) -> list[int]:
    """Choose up to ``SAMPLES`` items of a user, half of each domain, the clusters taking turns.

    Each cluster gives its latest items first; what one domain lacks the other may fill.
    """
    sides = []
    for groups in user.groups:
        turns = zip_longest(*(reversed(group.tolist()) for group in groups))
        sides.append([line for turn in turns for line in turn if line is not None])
    half = SAMPLES // 2
    rooms = [max(half, SAMPLES - len(other)) for other in reversed(sides)]
    return [line for side, room in zip(sides, rooms, strict=True) for line in side[:room]]


def _chosen(pipeline: str, **ways: Callable[..., T]) -> Callable[..., T]:
    """Return the way of that name; any other name is refused."""
    if pipeline not in ways:
        raise ConfigError(f"profile '{pipeline}' is not one of {', '.join(ways)}")
    return ways[pipeline]


def _commonest(words) -> str:
    """Return the commonest of the words that are there; of equals the first."""
    counts = Counter(word for word in words if word)
    return counts.most_common(1)[0][0] if counts else ""


def _likely(stage: str, key: tuple[int, ...]) -> dict[str, Any]:
    """Make up an answer for estimates: a text of the usual length, and of its own."""
    words = [stage, *map(str, key)]
    return {"text": " ".join(words + ["likes"] * (WORDS[stage] - len(words)))}


class LLMProfiler:
    """Has a chat model write profiles (appendix A.1).

    ``sra`` asks three times: a summary of each cluster, then of each domain with its text of
    imbalance, then one profile of all. ``naive`` asks once, for the whole history.

    Parameters
    ----------
    items : DataFrame
        Lines of ``.item`` as text.
    domains : sequence of str
        Names of domain A and B.
    client : LLMClient
        Where to ask.
    pipeline : {"sra", "naive"}
        How.
    """

    def __init__(
        self, items: pd.DataFrame, domains: Sequence[str], client: LLMClient, pipeline: str
    ) -> None:
        self.records = items.to_dict("records")
        self.domains = domains
        self.client = client
        self._write = _chosen(pipeline, sra=self._sra, naive=self._naive)

    def write(self, users: Sequence[UserGroups]) -> Profiles:
        """Write one profile per user; one with a failed call is named in ``failures``.

        The reason starts with the stage and, where it belongs to one, the domain.
        """
        out = Profiles([""] * len(users))
        present = [place for place, user in enumerate(users) if any(user.sizes())]
        for place, text in self._write(users, present, out.failures).items():
            out.texts[place] = text
        return out

    def _ask(
        self,
        stage: str,
        keys: Sequence[tuple[int, ...]],
        write: Callable[[tuple[int, ...]], str],
        users: Sequence[UserGroups],
        failures: dict[str, str],
    ) -> dict[tuple[int, ...], str]:
        """Ask once per key, whose first entry is the user's place; forget users that failed."""
        system = prompt("system")
        asked = [key for key in keys if users[key[0]].user not in failures]
        requests = [
            ChatRequest(system, write(key), TEXT_SCHEMA, likely=partial(_likely, stage, key))
            for key in asked
        ]
        answers: dict[tuple[int, ...], str] = {}
        for key, answer in zip(asked, self.client.chat(requests, stage=stage), strict=True):
            if answer.error is not None or answer.value is None:
                where = " ".join([stage, *(self.domains[side] for side in key[1:2])])
                failures.setdefault(users[key[0]].user, f"{where}: {answer.error}")
            else:
                answers[key] = " ".join(str(answer.value["text"]).split())
        return {key: text for key, text in answers.items() if users[key[0]].user not in failures}

    def _samples(self, group: Sequence[int] | np.ndarray) -> str:
        return "\n".join(f"- {item_text(self.records[line])}" for line in group[-SAMPLES:])

    def _sra(self, users, present, failures) -> dict[int, str]:
        groups = [
            (place, side, n)
            for place in present
            for side in (0, 1)
            for n in range(len(users[place].groups[side]))
        ]

        def summary(key: tuple[int, ...]) -> str:
            place, side, n = key
            samples = self._samples(users[place].groups[side][n])
            domain = self.domains[side]
            return prompt("summarise", attributes=ATTRIBUTES, domain=domain, samples=samples)

        summaries = self._ask("summarise", groups, summary, users, failures)
        of_side: dict[tuple[int, ...], list[str]] = {}
        for key, text in summaries.items():
            of_side.setdefault(key[:2], []).append(f"- {text}")

        def extent(place: int, side: int) -> str:
            sizes = users[place].sizes()
            return imbalance(sizes[side], sizes[1 - side])

        reformed = self._ask("reform", list(of_side), lambda key: prompt(
            "reform", domain=self.domains[key[1]], summaries="\n".join(of_side[key]),
            imbalance=extent(key[0], key[1])), users, failures)  # fmt: skip
        nothing = "- nothing is known"
        profiles = self._ask("analyse", [(place,) for place in present], lambda key: prompt(
            "analyse", domain_a=self.domains[0], domain_b=self.domains[1],
            imbalance_a=extent(key[0], 0), imbalance_b=extent(key[0], 1),
            summaries_a=reformed.get((key[0], 0), nothing),
            summaries_b=reformed.get((key[0], 1), nothing)), users, failures)  # fmt: skip
        return {key[0]: text for key, text in profiles.items()}

    def _naive(self, users, present, failures) -> dict[int, str]:
        def write(key: tuple[int, ...]) -> str:
            lines = sample_both(users[key[0]])
            return prompt(
                "naive", attributes=ATTRIBUTES, domain_a=self.domains[0],
                domain_b=self.domains[1], samples=self._samples(lines),
            )  # fmt: skip

        asked = self._ask("naive", [(place,) for place in present], write, users, failures)
        return {key[0]: text for key, text in asked.items()}
