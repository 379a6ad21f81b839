"""Items written by a chat model (appendix A.1): the paper's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from recbole_edt.augment.generators import Generated, Generator, Task, register_generator
from recbole_edt.augment.items import Catalogue, ItemLines, Titles, names_product
from recbole_edt.augment.llm import ChatRequest
from recbole_edt.augment.prompts import generated_items, item_form, prompt


@register_generator("openai")
class LLMGenerator(Generator):
    """Asks the chat endpoint of the LLM settings for ``num`` items per task."""

    uses_llm = True

    def __init__(self, settings, space, client=None) -> None:
        super().__init__(settings, space, client)
        self.num = settings.num or 10
        histories = space.histories
        described = histories.described(histories.items)
        self.lines = ItemLines(described)
        self.columns = list(dict.fromkeys(["title", *self.lines.columns]))
        self.records = described.reindex(columns=self.columns, fill_value="").to_dict("records")
        self.n_known = [sum(map(bool, record.values())) for record in self.records]
        self.reply = generated_items(self.columns)

    def generate(self, tasks: Sequence[Task]) -> Generated:
        """Ask for each task; a user whose call failed is named in ``failures``."""
        histories = self.space.histories
        requests = [self._request(task) for task in tasks]
        catalogue = Catalogue(histories.items, histories.domains)
        out = Generated([], catalogue.new_items)
        for task, answer in zip(tasks, self.client.chat(requests, "generate"), strict=True):
            if answer.value is None:
                out.failures[str(histories.users[task.user])] = str(answer.error)
                out.items.append(np.zeros(0, dtype=np.int64))
                continue
            lines = [catalogue.line(item, task.target) for item in answer.value["items"]]
            owned = histories.of(task.user)
            new = [line for line in dict.fromkeys(lines) if line not in owned]
            out.items.append(np.array(new[: self.num], dtype=np.int64))
        return out

    def _request(self, task: Task) -> ChatRequest:
        histories, space = self.space.histories, self.space
        other = histories.rows[space.chosen(task.user, 1 - task.target)]
        example = max(space.medoids[task.target], key=self.n_known.__getitem__)
        shown = {example, *other, *space.representatives(*task), *histories.of(task.user)}
        titles = Titles(self.records[line] for line in sorted(shown))

        def fault_of(item: Mapping[str, Any]) -> str:
            if not names_product(item, histories.domains):
                return "no product"
            return "copy" if titles.hold(item) else ""

        text = prompt(
            "generate",
            attributes=self.lines.attributes,
            **item_form(self.records[example]),
            source_domain=histories.domains[1 - task.target],
            target_domain=histories.domains[task.target],
            user=histories.users[task.user],
            source_samples=self.lines.list(other),
            target_samples=self.lines.list(space.representatives(*task)),
            num=self.num,
        )
        likely = self._likely(task)
        return ChatRequest(prompt("system"), text, self.reply, likely, self.num, fault_of)

    def _likely(self, task: Task) -> dict[str, Any]:
        """Make up an answer for estimates: items like the domain's medoids, under new names."""
        medoids = cycle(self.space.medoids[task.target])
        items = []
        for n, line in enumerate(islice(medoids, self.num)):
            item = self.records[line]
            made = {"title": f"{item['title']} {task.user} {n}", "price": 9.99}
            made["categories"] = str(item.get("categories", "")).split(" | ")
            items.append(item | {column: made[column] for column in made if column in item})
        return {"items": items}
