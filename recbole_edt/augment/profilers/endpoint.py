"""Profiles written by a chat model (appendix A.1): the paper's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recbole_edt.augment.items import item_list
from recbole_edt.augment.llm import ChatRequest
from recbole_edt.augment.profilers import SAMPLES, Profiler, Profiles, UserGroups, register_profiler
from recbole_edt.augment.prompts import ATTRIBUTES, Text, prompt

WORDS = {"summarise": 50, "reform": 50, "analyse": 100, "naive": 100}
"""Most words that each template allows a text, for estimates."""

Key = tuple[int, ...]
"""What a text is about: place of the user, then domain and cluster where it has one."""


@register_profiler("openai")
class LLMProfiler(Profiler):
    """Asks the chat endpoint of the LLM settings.

    ``sra`` asks three times: a summary of each cluster, then of each domain with its text of
    imbalance, then one profile of all. ``naive`` asks once, for the whole history. A user with a
    failed call is named in ``failures``; the reason starts with the stage and the domain, if any.
    """

    uses_llm = True

    def __init__(self, settings, about, client=None) -> None:
        super().__init__(settings, about, client)
        self.records = about.items.to_dict("records")
        self.names = {"domain_a": about.domains[0], "domain_b": about.domains[1]}

    def write(self, users: Sequence[UserGroups]) -> Profiles:
        """Write one profile per user."""
        out = Profiles([""] * len(users))
        present = {place: user for place, user in enumerate(users) if any(user.sizes())}
        write = self._sra if self.settings.profile == "sra" else self._naive
        for (place,), text in write(present, out.failures).items():
            out.texts[place] = text
        return out

    def _ask(self, stage: str, prompts: Mapping[Key, str], users, failures) -> dict[Key, str]:
        """Ask for one text per key; users with a failed call get none and ask no more."""

        def request(key: Key) -> ChatRequest:
            made_up = f"{stage} {key} " + "likes " * WORDS[stage]
            return ChatRequest(prompt("system"), prompts[key], Text, lambda: {"text": made_up})

        keys = [key for key in prompts if users[key[0]].user not in failures]
        found = self.client.chat([request(key) for key in keys], stage)
        answers: dict[Key, str] = {}
        for key, answer in zip(keys, found, strict=True):
            if answer.value is None:
                where = " ".join([stage, *(self.about.domains[side] for side in key[1:2])])
                failures.setdefault(users[key[0]].user, f"{where}: {answer.error}")
            else:
                answers[key] = " ".join(answer.value["text"].split())
        return {key: text for key, text in answers.items() if users[key[0]].user not in failures}

    def _sra(self, users: Mapping[int, UserGroups], failures: dict[str, str]) -> dict[Key, str]:
        prompts: dict[Key, str] = {
            (place, side, n): prompt(
                "summarise",
                attributes=ATTRIBUTES,
                domain=self.about.domains[side],
                samples=item_list(self.records, group[-SAMPLES:]),
            )
            for place, user in users.items()
            for side, groups in enumerate(user.groups)
            for n, group in enumerate(groups)
        }
        of_side: dict[Key, list[str]] = {}
        for key, text in self._ask("summarise", prompts, users, failures).items():
            of_side.setdefault(key[:2], []).append(f"- {text}")
        prompts = {
            (place, side): prompt(
                "reform",
                domain=self.about.domains[side],
                summaries="\n".join(texts),
                imbalance=users[place].imbalance(side),
            )
            for (place, side), texts in of_side.items()
        }
        reformed = self._ask("reform", prompts, users, failures)
        prompts = {
            (place,): prompt(
                "analyse",
                **self.names,
                imbalance_a=user.imbalance(0),
                imbalance_b=user.imbalance(1),
                summaries_a=reformed.get((place, 0), "- nothing is known"),
                summaries_b=reformed.get((place, 1), "- nothing is known"),
            )
            for place, user in users.items()
        }
        return self._ask("analyse", prompts, users, failures)

    def _naive(self, users: Mapping[int, UserGroups], failures: dict[str, str]) -> dict[Key, str]:
        prompts: dict[Key, str] = {}
        for place, user in users.items():
            samples = item_list(self.records, user.sample())
            prompts[(place,)] = prompt(
                "naive", attributes=ATTRIBUTES, samples=samples, **self.names
            )
        return self._ask("naive", prompts, users, failures)
