"""Profiles written by a chat model (appendix A.1): the paper's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_edt.augment.items import ItemLines
from recbole_edt.augment.llm import ChatRequest
from recbole_edt.augment.profilers import SAMPLES, Profiler, Profiles, UserGroups, register_profiler
from recbole_edt.augment.prompts import Text, Texts, prompt

# Least and most words of a text: A.1 has 50 for a summary
_SUMMARY, _PROFILE = (5, 50), (30, 70)

Key = tuple[int, ...]
"""What a text is about: place of the user, then domain and first cluster where it has one."""


@register_profiler("openai")
class LLMProfiler(Profiler):
    """Asks the chat endpoint of the LLM settings.

    ``sra`` asks twice: for a summary of each cluster, weighed by the domain's text of imbalance
    (summarise and reform, one prompt in A.1), then for one profile of all (analyse). The summaries
    of a domain come from one call, or with ``profile_calls: cluster`` from one each. ``naive`` asks
    once, for the whole history. A user with a failed call is named in ``failures``; the reason
    starts with the stage and the domain, if any.
    """

    uses_llm = True

    def __init__(self, settings, about, client=None) -> None:
        super().__init__(settings, about, client)
        self.lines = ItemLines(about.items)
        self.names = {"domain_a": about.domains[0], "domain_b": about.domains[1]}

    def write(self, users: Sequence[UserGroups]) -> Profiles:
        """Write one profile per user."""
        out = Profiles([""] * len(users))
        present = {place: user for place, user in enumerate(users) if any(user.sizes())}
        write = self._sra if self.settings.profile == "sra" else self._naive
        for (place,), value in write(present, out.failures).items():
            out.texts[place] = " ".join(value["text"].split())
        return out

    def _ask(
        self, stage: str, questions: Mapping[Key, ChatRequest], users, failures
    ) -> dict[Key, dict[str, Any]]:
        """Ask each question; users with a failed call get no answer and are asked no more."""
        keys = [key for key in questions if users[key[0]].user not in failures]
        found = self.client.chat([questions[key] for key in keys], stage)
        answers: dict[Key, dict[str, Any]] = {}
        for key, answer in zip(keys, found, strict=True):
            if answer.value is None:
                where = " ".join([stage, *(self.about.domains[side] for side in key[1:2])])
                failures.setdefault(users[key[0]].user, f"{where}: {answer.error}")
            else:
                answers[key] = answer.value
        return {key: value for key, value in answers.items() if users[key[0]].user not in failures}

    def _sra(
        self, users: Mapping[int, UserGroups], failures: dict[str, str]
    ) -> dict[Key, dict[str, Any]]:
        questions: dict[Key, ChatRequest] = {}
        for place, user in users.items():
            for side, groups in enumerate(user.groups):
                size = max(1 if self.settings.profile_calls == "cluster" else len(groups), 1)
                for first in range(0, len(groups), size):
                    some = groups[first : first + size]
                    questions[place, side, first] = self._summarise(user, side, some)
        summaries: dict[Key, list[str]] = {}
        for key, value in self._ask("summarise", questions, users, failures).items():
            texts = (" ".join(text.split()) for text in value["texts"])
            summaries.setdefault(key[:2], []).extend(f"- {text}" for text in texts)
        questions = {
            (place,): _one_text(
                "analyse",
                place,
                **self.names,
                imbalance_a=user.imbalance(0),
                imbalance_b=user.imbalance(1),
                summaries_a="\n".join(summaries.get((place, 0), ["- nothing is known"])),
                summaries_b="\n".join(summaries.get((place, 1), ["- nothing is known"])),
            )
            for place, user in users.items()
        }
        return self._ask("analyse", questions, users, failures)

    def _summarise(self, user: UserGroups, side: int, groups: Sequence[np.ndarray]) -> ChatRequest:
        """Ask for a text per group: the more items of it are shown, the longer."""
        least, most = _SUMMARY
        shown = [group[-SAMPLES:] for group in groups]
        words = [min(6 + 4 * len(group), most) for group in shown]
        parts = [
            f"Group {n}, {words[n - 1]} words:\n{self.lines.list(group)}"
            for n, group in enumerate(shown, start=1)
        ]
        text = prompt(
            "summarise",
            attributes=self.lines.attributes,
            least=least,
            domain=self.about.domains[side],
            imbalance=user.imbalance(side),
            groups="\n".join(parts),
        )
        made_up = [f"{user.user} " + "likes " * (most - 1) for most in words]
        return ChatRequest(prompt("system"), text, Texts, {"texts": made_up}, len(groups))

    def _naive(
        self, users: Mapping[int, UserGroups], failures: dict[str, str]
    ) -> dict[Key, dict[str, Any]]:
        questions: dict[Key, ChatRequest] = {
            (place,): _one_text(
                "naive",
                place,
                **self.names,
                attributes=self.lines.attributes,
                samples=self.lines.list(user.sample()),
            )
            for place, user in users.items()
        }
        return self._ask("naive", questions, users, failures)


def _one_text(name: str, place: int, **values: object) -> ChatRequest:
    least, most = _PROFILE
    text = prompt(name, least=least, most=most, **values)
    made_up = f"{place} " + "likes " * (most - 1)
    return ChatRequest(prompt("system"), text, Text, {"text": made_up})
