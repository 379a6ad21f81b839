"""Base classes of the plugin's models, which score items by dot products with user vectors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_edt import distributed
from recbole_edt.data.dataloader import (
    LAST,
    NEGATIVES,
    SEEN,
    SEQUENCE,
    TARGET_WEIGHTS,
    TARGETS,
    domain_sequence_fields,
)
from recbole_edt.data.dataset import domain_fields
from recbole_edt.data.embeddings import BLOCK
from recbole_edt.model.adapters import LinearAdapter
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.kernels import take_rows_each, use_fast_kernels
from recbole_edt.model.lookup import ItemLookup, Lookup
from recbole_edt.model.losses import bpr_loss, softmax_loss
from recbole_edt.model.settings import ModelSettings
from recbole_edt.model.text import MappedText, add_text, frozen_text, text_rows
from recbole_edt.settings import declared

StatesAt = Callable[..., Iterable[Tensor]]
"""Maps places of the flattened batch, int64 [n] per domain, to the states there, [n, d] each."""

States = Tensor | StatesAt
"""States [B, L, d], where state t predicts ``sequence[:, t + 1]``, or a function of places."""


def add_constants(module: nn.Module, **arrays: np.ndarray) -> None:
    """Register arrays as buffers of a module that checkpoints leave out."""
    for name, array in arrays.items():
        module.register_buffer(name, torch.from_numpy(array), persistent=False)


class CrossDomainModel(SequentialRecommender):
    """Base of the plugin's models: one vector per item, one per user and domain.

    Subclasses define :meth:`embed`, :meth:`user_vectors` and ``calculate_loss``.

    Attributes
    ----------
    settings : type
        Keys of the model, their types, ranges and defaults.
    properties : str or None
        Name of its property files; by default the name of its class.
    trainer : str or type
        Class of its trainer, or ``module:Class``.
    stages : tuple of (str, str)
        For each stage of training the config keys of its epochs and its learning rate.
    reads_augmentation : bool
        Whether it reads what ``recbole-edt augment`` makes: inserted rows, item or user vectors.
    splits_batches : bool
        Whether losses of parts of a batch add up, so that several processes can share it.
    negatives_in_loss : bool
        Whether ``loss: bpr`` draws each negative from the whole domain by the model's scores;
        otherwise the loader draws one for each target, uniformly.
    finetuning : bool
        Whether a model of two stages is in its second.
    """

    input_type = InputType.POINTWISE
    settings: type[ModelSettings] = ModelSettings
    properties: str | None = None
    trainer: str | type = "recbole_edt.trainer.trainer:CrossDomainTrainer"
    stages: tuple[tuple[str, str], ...] = (("epochs", "learning_rate"),)
    reads_augmentation = False
    splits_batches = False
    negatives_in_loss = False
    finetuning = False
    encoder: SequenceEncoder  # of the models that use it; others have none or several
    item_domain: Tensor  # int64 [n_items]; 0 or 1, and -1 for the padding item

    def __new__(cls, config=None, *_, **__):
        """Make a model, or with ``ensemble_size`` above 1 an ensemble of models of the class."""
        from recbole_edt.model.ensemble import ensemble_of

        made: Any = cls
        if config is not None and declared(config, "ensemble_size", 1) > 1:
            made = ensemble_of(made)
        return super().__new__(made)

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        use_fast_kernels(declared(config, "fast_kernels", "auto"))
        self.loss_name = config["loss"]
        self.weighs_targets = bool(config["recency_half_life"])
        self._smooths_labels = bool(declared(config, "label_smoothing", 0.0))
        self._negative_per_target = self.loss_name == "bpr" and not self.negatives_in_loss
        self.n_domains = len(dataset.domains)
        add_constants(self, item_domain=dataset.item_domain)
        self._item_vectors: Tensor | None = None

    def encoder_per_domain(self, config) -> nn.ModuleList:
        """Make one encoder of each domain's sub-sequences."""
        encoders = (SequenceEncoder(config, self.max_seq_length) for _ in range(self.n_domains))
        return nn.ModuleList(encoders)

    # -- hooks of the trainer ---------------------------------------------------------------------

    def begin_finetuning(self) -> None:
        """Enter stage 2 and set ``finetuning``; models of one stage do nothing."""

    def scale_adapters(self, scales: Sequence[float]) -> bool:
        """Set the share of its own sequence that each domain starts stage 2 with, if it has one."""
        return False

    def loss_over(self, train_data) -> Callable[..., Tensor]:
        """Return the loss of the batches of one loader; called at the start of every epoch."""
        return self.calculate_loss

    @property
    def smooths_labels(self) -> bool:
        """Whether the loss takes other items for some targets; stage 2 does not."""
        return self._smooths_labels and not self.finetuning

    # -- losses -----------------------------------------------------------------------------------

    def embed(self, items: Tensor) -> Tensor:
        """Vectors that user vectors are multiplied with, for item ids [...]: [..., d]."""
        raise NotImplementedError

    def batch_lookup(
        self, batch, embed: Callable[[Tensor], Tensor] | None = None, by_domain: bool = True
    ) -> ItemLookup:
        """Vectors of all items of a batch, each computed once.

        ``embed`` maps distinct item ids [n] to vectors [n, d]; by default :meth:`embed`. With
        ``by_domain``, the domains' sub-sequences are included, which extend beyond the window.
        """
        wanted = [batch[SEQUENCE]]
        if by_domain:
            wanted += [batch[domain_sequence_fields(d)[0]] for d in range(self.n_domains)]
        if self.smooths_labels:
            wanted.append(batch[TARGETS])
        if self._negative_per_target:
            wanted.append(batch[NEGATIVES])
        else:
            wanted += [batch[f"{NEGATIVES}_{d}"] for d in range(self.n_domains)]
        return ItemLookup(embed or self.embed, self.n_items, *wanted)

    def next_item_loss(self, batch, lookup, states: States, target_mask: Tensor) -> Tensor:
        """Loss of the next items, averaged over the targets; arguments as in :meth:`targets`.

        ``loss: bpr`` has one negative per position, ``softmax`` those that the batch shares, all
        of the positive's own domain.
        """
        loss: Callable[..., Tensor] = softmax_loss if self.loss_name == "softmax" else bpr_loss
        terms = [loss(*targets) for targets in self.targets(batch, lookup, states, target_mask)]
        return self.mean_over(target_mask, terms)

    def targets(self, batch, lookup, states: States, target_mask: Tensor) -> list[tuple[Any, ...]]:
        """Gather the targets of each domain, the states before them and their negatives.

        Parameters
        ----------
        batch : Interaction
            Of :class:`~recbole_edt.data.dataloader.SequenceLoader`.
        lookup : callable
            Maps item ids to the vectors that states are multiplied with.
        states : Tensor or callable
            See :data:`States`.
        target_mask : Tensor
            bool [B, L]; which columns of ``sequence[:, 1:]`` are targets.

        Returns
        -------
        list of tuple
            For each domain: states [n, d], positives [n, d], negatives ([n, d], or [m, d] that
            the batch shares), ``seen_mask`` (bool [B, m]; shared negatives that the user of a
            row has, which do not count; else None), ``batch_index`` (int64 [n]; row of each
            target in the batch), and the weights of the targets in the loss ([n]; None: equal).
        """
        following = batch[SEQUENCE][:, 1:]
        places = torch.nonzero(target_mask.reshape(-1)).squeeze(1)
        domain_of = self.item_domain[following.reshape(-1)[places]]
        domains = range(self.n_domains)
        by_domain = [places[domain_of == domain] for domain in domains]
        at = [(place // following.shape[1], place % following.shape[1]) for place in by_domain]
        # one lookup for all domains, and one gradient of all vectors
        labels = batch[TARGETS] if self.smooths_labels else following
        items = [labels[place] for place in at]
        if self._negative_per_target:
            items += [batch[NEGATIVES][place] for place in at]
            seen_masks = [None for _ in domains]
        else:
            items += [batch[f"{NEGATIVES}_{domain}"] for domain in domains]
            seen_masks = [batch[f"{SEEN}_{domain}"] for domain in domains]
        if isinstance(lookup, Lookup):
            vectors = lookup.each(*items)
        else:
            vectors = lookup(torch.cat(items)).split([len(ids) for ids in items])
        if callable(states):
            before = states(*by_domain)
        else:
            before = take_rows_each(states.reshape(-1, states.shape[-1]), *by_domain)
        batch_index = [row for row, _ in at]
        positives, negatives = vectors[: self.n_domains], vectors[self.n_domains :]
        weights = [batch[TARGET_WEIGHTS][place] if self.weighs_targets else None for place in at]
        return list(
            zip(before, positives, negatives, seen_masks, batch_index, weights, strict=True)
        )

    def mean_over(self, target_mask: Tensor, terms: Iterable[Tensor]) -> Tensor:
        """Sum of terms, divided by the number of targets of all processes."""
        return sum(terms) / distributed.all_reduce_sum(target_mask.sum()).clamp(min=1)

    def states_before_last_target(self, batch, states: Tensor) -> tuple[Tensor, Tensor]:
        """User ids [n] and the states [n, d] that predict their last training targets.

        Windows that do not end their user's sequence are left out.
        """
        rows = torch.nonzero(batch[LAST]).squeeze(1)
        lengths = (batch[SEQUENCE][rows] > 0).sum(1)
        return batch[self.USER_ID][rows], states[rows, lengths - 2]

    def encode_domains(
        self, batch, encode: Callable[..., Tensor], target_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode each domain's sub-sequence: the states before each target in its own domain's.

        ``encode(domain, sequence [B, M], masked [B, M]) -> states [B, M - 1, d]``: state t has not
        seen item t + 1. ``target_mask``, bool [B, L + 1], are targets that a bidirectional encoder
        must not see (``masked``).

        Returns
        -------
        domain_states : Tensor
            [B, L, d]; zero for a target without earlier items of its domain.
        has_history : Tensor
            bool [B, L]; whether the target has earlier items of its domain.
        """
        parts, where = [], []
        for domain in range(self.n_domains):
            sequence_field, place_field = domain_sequence_fields(domain)
            sequence, place = batch[sequence_field], batch[place_field]
            has_history = place >= 1
            if sequence.shape[1] < 2:  # no user of the batch has items of the domain
                sequence = F.pad(sequence, (0, 1))
            masked = torch.zeros_like(sequence, dtype=torch.bool)
            if target_mask is not None:
                hidden = torch.nonzero(target_mask[:, 1:] & (place >= 0), as_tuple=True)
                masked[hidden[0], place[hidden]] = True
            states = encode(domain, sequence, masked)
            rows = torch.arange(len(place), device=place.device)[:, None]
            parts.append(states[rows, (place - 1).clamp(min=0)] * has_history[..., None])
            where.append(has_history)
        return parts[0] + parts[1], where[0] | where[1]

    def domain_states(
        self, batch, encoders, lookups, target_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """:meth:`encode_domains` with one encoder and one lookup per domain."""

        def encode(domain, sequence, masked):
            return encoders[domain].before_targets(lookups[domain], sequence, masked)

        return self.encode_domains(batch, encode, None if encoders[0].causal else target_mask)

    def shared_domain_states(self, batch, lookup, target_mask: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`domain_states` with ``encoder``, which encodes the mixed sequence too."""
        encoders, lookups = [self.encoder] * self.n_domains, [lookup] * self.n_domains
        return self.domain_states(batch, encoders, lookups, target_mask)

    # -- inference --------------------------------------------------------------------------------

    def train(self, mode: bool = True):
        """Switch the mode; cached item vectors are dropped."""
        self._item_vectors = None
        return super().train(mode)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Load weights as torch does; cached item vectors are dropped."""
        self._item_vectors = None
        return super().load_state_dict(state_dict, *args, **kwargs)

    def load_other_parameter(self, para):
        """Take what a checkpoint holds beside the parameters: the stage, the history term."""
        para = dict(para or {})
        if para.pop("finetuning", False) and not self.finetuning:
            weights = copy.deepcopy(self.state_dict())  # loaded before; stage 2 has its own start
            self.begin_finetuning()
            self.load_state_dict(weights)
        super().load_other_parameter(para)

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, d]; computed once per evaluation."""
        if self._item_vectors is not None and not torch.is_grad_enabled():
            return self._item_vectors
        items = torch.arange(self.n_items, device=self.item_domain.device)
        if torch.is_grad_enabled():
            return self.embed(items)
        # in blocks: intermediate results take more memory than the vectors
        vectors = torch.cat([self.embed(block) for block in items.split(BLOCK)])
        if not self.training:
            self._item_vectors = vectors
        return vectors

    def item_lookup(self, items: Tensor) -> Tensor:
        """Vectors of items [...], taken from those of all items: [..., d]."""
        return F.embedding(items, self.item_vectors())

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with.

        By default :meth:`mixed_state` for both.
        """
        return [self.mixed_state(interaction, self.item_lookup)] * self.n_domains

    def mixed_state(self, interaction, lookup) -> Tensor:
        """State [B, d] of ``encoder`` after each user's last item of the mixed sequence."""
        return self.encoder.last(lookup, interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def last_domain_states(self, interaction, encoders, lookups) -> list[Tensor]:
        """States after each user's last item of each domain, [B, d]; zero without such an item.

        ``encoders`` and ``lookups`` hold one encoder and one lookup per domain.
        """
        out = []
        for domain, (encoder, lookup) in enumerate(zip(encoders, lookups, strict=True)):
            list_field, length_field = domain_fields(domain)
            lengths = interaction[length_field]
            state = encoder.last(lookup, interaction[list_field], lengths)
            out.append(state * (lengths > 0)[:, None])
        return out

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items, [B, n_items].

        The fields of the domains' sub-sequences may be missing: they are then the items of each
        domain in the mixed sequence.
        """
        interaction = self._with_domain_fields(interaction)
        vectors = self.item_vectors()
        first, second = self.user_vectors(interaction)
        scores = first @ vectors.T
        if second is not first:
            items = torch.nonzero(self.item_domain == 1).squeeze(1)
            scores[:, items] = second @ vectors[items].T
        return scores

    def candidate_scores(self, interaction, candidates: Tensor) -> Tensor:
        """Scores [B, n] of candidates int64 [B, n], which are of one domain in each row."""
        interaction = self._with_domain_fields(interaction)
        users = torch.stack(self.user_vectors(interaction))  # [domains, B, d]
        rows = torch.arange(len(candidates), device=candidates.device)
        own = users[self.item_domain[candidates[:, 0]].clamp(min=0), rows]
        return torch.einsum("bd,bnd->bn", own, self.item_vectors()[candidates])

    def _with_domain_fields(self, interaction):
        if domain_fields(0)[0] in interaction:
            return interaction
        sequence, added = interaction[self.ITEM_SEQ], {}
        for domain in range(self.n_domains):
            own = self.item_domain[sequence] == domain
            first = (~own).to(torch.uint8).argsort(dim=1, stable=True)  # own items, oldest first
            list_field, length_field = domain_fields(domain)
            added[list_field] = (sequence * own).gather(1, first)
            added[length_field] = own.sum(1)
        return Interaction({**interaction.interaction, **added})

    def predict(self, interaction) -> Tensor:
        """Scores of one item per row, [B]."""
        return self.candidate_scores(interaction, interaction[self.ITEM_ID][:, None]).squeeze(1)


class ProfiledModel(CrossDomainModel):
    """Base of models that align users with the embeddings of their profiles (LLM-EDT's eq. 13)."""

    reads_augmentation = True
    profiles: Tensor | MappedText | None

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.align_weight = config["align_weight"]
        self.align_temperature = config["align_temperature"]

    def _add_profiles(self, dataset, size: int) -> None:
        """Load the profiles; subclasses call it when their other parts are made.

        ``profiles`` is float32 [n_users, d_L], with a zero row for users without one; None without
        a profile file, or where ``align_weight`` is zero.
        """
        table = dataset.user_table() if self.align_weight else None
        profiles = None if table is None else frozen_text(table)
        add_text(self, "profiles", profiles)
        self.profile_adapter = None
        if profiles is not None:
            self.profile_adapter = LinearAdapter(profiles.shape[1], profiles.shape[1] // 2, size)

    def users_and_profiles(self, batch, states: Tensor) -> tuple[Tensor, Tensor]:
        """Last states and adapted profiles [n, d] of users whose sequences end in a batch.

        Users without a profile are left out; the users of all processes are included.
        """
        assert self.profiles is not None and self.profile_adapter is not None
        users, vectors = self.states_before_last_target(batch, states)
        texts = text_rows(self.profiles, users)
        has_profile = texts.abs().sum(-1) > 0
        profiles = self.profile_adapter(texts[has_profile])
        gather = distributed.all_gather_rows
        return gather(vectors[has_profile]), gather(profiles)
