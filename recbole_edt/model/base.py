"""What every model of the plugin shares: losses over all positions, and scores by dot product.

A model gives each item one vector and each user one vector per domain; an item's score is the dot
product of its vector with the user's vector of the item's domain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_edt import distributed
from recbole_edt.data.dataloader import (
    NEGATIVES,
    OWNED,
    SEQUENCE,
    domain_sequence_fields,
    has_own_negatives,
)
from recbole_edt.data.embeddings import BLOCK
from recbole_edt.errors import ConfigError
from recbole_edt.model.adapters import LinearAdapter
from recbole_edt.model.kernels import look_up, take_rows_each
from recbole_edt.model.lookup import ItemLookup, look_up_by
from recbole_edt.model.losses import alignment_loss, bpr_loss, hard_negatives, softmax_loss
from recbole_edt.model.packing import PackedStates
from recbole_edt.model.settings import ModelSettings, declared
from recbole_edt.model.text import MappedText, frozen_text, text_rows


def _states_at(states: Tensor | PackedStates, places: list[Tensor]) -> tuple[Tensor, ...]:
    """States [m, d] at different places, int64 [m] each, of the flattened batch."""
    if isinstance(states, PackedStates):
        return states.take(*places)
    return take_rows_each(states.reshape(-1, states.shape[-1]), *places)


class CrossDomainModel(SequentialRecommender):
    """Base of the plugin's models: subclasses say what vectors items and users have.

    They define :meth:`embed`, :meth:`user_vectors` and ``calculate_loss``.

    Attributes
    ----------
    settings : type
        Keys of the model, their types, ranges and defaults.
    trainer : str or type
        How it is trained: a class, or ``module:Class``.
    properties : str or None
        Name of its property files; by default the name of its class.
    choices : mapping
        Config key -> the values it can take; others are refused.
    stages : tuple of (str, str)
        For each stage of training the config keys of its epochs and its learning rate.
    splits_batches : bool
        Whether the losses of a batch's parts add up to that of the batch, as several processes
        need it (:mod:`recbole_edt.distributed`).
    n_domains : int
        Always two.
    item_domain : Tensor
        int64 [n_items]; 0 or 1, and -1 for the padding item.
    """

    input_type = InputType.POINTWISE
    settings: type[ModelSettings] = ModelSettings
    trainer: str | type = "recbole_edt.trainer.trainer:CrossDomainTrainer"
    properties: str | None = None
    stages: tuple[tuple[str, str], ...] = (("epochs", "learning_rate"),)
    splits_batches = False
    choices: Mapping[str, tuple] = {
        "loss": ("bpr", "softmax"),
    }

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self._check_choices(config)
        self.loss_name = config["loss"]
        self._own_negatives = has_own_negatives(config)
        self.negative_temperature: float | None = None
        if self.loss_name == "bpr" and not self._own_negatives:
            self.negative_temperature = config["negative_temperature"]
        self.n_domains = len(dataset.domains)
        item_domain = torch.from_numpy(dataset.item_domain)
        self.item_domain: Tensor
        self.register_buffer("item_domain", item_domain, persistent=False)
        self._item_vectors: Tensor | None = None

    def _check_choices(self, config) -> None:
        for key, choices in self.choices.items():
            if declared(config, key, choices[0]) not in choices:
                raise ConfigError(f"{key} '{config[key]}' is not one of {', '.join(choices)}")
        if config["hidden_size"] % config["n_heads"]:
            raise ConfigError("hidden_size must be a multiple of n_heads")

    # -- hooks of the trainer ---------------------------------------------------------------------

    def begin_finetuning(self) -> None:
        """Enter stage 2; called once, by trainers of two stages."""

    def enter_stage(self, stage: int) -> None:
        """Become what a checkpoint of this stage of training holds; most models have one stage."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that stage 2 trains, in groups as an optimizer takes them."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def loss_over(self, train_data) -> Callable[..., Tensor]:
        """Return the loss of the batches of one loader; asked for at the start of every epoch.

        A model computes here once what all batches share, or adds a step of its own to some.
        """
        return self.calculate_loss

    def embed(self, items: Tensor) -> Tensor:
        """Vectors that user vectors are multiplied with, for item ids [...]: [..., d]."""
        raise NotImplementedError

    # -- losses ---------------------------------------------------------------------------------

    def batch_lookup(
        self, batch, embed: Callable[[Tensor], Tensor] | None = None, by_domain: bool = True
    ) -> ItemLookup:
        """Vectors of all items of a batch, each computed once.

        Parameters
        ----------
        batch : Interaction
            Of :class:`~recbole_edt.data.dataloader.SequenceLoader`.
        embed : callable, optional
            Distinct item ids [n] -> vectors [n, d]; by default :meth:`embed`.
        by_domain : bool
            Whether the domains' own sub-sequences are looked up too: they reach behind a window.
        """
        wanted = [batch[SEQUENCE]]
        if by_domain:
            wanted += [batch[domain_sequence_fields(d)[0]] for d in range(self.n_domains)]
        if self._own_negatives:
            wanted.append(batch[NEGATIVES])
        else:
            wanted += [batch[f"{NEGATIVES}_{d}"] for d in range(self.n_domains)]
        return ItemLookup(embed or self.embed, self.n_items, *wanted)

    def next_item_loss(
        self, batch, lookup, states: Tensor | PackedStates, chosen: Tensor
    ) -> Tensor:
        """Next-item loss, averaged over the chosen positions (LLM-EDT's eqs. 9, 12).

        ``loss: bpr`` is one sampled negative per position; where ``negative_sampling`` is hard,
        it is drawn from negatives that the batch shares, the likelier the higher the model scores
        it. ``softmax`` is a softmax over the positive and the shared ones. All are of the
        positive's own domain.

        Parameters
        ----------
        batch : Interaction
            Of :class:`~recbole_edt.data.dataloader.SequenceLoader`.
        lookup : callable
            Item ids -> vectors that states are multiplied with.
        states : Tensor or PackedStates
            [B, L, d]; state t predicts ``sequence[:, t + 1]``.
        chosen : Tensor
            bool [B, L]; which targets count.

        Returns
        -------
        Tensor
            Scalar; zero when no target counts.
        """
        targets = batch[SEQUENCE][:, 1:]
        places = torch.nonzero(chosen.reshape(-1)).squeeze(1)
        domains = self.item_domain[targets.reshape(-1)[places]]
        mine = [places[domains == domain] for domain in range(self.n_domains)]
        at = [(place // targets.shape[1], place % targets.shape[1]) for place in mine]
        # one lookup for all domains, and one gradient of all vectors
        items = [ids for domain, of in enumerate(at) for ids in self._asked(batch, domain, of)]
        vectors = look_up_by(lookup, *items)
        wanted = _states_at(states, mine)
        total = wanted[0].new_zeros(())
        for domain, own in enumerate(wanted):
            positives, negatives = vectors[2 * domain], vectors[2 * domain + 1]
            total = total + self._loss_of(batch, domain, own, positives, negatives, at[domain][0])
        return total / distributed.all_reduce_sum(chosen.sum()).clamp(min=1)

    def loss_in_domain(
        self, batch, lookup, domain: int, states: Tensor, places: tuple[Tensor, ...]
    ) -> Tensor:
        """Next-item loss of some targets of one domain, summed over them.

        Parameters
        ----------
        batch, lookup
            As in :meth:`next_item_loss`.
        domain : int
            Of the targets.
        states : Tensor
            [n, d]; what predicts them.
        places : tuple of Tensor
            int64 [n] each; rows and steps of the targets in ``sequence[:, 1:]``.
        """
        positives, negatives = look_up_by(lookup, *self._asked(batch, domain, places))
        return self._loss_of(batch, domain, states, positives, negatives, places[0])

    def _asked(self, batch, domain: int, places: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Targets of one domain, int64 [n], and its negatives: [n] of their own, or [m] shared."""
        targets = batch[SEQUENCE][:, 1:][places]
        if self._own_negatives:
            return targets, batch[NEGATIVES][places]
        return targets, batch[f"{NEGATIVES}_{domain}"]

    def _loss_of(
        self,
        batch,
        domain: int,
        states: Tensor,
        positives: Tensor,
        negatives: Tensor,
        owners: Tensor,
    ) -> Tensor:
        """Loss of targets whose vectors, and those of the negatives, are known; of rows owners."""
        if self._own_negatives:
            return bpr_loss(states, positives, negatives)
        owned = batch[f"{OWNED}_{domain}"]
        if self.negative_temperature is not None:
            drawn = hard_negatives(states, negatives, owned, owners, self.negative_temperature)
            return bpr_loss(states, positives, look_up(negatives, drawn))
        return softmax_loss(states, positives, negatives, owned, owners)

    def final_states(self, batch, states: Tensor) -> tuple[Tensor, Tensor]:
        """States that predict the last training targets of users, one per user.

        Parameters
        ----------
        batch : Interaction
            Of :class:`~recbole_edt.data.dataloader.SequenceLoader`; windows that do not end their
            user's sequence are left out.
        states : Tensor
            [B, L, d]; state t predicts ``sequence[:, t + 1]``.

        Returns
        -------
        users : Tensor
            int64 [n]; ids.
        vectors : Tensor
            [n, d].
        """
        rows = torch.nonzero(batch["last"]).squeeze(1)
        lengths = (batch[SEQUENCE][rows] > 0).sum(1)
        return batch[self.USER_ID][rows], states[rows, lengths - 2]

    def states_in_own_domain(
        self,
        batch,
        encode: Callable[[int, Tensor, Tensor], Tensor],
        chosen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """States of each target's own domain sub-sequence before it, in the target's place.

        Parameters
        ----------
        batch : Interaction
            Of :class:`~recbole_edt.data.dataloader.SequenceLoader`.
        encode : callable
            ``encode(domain, sequence [B, M], masked [B, M]) -> states [B, M - 1, d]``: state t has
            not seen item t + 1 of the domain's sub-sequence.
        chosen : Tensor, optional
            bool [B, L + 1]; the targets, which a bidirectional encoder must not see (``masked``);
            a causal one needs no such help.

        Returns
        -------
        states : Tensor
            [B, L, d]; zero where the target is the first of its domain.
        has : Tensor
            bool [B, L]; where there is domain history.
        """
        total, has_any = None, None
        for domain in range(self.n_domains):
            sequence_field, place_field = domain_sequence_fields(domain)
            sequence, place = batch[sequence_field], batch[place_field]
            has = place >= 1
            if sequence.shape[1] < 2:
                sequence = F.pad(sequence, (0, 1))
            masked = torch.zeros_like(sequence, dtype=torch.bool)
            if chosen is not None:
                hidden = torch.nonzero(chosen[:, 1:] & (place >= 0), as_tuple=True)
                masked[hidden[0], place[hidden]] = True
            states = encode(domain, sequence, masked)
            rows = torch.arange(len(place), device=place.device)[:, None]
            mine = states[rows, (place - 1).clamp(min=0)] * has[..., None]  # [B, L, d]
            total = mine if total is None else total + mine
            has_any = has if has_any is None else has_any | has
        assert total is not None and has_any is not None
        return total, has_any

    # -- inference ------------------------------------------------------------------------------

    def train(self, mode: bool = True):
        """Switch the mode; item vectors cached for inference are forgotten."""
        self._item_vectors = None
        return super().train(mode)

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, d]; computed once per evaluation."""
        if self._item_vectors is not None and not torch.is_grad_enabled():
            return self._item_vectors
        items = torch.arange(self.n_items, device=self.item_domain.device)
        if torch.is_grad_enabled():
            vectors = self.embed(items)
        else:  # in blocks: what the vectors are made of takes more room than they
            vectors = torch.cat([self.embed(block) for block in items.split(BLOCK)])
        if not self.training and not torch.is_grad_enabled():
            self._item_vectors = vectors
        return vectors

    def look_up(self, items: Tensor) -> Tensor:
        """Vectors of items [...], taken from those of all items: [..., d]."""
        return F.embedding(items, self.item_vectors())

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with."""
        raise NotImplementedError

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items, [B, n_items]."""
        vectors = self.item_vectors()
        by_domain = self.user_vectors(interaction)
        scores = by_domain[0] @ vectors.T
        for domain in range(1, self.n_domains):
            if by_domain[domain] is not by_domain[0]:
                items = torch.nonzero(self.item_domain == domain).squeeze(1)
                scores[:, items] = by_domain[domain] @ vectors[items].T
        return scores

    def candidate_scores(self, interaction, candidates: Tensor) -> Tensor:
        """Scores of given items per row, where scoring all would be a waste.

        Parameters
        ----------
        interaction : Interaction
            Evaluation rows.
        candidates : Tensor
            int64 [B, n]; in each row items of one domain.

        Returns
        -------
        Tensor
            [B, n].
        """
        users = torch.stack(self.user_vectors(interaction))  # [domains, B, d]
        rows = torch.arange(len(candidates), device=candidates.device)
        mine = users[self.item_domain[candidates[:, 0]], rows]
        return torch.einsum("bd,bnd->bn", mine, self.item_vectors()[candidates])

    def predict(self, interaction) -> Tensor:
        """Scores of one item per row, [B]."""
        items = interaction[self.ITEM_ID]
        users = torch.stack(self.user_vectors(interaction))  # [domains, B, d]
        rows = torch.arange(len(items), device=items.device)
        mine = users[self.item_domain[items].clamp(min=0), rows]
        return (mine * self.item_vectors()[items]).sum(-1)


class ProfiledModel(CrossDomainModel):
    """Base of models that align users with the embeddings of their profiles (LLM-EDT's eq. 13).

    Attributes
    ----------
    profiles : Tensor, MappedText or None
        float32 [n_users, d_L]; a user without a profile has a zero row. None without a profile
        file, or where ``align_weight`` is zero.
    profile_adapter : LinearAdapter or None
        Maps profiles into the space of user vectors.
    """

    choices = {**CrossDomainModel.choices, "align_loss": ("paper", "infonce")}

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.align_weight = config["align_weight"]
        self.align_temperature = config["align_temperature"]
        self.infonce = config["align_loss"] == "infonce"

    def _add_profiles(self, dataset, size: int) -> None:
        """Load the profiles; subclasses call it when their other parts are made."""
        table = dataset.user_table() if self.align_weight else None
        profiles = None if table is None else frozen_text(table)
        self.profiles: Tensor | MappedText | None
        if isinstance(profiles, MappedText):
            self.profiles = profiles
        else:
            self.register_buffer("profiles", profiles, persistent=False)
        self.profile_adapter = None
        if profiles is not None:
            self.profile_adapter = LinearAdapter(profiles.shape[1], profiles.shape[1] // 2, size)

    def profile_loss(self, users: Tensor, user_vectors: Tensor) -> Tensor:
        """Alignment of user vectors with profiles (eq. 13); users without a profile are skipped.

        Parameters
        ----------
        users : Tensor
            int64 [n]; ids.
        user_vectors : Tensor
            [n, d]; the states at their last positions.
        """
        assert self.profiles is not None and self.profile_adapter is not None
        texts = text_rows(self.profiles, users)
        has_profile = texts.abs().sum(-1) > 0
        profiles = self.profile_adapter(texts[has_profile])
        loss = alignment_loss(  # every process contrasts the users of the whole batch
            distributed.all_gather_rows(user_vectors[has_profile]),
            distributed.all_gather_rows(profiles),
            self.align_temperature,
            self.infonce,
        )
        return distributed.count_once(loss)

    def profile_alignment(self, batch, states: Tensor) -> Tensor:
        """Alignment with profiles of the last states of users whose sequences end in the batch.

        Parameters
        ----------
        batch : Interaction
            Of :class:`~recbole_edt.data.dataloader.SequenceLoader`.
        states : Tensor
            [B, L, d]; as in :meth:`next_item_loss`.
        """
        return self.profile_loss(*self.final_states(batch, states))
