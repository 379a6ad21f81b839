"""Loaders: whole sequences for training, one row per target for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.dataloader.general_dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.gathered import LazyInteraction
from recbole_edt.data.negatives import NegativeSampler
from recbole_edt.data.recency import recency_weights
from recbole_edt.data.sequences import domain_rows
from recbole_edt.data.similar import similar_items
from recbole_edt.distributed import rank, world_size
from recbole_edt.errors import DataError
from recbole_edt.log import by_domain
from recbole_edt.settings import declared

# Fields of a training batch.
SEQUENCE = "sequence"  # items of a window and, last, its final target; [B, L + 1], 0 = padding
SEEN = "seen"  # seen_<domain>: shared negatives of a domain that the user of a row has; [B, n]
TARGETS = "targets"  # with label smoothing: items that the loss takes for the targets; [B, L]
TARGET_WEIGHTS = "target_weights"  # weights of the targets in the loss, if they differ; [B, L]
NEGATIVES = "negatives"  # one per target [B, L], or negatives_<domain>: a domain's shared ones [n]
LAST = "last"  # whether the window ends its user's sequence, bool [B]
WINDOW = "window"  # which of the loader's windows each row is, int64 [B]
N_SIMILAR = 5  # items of similar text, one of which may take a target's place in the loss
WHOLE_DOMAIN = 2**40  # negatives: more than any domain has items
AUGMENTED = "augmented"  # items that preprocessing inserted, bool [B, L + 1]; also _<domain>


def domain_sequence_fields(domain: int) -> tuple[str, str]:
    """Fields of a domain's sub-sequence and of each target's place in it (-1 = other domain)."""
    return f"sequence_{domain}", f"place_{domain}"


def n_shared_negatives(config) -> int:
    """Negatives per domain that a batch shares; 0 if each target has one of its own."""
    if config["loss"] != "bpr":
        return int(config["n_negatives"])
    model = getattr(config, "model_class", None)
    return WHOLE_DOMAIN if getattr(model, "negatives_in_loss", False) else 0


class SequenceLoader(AbstractDataLoader):
    """Yields users' whole training sequences: every position is supervised in one pass.

    The order of an epoch depends on (seed, epoch) alone; iterations are epochs, one after another,
    unless :meth:`set_epoch` says which. Fields of a batch:

    - ``user_id`` and ``window`` [B]; ``last`` [B], True where the window ends the user's sequence;
    - ``sequence`` [B, L + 1]: columns ``:-1`` are inputs, ``1:`` targets;
    - negatives of the targets' own domains, as the configured ``loss`` needs them;
    - ``target_weights`` [B, L], with a ``recency_half_life``;
    - ``targets`` [B, L], with ``label_smoothing``: the targets, that share of which is replaced by
      items of similar text;
    - made on first use: ``augmented`` [B, L + 1]; per domain ``sequence_<d>`` [B, L_d], the
      domain's own sub-sequence up to the last target, ``augmented_<d>`` [B, L_d], and
      ``place_<d>`` [B, L], the place of each target of that domain in it.

    With several processes, each gets its part of the same batches.
    """

    def __init__(self, config, dataset: CrossDomainDataset, sampler=None, shuffle=True):
        self.logger = getLogger()
        self.sample_size = len(dataset.windows())
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        self.epoch = 0
        self.update_config(config)

    def update_config(self, config) -> None:
        """Follow a configuration, which may have other batches, negatives or another device."""
        super().update_config(config)  # whole batches: RecBole divides them by the world_size
        self.device = torch.device(config["device"])
        self.seed = int(config["seed"])
        self.n_shared = n_shared_negatives(config)
        dataset = self._dataset
        windows, rows = dataset.windows(), dataset.train_sequences

        def tensors(*arrays: np.ndarray) -> list[Tensor]:
            return [torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in arrays]

        self.users, self.starts, self.stops = tensors(windows.users, windows.starts, windows.stops)
        self.first, self.final = tensors(  # first and last row of each window's user
            rows.offsets[windows.users], rows.offsets[windows.users + 1] - 1
        )
        offsets, self.items, self.augmented = tensors(rows.offsets, rows.items, rows.augmented)
        (self.item_domain,) = tensors(dataset.item_domain)
        of_domain = (domain_rows(rows, dataset.item_domain, d) for d in range(len(dataset.domains)))
        self.by_domain = [tensors(own.index, own.items, own.augmented) for own in of_domain]
        self.negatives = NegativeSampler(self.item_domain, offsets, self.items)
        if config["loss"] == "bpr" and (found := self.negatives.exhausted()):
            user, domain = dataset.id2token(dataset.uid_field, found[0]), dataset.domains[found[1]]
            raise DataError(
                f"user '{user}' has all items of {domain} in the training rows, so that there is "
                "no negative for loss: bpr: leave this user out (--user_inter_num_interval), or "
                "train with --loss=softmax"
            )
        self.smoothing = declared(config, "label_smoothing", 0.0)
        for name in ("weights", "similar"):
            self.__dict__.pop(name, None)

    @cached_property
    def weights(self) -> Tensor | None:
        """Weights of the training rows in the loss, or None; made for the first batch alone."""
        if not self.config["recency_half_life"]:
            return None
        dataset, half_life = self._dataset, self.config["recency_half_life"]
        weights, days = recency_weights(dataset.train_sequences, dataset.item_domain, half_life)
        if any(days):
            found = by_domain(days, dataset.domains)
            self.logger.info(f"half-life of the weight of training targets, in days: {found}")
        return torch.from_numpy(weights).to(self.device)

    @cached_property
    def similar(self) -> Tensor:
        """Items of similar text, int64 [n_items, N_SIMILAR]."""
        dataset = self._dataset
        return similar_items(dataset.item_table(), dataset.item_domain, N_SIMILAR, self.device)

    def _init_batch_size_and_step(self):
        self.step = int(self.config["train_batch_size"])
        self.set_batch_size(self.step)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.sample_size // self.step)

    def __iter__(self) -> Iterator[Interaction]:
        seed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        generator = torch.Generator(device=self.device).manual_seed(seed)
        order = torch.arange(self.sample_size, device=self.device)
        if self.shuffle:
            order = torch.randperm(self.sample_size, generator=generator, device=self.device)
        for rows in order.split(self.step):
            yield self.collate(rows, generator, slice(rank(), None, world_size()))
        self.epoch += 1  # for loops of one's own: trainers choose it

    def collate(
        self, batch: Tensor, generator: torch.Generator, part: slice = slice(None)
    ) -> Interaction:
        """Make the rows ``part`` of a batch of windows [B]; draws do not depend on ``part``."""
        rows = batch[part]
        if not len(rows):
            return self._padding(batch[:1], generator)
        sequence = self._gather(self.items, self.starts[rows], self.stops[rows] + 1)
        fields = {
            self._dataset.uid_field: self.users[rows],
            WINDOW: rows,
            SEQUENCE: sequence,  # [B, L + 1]
            LAST: self.stops[rows] == self.final[rows],
        }
        if self.weights is not None:
            weights = self._gather(self.weights, self.starts[rows], self.stops[rows] + 1)
            fields[TARGET_WEIGHTS] = weights[:, 1:]
        if self.smoothing:
            fields[TARGETS] = self._smoothed(batch, generator)[part, : sequence.shape[1] - 1]
        if self.n_shared:
            for domain, shared in enumerate(self.negatives.shared(self.n_shared, generator)):
                fields[f"{NEGATIVES}_{domain}"] = shared  # [n]
                fields[f"{SEEN}_{domain}"] = self.negatives.seen_mask(self.users[rows], shared)
        else:
            targets = self._targets(batch)
            users, real = self.users[batch, None].expand_as(targets), targets > 0
            drawn = self.negatives.per_position(users[real], targets[real], generator)
            negatives = torch.zeros_like(targets).masked_scatter_(real, drawn)
            fields[NEGATIVES] = negatives[part, : sequence.shape[1] - 1]  # [B, L]
        return LazyInteraction(fields, lambda: self._late_fields(rows, sequence[:, 1:]))

    def _targets(self, batch: Tensor) -> Tensor:
        """Targets [B, L] of windows [B]."""
        return self._gather(self.items, self.starts[batch] + 1, self.stops[batch] + 1)

    def _smoothed(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Targets [B, L] of windows [B], a share of them replaced by similar items."""
        targets = self._targets(batch)
        draw = torch.rand((2, *targets.shape), generator=generator, device=self.device)
        similar = self.similar[targets, (draw[1] * N_SIMILAR).long()]
        return torch.where(draw[0] < self.smoothing, similar, targets)

    def _padding(self, row: Tensor, generator: torch.Generator) -> Interaction:
        """Make a row of padding, for a process without a row in a small batch."""
        fields = self.collate(row, generator).interaction
        for name, values in fields.items():
            if name.startswith("place_"):
                fields[name] = torch.full_like(values, -1)
            elif name.startswith((SEQUENCE, AUGMENTED)) or name == LAST:
                fields[name] = torch.zeros_like(values)
        return Interaction(fields)

    def _gather(self, values: Tensor, starts: Tensor, stops: Tensor) -> Tensor:
        """Gather ``values[start:stop]`` of many ranges into a right-padded matrix."""
        width = max(int((stops - starts).max()), 1)
        index = starts[:, None] + torch.arange(width, device=values.device)  # [B, width]
        inside = index < stops[:, None]
        if not len(values):
            return torch.zeros(index.shape, dtype=values.dtype, device=index.device)
        return values[index.clamp_(max=len(values) - 1)] * inside

    def _late_fields(self, rows: Tensor, targets: Tensor) -> dict[str, Tensor]:
        fields = {AUGMENTED: self._gather(self.augmented, self.starts[rows], self.stops[rows] + 1)}
        for domain in range(len(self.by_domain)):
            fields |= self._domain_fields(domain, rows, targets)
        return fields

    def _domain_fields(self, domain: int, rows: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cut the domain's own sub-sequence up to the window's last target (eq. 2)."""
        index, items, augmented = self.by_domain[domain]
        stops = index[self.stops[rows] + 1]
        width = int(self._dataset.max_item_list_len) + 1
        starts = torch.maximum(index[self.first[rows]], stops - width)
        steps = torch.arange(targets.shape[1], device=index.device)
        target_rows = (self.starts[rows][:, None] + 1 + steps).clamp_(max=len(index) - 1)
        place = index[target_rows] - starts[:, None]  # [B, L]
        inside = (targets > 0) & (self.item_domain[targets] == domain)
        sequence_field, place_field = domain_sequence_fields(domain)
        return {
            sequence_field: self._gather(items, starts, stops),  # [B, L_d]
            f"{AUGMENTED}_{domain}": self._gather(augmented, starts, stops),
            place_field: torch.where(inside, place, -1),
        }


class EvaluationLoader(FullSortEvalDataLoader):
    """Yields evaluation rows as RecBole's loader of full rankings does, for loops of a user's own.

    Rows of similar length share a batch. Several processes take turns at the batches.
    """

    def __init__(self, config, dataset: CrossDomainDataset, sampler=None, shuffle=False):
        self.logger = getLogger()
        self.phase = dataset.phase
        self.sample_size = len(dataset)
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)
        self._init_batch_size_and_step()
        lengths = dataset.inter_feat[dataset.item_list_length_field].numpy()
        self.order = np.argsort(lengths, kind="stable")

    def _init_batch_size_and_step(self):
        self.step = int(self.config["eval_batch_size"])
        self.set_batch_size(self.step)

    def __len__(self) -> int:
        """Return the number of batches of the first process, which has most."""
        return -(-self.sample_size // (world_size() * self.step))

    def batches(self) -> Iterator[tuple[Interaction, np.ndarray]]:
        """Yield the rows with their indices into ``dataset.split.users``."""
        for start in range(rank() * self.step, self.sample_size, world_size() * self.step):
            rows = self.order[start : start + self.step]
            yield self._dataset.transformed(self._dataset[rows]), rows

    def __iter__(self):
        mode = self.config["eval_args"]["mode"][self.phase]
        if mode != "full":
            self.logger.warning(
                f"batches of the {self.phase} loader hold no candidates of eval_args.mode {mode}: "
                "trainer.evaluate of the plugin ranks them"
            )
        for interaction, rows in self.batches():
            places, seen = torch.arange(len(rows)), None
            if not self.is_sequential:
                offsets, items = self._histories(rows)
                lengths = torch.from_numpy(np.diff(offsets))
                seen = places.repeat_interleave(lengths), torch.from_numpy(items)
            yield interaction, seen, places, interaction[self._dataset.iid_field]

    def _histories(self, rows) -> tuple[np.ndarray, np.ndarray]:
        """Raw items of users before their targets, as :meth:`CrossDomainDataset.raw_history`."""
        data, split = self._dataset, self._dataset.split
        targets = split.valid_rows if self.phase == "valid" else split.test_rows
        return data.raw_history(split.users[rows], targets[rows])

    @property
    def uid2history_item(self) -> np.ndarray:
        """Raw items of each user before their target, as RecBole's case study asks: [n_users]."""
        offsets, items = self._histories(slice(None))
        histories = np.full(self._dataset.user_num, None, dtype=object)
        parts = np.split(items, offsets[1:-1])
        for user, history in zip(self._dataset.split.users, parts, strict=True):
            histories[user] = torch.from_numpy(history)
        return histories
