"""Profiles written by a chat model (appendix A.1): the paper's way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from recbole_edt.augment.items import item_list
from recbole_edt.augment.llm import ChatRequest
from recbole_edt.augment.profilers import (
    SAMPLES,
    Profiler,
    Profiles,
    UserGroups,
    register_profiler,
)
from recbole_edt.augment.prompts import ATTRIBUTES, Text, imbalance, prompt

WORDS = {"summarise": 50, "reform": 50, "analyse": 100, "naive": 100}
"""Most words that each template allows a text, which is what estimates count with."""

Key = tuple[int, ...]
"""Whom and what a text is about: place of the user, then domain and cluster where it has one."""


@register_profiler("openai")
class LLMProfiler(Profiler):
    """Asks the chat endpoint of the LLM settings.

    ``sra`` asks three times: a summary of each cluster, then of each domain with its text of
    imbalance, then one profile of all. ``naive`` asks once, for the whole history.
    """

    uses_llm = True

    def __init__(self, settings, about, client=None) -> None:
        super().__init__(settings, about, client)
        self.records = about.items.to_dict("records")
        self.both = {"domain_a": about.domains[0], "domain_b": about.domains[1]}

    def write(self, users: Sequence[UserGroups]) -> Profiles:
        """Write one profile per user; one with a failed call is named in ``failures``.

        The reason starts with the stage and, where it belongs to one, the domain.
        """
        out = Profiles([""] * len(users))
        present = [place for place, user in enumerate(users) if any(user.sizes())]
        write = self._sra if self.profile == "sra" else self._naive
        for (place,), text in write(users, present, out.failures).items():
            out.texts[place] = text
        return out

    def _ask(
        self,
        stage: str,
        prompts: Mapping[Key, str],
        users: Sequence[UserGroups],
        failures: dict[str, str],
    ) -> dict[Key, str]:
        """Ask for one text per key; users with a failed call get none and ask no more."""
        system = prompt("system")
        asked = {
            key: ChatRequest(system, text, Text, likely=partial(_likely, stage, key))
            for key, text in prompts.items()
            if users[key[0]].user not in failures
        }
        answers: dict[Key, str] = {}
        for key, answer in zip(asked, self.client.chat(list(asked.values()), stage), strict=True):
            if answer.value is None:
                where = " ".join([stage, *(self.domains[side] for side in key[1:2])])
                failures.setdefault(users[key[0]].user, f"{where}: {answer.error}")
            else:
                answers[key] = " ".join(answer.value["text"].split())
        return {key: text for key, text in answers.items() if users[key[0]].user not in failures}

    def _sra(self, users, present: Sequence[int], failures) -> dict[Key, str]:
        ask: Callable[..., dict[Key, str]] = partial(self._ask, users=users, failures=failures)
        summaries = ask("summarise", {
            (place, side, n): self._summarise(side, group)
            for place in present
            for side, groups in enumerate(users[place].groups)
            for n, group in enumerate(groups)
        })  # fmt: skip
        of_side: dict[Key, list[str]] = {}
        for key, text in summaries.items():
            of_side.setdefault(key[:2], []).append(f"- {text}")
        reformed = ask("reform", {
            (place, side): self._reform(users[place], side, texts)
            for (place, side), texts in of_side.items()
        })  # fmt: skip
        return ask("analyse", {
            (place,): self._analyse(
                users[place], [reformed.get((place, side), "- nothing is known") for side in (0, 1)]
            )
            for place in present
        })  # fmt: skip

    def _naive(self, users, present: Sequence[int], failures) -> dict[Key, str]:
        prompts: dict[Key, str] = {}
        for place in present:
            samples = item_list(self.records, users[place].sample())
            prompts[(place,)] = prompt("naive", attributes=ATTRIBUTES, samples=samples, **self.both)
        return self._ask("naive", prompts, users, failures)

    def _summarise(self, side: int, group: Sequence[int]) -> str:
        samples, domain = item_list(self.records, group[-SAMPLES:]), self.domains[side]
        return prompt("summarise", attributes=ATTRIBUTES, domain=domain, samples=samples)

    def _reform(self, user: UserGroups, side: int, summaries: Sequence[str]) -> str:
        extent, domain = _extent(user, side), self.domains[side]
        return prompt("reform", domain=domain, summaries="\n".join(summaries), imbalance=extent)

    def _analyse(self, user: UserGroups, summaries: Sequence[str]) -> str:
        extents = {"imbalance_a": _extent(user, 0), "imbalance_b": _extent(user, 1)}
        texts = {"summaries_a": summaries[0], "summaries_b": summaries[1]}
        return prompt("analyse", **self.both, **extents, **texts)


def _extent(user: UserGroups, side: int) -> str:
    sizes = user.sizes()
    return imbalance(sizes[side], sizes[1 - side])


def _likely(stage: str, key: Key) -> dict[str, Any]:
    """Make up an answer for estimates: a text of the usual length, and of its own."""
    words = [stage, *map(str, key)]
    return {"text": " ".join(words + ["likes"] * (WORDS[stage] - len(words)))}
