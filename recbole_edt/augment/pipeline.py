"""The stages of augmentation in their order: read, encode, generate, insert, profile, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_edt.augment.clusters import ItemSpace
from recbole_edt.augment.encoders import CachedEncoder, Encoder, encoder_class
from recbole_edt.augment.filter import filter_items, match
from recbole_edt.augment.generators import GENERATORS, Generated, Task
from recbole_edt.augment.histories import Histories, read_histories
from recbole_edt.augment.insert import balancing_tasks, insert
from recbole_edt.augment.items import count_without_text, item_text
from recbole_edt.augment.llm import DryRun, LLMClient, LLMSettings
from recbole_edt.augment.output import Augmented, write
from recbole_edt.augment.profile import encode_profiles, mean_vectors, user_groups
from recbole_edt.augment.profilers import PROFILERS, Described
from recbole_edt.augment.settings import AugmentCommand, AugmentSettings
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io.atomic import check_distinct, compared, how_alike
from recbole_edt.io.files import LARGEST
from recbole_edt.io.lock import run_lock

ANSWERS = "llm.sqlite"  # paid ones, in the folder of the cache
_MAX_WITHOUT_TEXT = 0.1  # share of items without text above which it is said


def cache_folder(output: Path, name: str) -> Path:
    """Folder beside an augmented data set that holds paid answers and encoded texts."""
    return output / ".augment" / name


class Pipeline:
    """One augmentation of one data set.

    ``cache`` is the folder of paid answers and encoded texts, by default one in ``output``.
    """

    def __init__(
        self,
        name: str,
        source: Path,
        output: Path,
        settings: AugmentSettings,
        cache: Path | None = None,
    ) -> None:
        self.name, self.settings = name, settings
        self.raw, self.output = Path(source) / name, Path(output) / name
        if self.raw.resolve() == self.output.resolve():
            raise ConfigError("--output_path is --data_path: the raw data would be lost")
        self.cache = cache or cache_folder(Path(output), name)
        self.seconds: dict[str, float] = {}
        self.max_cost: float | None = None  # of the command, else of the profile of the LLM

    def run(self) -> dict[str, Any]:
        """Run every stage and write the augmented data set.

        Returns
        -------
        dict
            The report, as written to ``augmentation.json``.

        Raises
        ------
        EDTError
            If the data are invalid, or an endpoint cannot serve the run.
        """
        histories = self._read(self.settings)  # before a folder is made
        client = self._client(LLMClient)
        with client or nullcontext(), run_lock(self.cache):
            if client:  # before anything is paid
                client.check(self._endpoints())
            made = self._augment(self.settings, histories, client, self.cache)
            with self._timed("write"):
                about = {  # without addresses, which may hold a key
                    "settings": self.settings.model_dump(
                        include=set(AugmentSettings.model_fields),
                        exclude={kind: {"base_url"} for kind in ("chat", "embedding")},
                    ),
                    "models": client.endpoints.names() if client else {},
                    "cost": client.costs() if client else {},
                }
                return write(made, self.raw, self.output, about)

    def estimate(self) -> list[dict[str, Any]]:
        """Estimate the cost of a run without calls or files.

        Returns
        -------
        list of dict
            :attr:`DryRun.estimates`; empty if no LLM is asked.
        """
        client = self._client(DryRun)
        if not isinstance(client, DryRun):
            return []
        no_threshold = {"tau": None, "tau_quantile": 0.0}  # the vectors are made up
        with client:
            settings = self.settings.model_copy(update=no_threshold)
            self._augment(settings, self._read(settings), client)
        return client.estimates

    def _client(self, kind: type[LLMClient]) -> LLMClient | None:
        if not self._endpoints():
            return None
        keys = {"chat", "embedding", "batch", "max_cost"}
        # a command names the keys that were given; the settings of a report name all of them
        by_hand = isinstance(self.settings, AugmentCommand)
        over = self.settings.model_dump(
            include=keys, exclude_unset=by_hand, exclude_defaults=not by_hand
        )
        llm = LLMSettings.load(self.settings.llm, over)
        self.max_cost = llm.max_cost
        return kind(llm, self.cache / ANSWERS)

    def _endpoints(self) -> list[str]:
        """Kinds of the endpoints that stages ask."""
        encoder = encoder_class(self.settings.encoder)
        writers = (GENERATORS.get(self.settings.generator), PROFILERS.get(self.settings.profiler))
        asking = {"embedding": encoder.uses_llm, "chat": any(w and w.uses_llm for w in writers)}
        return [kind for kind in asking if asking[kind]]

    def _read(self, settings: AugmentSettings) -> Histories:
        with self._timed("read"):
            return read_histories(self.raw, self.name, settings.domains, settings.text_columns)

    def _augment(
        self,
        settings: AugmentSettings,
        histories: Histories,
        client: LLMClient | None,
        cache: Path | None = None,
    ) -> Augmented:
        with self._timed("encode"):
            file = self.raw / f"{self.name}.item_emb.npy"
            encoder = encoder_class(settings.encoder)(settings, file, client)
            if cache is not None and encoder.identity:
                encoder = CachedEncoder(encoder, cache)
            described = histories.described(histories.items)
            vectors = encoder.encode([item_text(row) for row in described.to_dict("records")])
            if not (np.abs(vectors) <= LARGEST).all():
                raise DataError(
                    f"{self.name}.item, encoder {settings.encoder}: the vectors hold values beyond "
                    f"{LARGEST:,}, the largest that is stored: divide all of them by one number"
                )
            vectors = vectors.astype(np.float16).astype(np.float32)  # as stored, for every stage
            if cache is not None:
                self._check(described, vectors, encoder)
            space = ItemSpace.of(histories, vectors, settings.clusters, settings.seed)
        with self._timed("generate"):
            tasks: list[Task] = []
            generated = Generated([])
            if settings.generator != "none":  # eq. 4
                tasks = balancing_tasks(histories.domain_counts(), settings)
                generator = GENERATORS[settings.generator](settings, space, client)
                generated = generator.generate(tasks)
            space = embed_new(space, encoder, tasks, generated)
        with self._timed("insert"):
            matches = [match(*pair, space) for pair in zip(tasks, generated.items, strict=True)]
            kept = filter_items(matches, settings)
            insertions = insert(histories, matches, kept, settings)
        failures = {"generate": generated.failures}
        made = Augmented(space, generated.new_items, insertions, failures, corpus=encoder.corpus)
        made = made.without_unused()
        with self._timed("profile"):
            if settings.profiler != "none":
                profile(made, encoder, settings, client)
        return made

    def _check(self, items: pd.DataFrame, vectors: np.ndarray, encoder: Encoder) -> None:
        """Refuse vectors that are nearly all alike; say so if many items have no text."""
        missing = 0 if encoder.items_only else count_without_text(items)
        if missing > _MAX_WITHOUT_TEXT * len(items):
            tqdm.write(
                f"{self.name}.item: {missing:,} of {len(items):,} items have no text in "
                f"{', '.join(items.columns[1:]) or 'any column'}: their vectors are alike"
            )
        check_distinct(vectors, f"{self.name}.item, encoder {self.settings.encoder}")
        for domain, places in items.groupby("domain").indices.items():
            if said := how_alike(vectors[places[compared(len(places))]]):
                tqdm.write(f"the text of {domain} does not tell its items apart: {said}")

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[stage] = round(perf_counter() - start, 3)


def embed_new(
    space: ItemSpace, encoder: Encoder, tasks: Sequence[Task], generated: Generated
) -> ItemSpace:
    """Encode the new items; those without a vector, and all of failed users, are left out."""
    lost: dict[int, str] = {}
    n = len(space.vectors)
    if generated.new_items:
        new, failures = encoder.encode_more([item_text(item) for item in generated.new_items])
        lost = {n + place: why for place, why in failures.items()}
        if len(lost) == len(new):  # the size of the vectors is unknown
            new = np.zeros((len(new), space.vectors.shape[1]), dtype=np.float32)
        space = replace(space, vectors=np.concatenate([space.vectors, new]))
    leave_out(generated, tasks, lost, space.histories.users)
    return space


def leave_out(
    generated: Generated, tasks: Sequence[Task], lost: Mapping[int, str], users: np.ndarray
) -> None:
    """Remove lost items from the proposals, and all proposals of users who failed.

    A user who is left without a proposal for a domain has failed. Failed users get nothing in
    either direction: half of what they should get would tip their balance the other way.
    """
    for place, task in enumerate(tasks):
        items = generated.items[place]
        generated.items[place] = items[~np.isin(items, list(lost))]
        if len(items) and not len(generated.items[place]):
            why = f"encode: {lost[int(items[0])]}"
            generated.failures.setdefault(str(users[task.user]), why)
    for place, task in enumerate(tasks):
        if str(users[task.user]) in generated.failures:
            generated.items[place] = generated.items[place][:0]


def profile(
    made: Augmented, encoder: Encoder, settings: AugmentSettings, client: LLMClient | None
) -> None:
    """Write and encode a profile of every user (3.4)."""
    users = user_groups(made)
    histories = made.space.histories
    described = histories.described(made.item_table())
    about = Described(described, histories.domains, made.space.vectors)
    profiles = PROFILERS[settings.profiler](settings, about, client).write(users)
    if encoder.items_only:
        made.user_vectors = mean_vectors(users, made.space.vectors, settings.profile)
    else:
        made.user_vectors = encode_profiles(encoder, users, profiles)
    made.failures["profile"] = profiles.failures
    # RecBole's own reader treats double quotes as enclosing a value.
    made.profiles = [text.replace('"', "''") for text in profiles.texts]
