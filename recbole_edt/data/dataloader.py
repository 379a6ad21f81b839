"""Loaders: whole sequences for training, one row per target for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.negatives import NegativeSampler
from recbole_edt.data.sequences import Windows, in_domain_index
from recbole_edt.distributed import rank, world_size
from recbole_edt.errors import ConfigError

SEQUENCE = "sequence"
"""Batch field: items of a window and, last, its final target; [batch, length + 1], 0 = padding."""

OWNED = "owned"
"""Batch field prefix: which shared negatives of a domain a user owns; [batch, n]."""

NEGATIVES = "negatives"
"""Batch field prefix: one negative per target [batch, length], or a domain's shared ones [n]."""

WINDOW = "window"
"""Batch field: which of the loader's windows each row is, int64 [batch]."""

AUGMENTED = "augmented"
"""Batch field: which items of ``sequence`` are inserted ones, bool [batch, length + 1].

With ``_<domain>`` behind it, the same of the domain's sub-sequence.
"""


def domain_sequence_fields(domain: int) -> tuple[str, str]:
    """Fields of a domain's sub-sequence and of each target's place in it (-1 = other domain)."""
    return f"sequence_{domain}", f"place_{domain}"


def has_own_negatives(config) -> bool:
    """Whether each position gets a negative of its own; else a batch shares its negatives."""
    return config["loss"] == "bpr" and config["negative_sampling"] != "hard"


class SequenceBatch(Interaction):
    """A batch that makes some of its fields only when it is asked for one of them.

    Parameters
    ----------
    fields : dict
        Tensors by name.
    late : callable
        Returns the other fields.
    """

    def __init__(self, fields: dict[str, Tensor], late: Callable[[], dict[str, Tensor]]) -> None:
        self._late: Callable[[], dict[str, Tensor]] | None = None
        super().__init__(fields)
        self._late = late

    @property
    def interaction(self) -> dict[str, Tensor]:
        """All fields: what RecBole's methods work on."""
        if self._late is not None:
            late, self._late = self._late, None
            self._fields.update(late())
        return self._fields

    @interaction.setter
    def interaction(self, fields: dict[str, Tensor]) -> None:
        self._fields = fields

    def __getitem__(self, index):
        """A field by its name, or rows of all fields."""
        if isinstance(index, str) and index in self._fields:
            return self._fields[index]
        return super().__getitem__(index)

    def __getattr__(self, name):
        """A field by its name."""
        if name.startswith("_") or (name not in self._fields and name not in self.interaction):
            raise AttributeError(f"a batch has no field '{name}'")
        return self._fields[name]

    def to(self, device, selected_field=None):
        """Return a batch on a device: itself where it lies there, with what is not made yet."""
        lies_there = all(field.device == torch.device(device) for field in self._fields.values())
        return self if lies_there else super().to(device, selected_field)


class SequenceLoader(AbstractDataLoader):
    """Yields users' whole training sequences: every position is supervised in one pass.

    Which windows share a batch is drawn anew each epoch from (seed, epoch) alone.

    A batch holds ``user_id`` and ``window`` [B]; ``sequence`` [B, L + 1], whose columns ``:-1`` are
    inputs and ``1:`` targets; ``augmented`` [B, L + 1], which of them preprocessing inserted;
    negatives of the targets' own domains, as the configured ``loss`` needs them; per domain
    ``sequence_<d>`` [B, L_d], the domain's own sub-sequence up to the last target,
    ``augmented_<d>`` [B, L_d], and ``place_<d>`` [B, L], where in it each target of that domain
    stands; and ``last`` [B], which is True where the window ends the user's sequence. What is of a
    domain's own or marks inserted items is made when it is asked for: training on mixed sequences
    alone never does.

    Of several processes each gets its part of the same batches.
    """

    def __init__(self, config, dataset: CrossDomainDataset, sampler=None, shuffle=True):
        self.logger = getLogger()
        windows = dataset.windows()
        self.sample_size = len(windows)
        if not self.sample_size:
            raise ConfigError("no user has two training rows: there is nothing to train on")
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        self._init_batch_size_and_step()  # whole batches: RecBole divides them by the world_size
        self.epoch = 0
        self.device = torch.device(config["device"])
        self.seed = int(config["seed"])
        self.n_shared = 0 if has_own_negatives(config) else int(config["n_negatives"])
        self._place_on_device(dataset, windows)

    def _init_batch_size_and_step(self):
        self.step = int(self.config["train_batch_size"])
        self.set_batch_size(self.step)

    def _place_on_device(self, dataset: CrossDomainDataset, windows: Windows) -> None:
        def tensor(array):
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        rows = dataset.train_sequences
        self.users, self.starts, self.stops = map(
            tensor, (windows.users, windows.starts, windows.stops)
        )
        self.first = tensor(rows.offsets[windows.users])
        self.final = tensor(rows.offsets[windows.users + 1] - 1)
        self.items = tensor(rows.items)
        self.augmented = tensor(rows.augmented)
        self.item_domain = tensor(dataset.item_domain)
        self.domain_index, self.domain_items, self.domain_augmented = [], [], []
        for domain in range(len(dataset.domains)):
            self.domain_index.append(tensor(in_domain_index(rows, dataset.item_domain, domain)))
            inside = dataset.item_domain[rows.items] == domain
            self.domain_items.append(tensor(rows.items[inside]))
            self.domain_augmented.append(tensor(rows.augmented[inside]))
        self.negatives = NegativeSampler(self.item_domain, tensor(rows.offsets), self.items)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-self.sample_size // self.step)

    def __iter__(self) -> Iterator[Interaction]:
        """Iterate over the batches of the chosen epoch."""
        seed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        generator = torch.Generator(device=self.device).manual_seed(seed)
        for rows in self._batches(generator):
            yield self.collate(rows, generator, slice(rank(), None, world_size()))

    def _batches(self, generator: torch.Generator) -> list[Tensor]:
        n = self.sample_size
        if not self.shuffle:
            return list(torch.arange(n, device=self.device).split(self.step))
        shuffled = torch.randperm(n, generator=generator, device=self.device)
        return list(shuffled.split(self.step))

    def collate(
        self, rows: Tensor, generator: torch.Generator, part: slice | None = None
    ) -> Interaction:
        """Make a batch of the windows ``rows`` (int64 [B]), with negatives from ``generator``.

        With ``part`` only these of its rows are made; their negatives are those of the whole batch.
        """
        whole, rows = rows, rows if part is None else rows[part]
        if not len(rows):
            return self._nothing(whole[:1], generator)
        users, starts, stops = self.users[rows], self.starts[rows], self.stops[rows]
        sequence = self._gather(self.items, starts, stops + 1)
        fields = {
            self._dataset.uid_field: users,
            WINDOW: rows,
            SEQUENCE: sequence,
            "last": stops == self.final[rows],
        }
        if part is None or self.n_shared:
            fields.update(self._draw(users, sequence[:, 1:], generator))
        else:
            targets = self._gather(self.items, self.starts[whole] + 1, self.stops[whole] + 1)
            drawn = self._draw(self.users[whole], targets, generator)[NEGATIVES]
            fields[NEGATIVES] = drawn[part, : sequence.shape[1] - 1]
        return SequenceBatch(fields, lambda: self._late_fields(rows, sequence[:, 1:]))

    def _nothing(self, row: Tensor, generator: torch.Generator) -> Interaction:
        """Make a batch of padding: the part of a process that a small batch has no row for."""
        fields = self.collate(row, generator).interaction
        places = [domain_sequence_fields(domain)[1] for domain in range(len(self.domain_items))]
        for name, values in fields.items():
            if name in places:
                fields[name] = torch.full_like(values, -1)
            elif name.startswith((SEQUENCE, AUGMENTED)) or name == "last":
                fields[name] = torch.zeros_like(values)
        return Interaction(fields)

    def _gather(self, values: Tensor, starts: Tensor, stops: Tensor) -> Tensor:
        width = max(int((stops - starts).max()), 1)
        index = starts[:, None] + torch.arange(width, device=values.device)
        inside = index < stops[:, None]
        if not len(values):
            return torch.zeros(index.shape, dtype=values.dtype, device=index.device)
        return values[index.clamp_(max=len(values) - 1)] * inside

    def _draw(self, users: Tensor, targets: Tensor, generator: torch.Generator) -> dict:
        if not self.n_shared:
            real = targets > 0
            owner = users[:, None].expand_as(targets)
            negatives = torch.zeros_like(targets)
            negatives[real] = self.negatives.per_position(owner[real], targets[real], generator)
            return {NEGATIVES: negatives}
        fields = {}
        for domain, shared in enumerate(self.negatives.shared(self.n_shared, generator)):
            fields[f"{NEGATIVES}_{domain}"] = shared
            fields[f"{OWNED}_{domain}"] = self.negatives.owned_mask(users, shared)
        return fields

    def _late_fields(self, rows: Tensor, targets: Tensor) -> dict[str, Tensor]:
        fields = {AUGMENTED: self._gather(self.augmented, self.starts[rows], self.stops[rows] + 1)}
        for domain in range(len(self.domain_items)):
            fields.update(self._domain_fields(domain, rows, targets))
        return fields

    def _domain_fields(self, domain: int, rows: Tensor, targets: Tensor) -> dict:
        """Cut the domain's own sub-sequence up to the window's last target (eq. 2)."""
        index = self.domain_index[domain]
        stops = index[self.stops[rows] + 1]
        width = int(self._dataset.max_item_list_len) + 1
        starts = torch.maximum(index[self.first[rows]], stops - width)
        sequence_field, place_field = domain_sequence_fields(domain)
        steps = torch.arange(targets.shape[1], device=index.device)
        target_rows = (self.starts[rows][:, None] + 1 + steps).clamp_(max=len(index) - 1)
        place = index[target_rows] - starts[:, None]
        inside = (targets > 0) & (self.item_domain[targets] == domain)
        return {
            sequence_field: self._gather(self.domain_items[domain], starts, stops),
            f"{AUGMENTED}_{domain}": self._gather(self.domain_augmented[domain], starts, stops),
            place_field: torch.where(inside, place, -1),
        }


class EvaluationLoader(AbstractDataLoader):
    """Yields evaluation rows with their indices into ``dataset.split.users``.

    Rows of similar length share a batch; each batch is ``(interaction, rows)``. Several world_size
    take turns at the batches.
    """

    def __init__(self, config, dataset: CrossDomainDataset, sampler=None, shuffle=False):
        self.logger = getLogger()
        self.phase = sampler.phase if sampler is not None else "test"
        self.sample_size = len(dataset)
        super().__init__(config, dataset, sampler, shuffle=False)
        self._init_batch_size_and_step()
        lengths = dataset.inter_feat[dataset.item_list_length_field].numpy()
        self.order = np.argsort(lengths, kind="stable")

    def _init_batch_size_and_step(self):
        self.step = int(self.config["eval_batch_size"])
        self.set_batch_size(self.step)

    def _starts(self) -> range:
        return range(rank() * self.step, self.sample_size, world_size() * self.step)

    def __len__(self) -> int:
        """Return the number of batches of the process that has most: an empty loader is none."""
        return -(-self.sample_size // (world_size() * self.step))

    def __iter__(self):
        """Iterate over the batches of this process."""
        for start in self._starts():
            yield self.collate_fn(range(start, min(start + self.step, self.sample_size)))

    def collate_fn(self, index):
        """Return the rows at these places of the length order: ``(interaction, rows)``."""
        rows = self.order[np.asarray(index)]
        return self._dataset[rows], rows
