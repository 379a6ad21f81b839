"""LLM-EDT (KDD '26): global pre-training, then domain fine-tuning of small adapters.

Equation numbers are the paper's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_edt.data.dataloader import NEGATIVES, OWNED, SEQUENCE, domain_sequence_fields
from recbole_edt.data.dataset import domain_fields
from recbole_edt.errors import CheckpointError, ConfigError
from recbole_edt.model.backbones import make_backbone
from recbole_edt.model.layers import (
    ItemEmbedding,
    ItemLookup,
    LinearAdapter,
    ResidualAdapter,
    alignment_loss,
    bpr_loss,
    softmax_loss,
    standardise_,
    start_principal_,
)

_CHOICES = {
    "item_embedding": ("text", "id", "both"),
    "text_start": ("random", "principal"),
    "backbone": ("sasrec", "gru4rec", "bert4rec"),
    "adapter": ("paper", "residual"),
    "loss": ("bpr", "softmax"),
    "align_loss": ("paper", "infonce"),
    "pretrain_sequences": ("mixed", "all"),
}

_TEXT_SPREAD = "item_embedding.text_spread"
"""Saved by models of standardised text alone."""

_UNUSED_IN_STAGE_2 = ("domain_", "profile_adapter.")
"""Parts that are stage 2's own, or that no score needs any more."""


def check_choices(config) -> None:
    """Refuse values of the model's keys that are none of their choices.

    Raises
    ------
    ConfigError
        Naming the key and its choices.
    """
    for key, choices in _CHOICES.items():
        if config[key] not in choices:
            raise ConfigError(f"{key} '{config[key]}' is not one of {', '.join(choices)}")
    if config["hidden_size"] % config["n_heads"]:
        raise ConfigError("hidden_size must be a multiple of n_heads")


class LLMEDTPretrain(SequentialRecommender):
    """Stage 1: one backbone over the mixed sequence (eqs. 7-9, 13, 14)."""

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        check_choices(config)
        self.loss_name = config["loss"]
        self.align_weight = config["align_weight"]
        self.align_temperature = config["align_temperature"]
        self.infonce = config["align_loss"] == "infonce"
        self.all_sequences = config["pretrain_sequences"] == "all"
        self.mask_ratio = config["mask_ratio"]
        self.item_dropout = config["item_dropout"]
        self.n_domains = len(dataset.domains)
        item_domain = torch.from_numpy(dataset.item_domain)
        self.register_buffer("item_domain", item_domain, persistent=False)

        size = config["hidden_size"]
        self.item_embedding = self._embed_items(config, dataset, size)
        self.backbone = make_backbone(config)
        self.positions = nn.Embedding(self.max_seq_length + 1, size)
        nn.init.normal_(self.positions.weight, std=0.02)
        self._add_profiles(dataset, size)
        self._item_vectors: Tensor | None = None

    def _embed_items(self, config, dataset, size: int) -> ItemEmbedding:
        kind = config["item_embedding"]
        if kind == "id":
            return ItemEmbedding(kind, self.n_items, size, None)
        text = torch.from_numpy(dataset.item_embeddings())
        if config["text_start"] == "random":
            return ItemEmbedding(kind, self.n_items, size, text)
        raw = torch.from_numpy((dataset.item_domain >= 0) & ~dataset.item_generated)
        spread = standardise_(text, raw)
        embedding = ItemEmbedding(kind, self.n_items, size, text, spread)
        assert embedding.adapter is not None
        start_principal_(embedding.adapter, text[raw])
        return embedding

    def _add_profiles(self, dataset, size: int) -> None:
        profiles = dataset.user_embeddings() if self.align_weight else None
        self.profiles: Tensor | None
        self.register_buffer(
            "profiles", None if profiles is None else torch.from_numpy(profiles), persistent=False
        )
        self.profile_adapter = None
        if profiles is not None:
            self.profile_adapter = LinearAdapter(profiles.shape[1], profiles.shape[1] // 2, size)

    # -- encoding -------------------------------------------------------------------------------

    def states_before_targets(
        self, lookup, sequence: Tensor, positions: Tensor, masked: Tensor
    ) -> Tensor:
        """User states from which each target of a sequence is predicted (eq. 8).

        Parameters
        ----------
        lookup : callable
            Item ids -> vectors.
        sequence : Tensor
            [B, L + 1]; columns ``1:`` are the targets.
        positions : Tensor
            [>= L + 1, d]; position embeddings.
        masked : Tensor
            bool [B, L + 1]; items hidden from a bidirectional backbone; a causal one ignores it.

        Returns
        -------
        Tensor
            [B, L, d]; state t has not seen ``sequence[:, t + 1]``.
        """
        if self.backbone.causal:
            inputs = sequence[:, :-1]
            vectors = self.drop_items(lookup(inputs))
            return self.backbone(vectors, positions[: inputs.shape[1]], inputs > 0)
        assert self.backbone.mask_vector is not None
        vectors = torch.where(masked[..., None], self.backbone.mask_vector, lookup(sequence))
        valid = sequence > 0
        valid[:, 0] = True  # an empty row attends to padding: softmax over nothing is NaN
        return self.backbone(vectors, positions[: sequence.shape[1]], valid)[:, 1:]

    def drop_items(self, vectors: Tensor) -> Tensor:
        """Blank whole items of the input at random, so that no single one is leant on."""
        if not (self.backbone.training and self.item_dropout):
            return vectors
        kept = torch.rand(vectors.shape[:-1], device=vectors.device) >= self.item_dropout
        return vectors * kept[..., None]

    def last_state(self, lookup, sequence: Tensor, lengths: Tensor, positions: Tensor) -> Tensor:
        """State after the last item of each sequence: the user vector of eq. 8.

        Parameters
        ----------
        sequence : Tensor
            [B, L]; right-padded item ids.
        lengths : Tensor
            int64 [B]; a user with length 0 gets a state that means nothing.

        Returns
        -------
        Tensor
            [B, d].
        """
        width = max(int(lengths.max()), 1)
        sequence = F.pad(sequence[:, :width], (0, 1))
        steps = torch.arange(width + 1, device=lengths.device)
        after = steps == lengths[:, None]
        if not self.backbone.causal:
            sequence = sequence.masked_fill(after, 1)  # any real item: the mask vector hides it
        states = self.states_before_targets(lookup, sequence, positions, after)
        return states[torch.arange(len(lengths), device=lengths.device), (lengths - 1).clamp(min=0)]

    def choose_masked(self, sequence: Tensor) -> Tensor:
        """Choose the targets to predict: all, or for BERT4Rec a random part and the last one.

        Returns
        -------
        Tensor
            bool, the shape of ``sequence`` [B, L + 1]; never the first item, never padding.
        """
        real = sequence > 0
        chosen = real.clone()
        chosen[:, 0] = False
        if self.backbone.causal:
            return chosen
        lengths = real.sum(1)
        steps = torch.arange(sequence.shape[1], device=sequence.device)
        drawn = torch.rand(sequence.shape, device=sequence.device) < self.mask_ratio
        return chosen & (drawn | (steps == lengths[:, None] - 1))

    # -- losses ---------------------------------------------------------------------------------

    def batch_lookup(self, batch) -> ItemLookup:
        """Vectors of all items of a batch, each computed once (eq. 7)."""
        wanted = [batch[SEQUENCE]]
        wanted += [batch[domain_sequence_fields(d)[0]] for d in range(self.n_domains)]
        if self.loss_name == "bpr":
            wanted.append(batch[NEGATIVES])
        else:
            wanted += [batch[f"{NEGATIVES}_{d}"] for d in range(self.n_domains)]
        return ItemLookup(self.item_embedding, self.n_items, *wanted)

    def next_item_loss(self, batch, lookup, states: Tensor, chosen: Tensor) -> Tensor:
        """Next-item loss, averaged over the chosen positions (eqs. 9, 12).

        Parameters
        ----------
        states : Tensor
            [B, L, d]; states before the targets.
        chosen : Tensor
            bool [B, L]; which targets count.

        Returns
        -------
        Tensor
            Scalar; zero when no target counts.
        """
        targets = batch[SEQUENCE][:, 1:]
        if self.loss_name == "bpr":
            return self._bpr(batch, lookup, states[chosen], targets, chosen)
        total = states.new_zeros(())
        for domain in range(self.n_domains):
            mine = torch.nonzero(chosen & (self.item_domain[targets] == domain), as_tuple=True)
            total = total + softmax_loss(
                states[mine],
                lookup(targets[mine]),
                lookup(batch[f"{NEGATIVES}_{domain}"]),
                batch[f"{OWNED}_{domain}"],
                mine[0],
            )
        return total / chosen.sum().clamp(min=1)

    def _bpr(self, batch, lookup, states, targets, chosen):
        if not len(states):
            return states.sum()
        positive = (states * lookup(targets[chosen])).sum(-1)
        negative = (states * lookup(batch[NEGATIVES][chosen])).sum(-1)
        return bpr_loss(positive, negative)

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
        texts = self.profiles[users]
        has_profile = texts.abs().sum(-1) > 0
        profiles = self.profile_adapter(texts[has_profile])
        return alignment_loss(
            user_vectors[has_profile], profiles, self.align_temperature, self.infonce
        )

    def calculate_loss(self, interaction) -> Tensor:
        """Loss of stage 1 over all positions of a batch of sequences (eq. 14).

        Parameters
        ----------
        interaction : Interaction
            A batch of :class:`~recbole_edt.data.dataloader.SequenceLoader`.

        Returns
        -------
        Tensor
            Scalar: eq. 9 plus alpha times eq. 13.
        """
        batch, sequence = interaction, interaction[SEQUENCE]
        lookup = self.batch_lookup(batch)
        chosen = self.choose_masked(sequence)
        positions = self.positions.weight
        states = self.states_before_targets(lookup, sequence, positions, chosen)
        loss = self.next_item_loss(batch, lookup, states, chosen[:, 1:])
        if self.all_sequences:
            domain_states, has = self.domain_states(
                batch, lookup, [positions] * self.n_domains, chosen
            )
            loss = loss + self.next_item_loss(batch, lookup, domain_states, has & chosen[:, 1:])
        if self.profiles is not None:
            lengths = (sequence > 0).sum(1)
            last = batch["last"]
            users = states[torch.arange(len(lengths), device=lengths.device), lengths - 2]
            loss = loss + self.align_weight * self.profile_loss(
                batch[self.USER_ID][last], users[last]
            )
        return loss

    def domain_states(
        self, batch, lookup, positions: list[Tensor], chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States of each target's own domain sub-sequence before it (eq. 10's h).

        Returns
        -------
        states : Tensor
            [B, L, d]; zero where the target is the first of its domain.
        has : Tensor
            bool [B, L]; where there is domain history.
        """
        out, has_any = None, None
        for domain in range(self.n_domains):
            sequence_field, place_field = domain_sequence_fields(domain)
            sequence, place = batch[sequence_field], batch[place_field]
            has = place >= 1
            if sequence.shape[1] < 2:
                sequence = F.pad(sequence, (0, 1))
            masked = torch.zeros_like(sequence, dtype=torch.bool)
            if not self.backbone.causal:
                hidden = torch.nonzero(chosen[:, 1:] & (place >= 0), as_tuple=True)
                masked[hidden[0], place[hidden]] = True
            states = self.states_before_targets(lookup, sequence, positions[domain], masked)
            states = self.adapt(domain, states)
            rows = torch.arange(len(place), device=place.device)[:, None]
            mine = states[rows, (place - 1).clamp(min=0)] * has[..., None]  # [B, L, d]
            out = mine if out is None else out + mine
            has_any = has if has_any is None else has_any | has
        assert out is not None and has_any is not None
        return out, has_any

    def adapt(self, domain: int, states: Tensor) -> Tensor:
        """Leave a domain's states as they are: stage 1 has no domain adapters."""
        return states

    # -- inference ------------------------------------------------------------------------------

    def train(self, mode: bool = True):
        """Switch the mode; item vectors cached for inference are forgotten."""
        self._item_vectors = None
        return super().train(mode)

    def item_vectors(self) -> Tensor:
        """Vectors of all items (eq. 7), [n_items, d]; computed once per evaluation."""
        if self._item_vectors is not None and not torch.is_grad_enabled():
            return self._item_vectors
        vectors = self.item_embedding(torch.arange(self.n_items, device=self.item_domain.device))
        if not self.training and not torch.is_grad_enabled():
            self._item_vectors = vectors
        return vectors

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with."""
        vectors = self.item_vectors()
        state = self.last_state(
            lambda ids: F.embedding(ids, vectors),
            interaction[self.ITEM_SEQ],
            interaction[self.ITEM_SEQ_LEN],
            self.positions.weight,
        )
        return [state] * self.n_domains

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items (eqs. 8, 11), [B, n_items]."""
        vectors = self.item_vectors()
        by_domain = self.user_vectors(interaction)
        scores = by_domain[0] @ vectors.T
        for domain in range(1, self.n_domains):
            if by_domain[domain] is not by_domain[0]:
                items = torch.nonzero(self.item_domain == domain).squeeze(1)
                scores[:, items] = by_domain[domain] @ vectors[items].T
        return scores

    def candidate_scores(self, interaction, candidates: Tensor) -> Tensor:
        """Scores of given items per row (eqs. 8, 11), where scoring all would be a waste.

        Parameters
        ----------
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
        """Scores of one item per row (eqs. 8, 11), [B]."""
        items = interaction[self.ITEM_ID]
        users = torch.stack(self.user_vectors(interaction))  # [domains, B, d]
        rows = torch.arange(len(items), device=items.device)
        mine = users[self.item_domain[items].clamp(min=0), rows]
        return (mine * self.item_vectors()[items]).sum(-1)


class LLMEDTFinetune(LLMEDTPretrain):
    """Stage 2: frozen backbone and items, one adapter and own positions per domain (eqs. 10-12)."""

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        size, bottleneck = config["hidden_size"], config["adapter_size"]
        self.domain_adapters = nn.ModuleList(
            LinearAdapter(size, bottleneck, size, zero=True)
            if config["adapter"] == "paper"
            else ResidualAdapter(size, bottleneck)
            for _ in range(self.n_domains)
        )
        self.domain_positions = nn.ModuleList(
            nn.Embedding(self.max_seq_length + 1, size) for _ in range(self.n_domains)
        )

    def begin_finetuning(self) -> None:
        """Freeze stage 1 and start each domain's positions from the global ones."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for module in (*self.domain_adapters, *self.domain_positions):
            module.requires_grad_(True)
        with torch.no_grad():
            for positions in self.own_positions():
                positions.copy_(self.positions.weight)

    def own_positions(self) -> list[Tensor]:
        """Position embeddings of each domain, [L + 1, d]."""
        return [table.get_parameter("weight") for table in self.domain_positions]

    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Take the parameters of stage 1 and begin fine-tuning.

        Parameters
        ----------
        state : dict
            ``state_dict`` of an ``LLMEDTPretrain`` or ``LLMEDT`` of the same configuration.

        Raises
        ------
        CheckpointError
            If it does not fit.
        """
        own = self.state_names()
        theirs = {name for name in state if not name.startswith(_UNUSED_IN_STAGE_2)}
        if own ^ theirs == {_TEXT_SPREAD}:
            raise CheckpointError("the pre-trained model has another text_start than this one")
        try:
            missing, _ = self.load_state_dict(
                {name: value for name, value in state.items() if name in own}, strict=False
            )
        except RuntimeError as error:
            raise CheckpointError("the pre-trained model has other sizes than this one") from error
        if own & set(missing):
            raise CheckpointError("the pre-trained model lacks parts of this one")
        if theirs - own:
            raise CheckpointError("the pre-trained model has parts that this one lacks")
        self.begin_finetuning()

    def state_names(self) -> set[str]:
        """Names of the parameters that stage 2 takes from stage 1."""
        return {name for name in self.state_dict() if not name.startswith(_UNUSED_IN_STAGE_2)}

    def adapt(self, domain: int, states: Tensor) -> Tensor:
        """Apply a domain's adapter (eq. 10), [..., d] -> [..., d]."""
        return self.domain_adapters[domain](states)

    def train(self, mode: bool = True):
        """Switch the mode; what is frozen stays without dropout."""
        super().train(mode)
        self.item_embedding.train(False)
        self.backbone.train(False)
        return self

    def calculate_loss(self, interaction) -> Tensor:
        """Loss of stage 2, both domains over all their positions (eqs. 11, 12, 15).

        A target's score is the sum of the domain and the global term for the same candidate, so
        the two user vectors are summed before they meet the candidate.
        """
        batch, sequence = interaction, interaction[SEQUENCE]
        chosen = self.choose_masked(sequence)
        with torch.no_grad():
            lookup = self.batch_lookup(batch)
            states = self.states_before_targets(lookup, sequence, self.positions.weight, chosen)
        domain_states, has = self.domain_states(batch, lookup, self.own_positions(), chosen)
        return self.next_item_loss(batch, lookup, states + domain_states, has & chosen[:, 1:])

    def user_vectors(self, interaction) -> list[Tensor]:
        """Global plus domain user vector per domain (eq. 11); the global one without history."""
        vectors = self.item_vectors()

        def lookup(ids):
            return F.embedding(ids, vectors)

        out = []
        positions = self.own_positions()
        for domain, state in enumerate(super().user_vectors(interaction)):
            list_field, length_field = domain_fields(domain)
            lengths = interaction[length_field]
            own = self.last_state(lookup, interaction[list_field], lengths, positions[domain])
            out.append(state + self.adapt(domain, own) * (lengths > 0)[:, None])
        return out


class LLMEDT(LLMEDTFinetune):
    """Both stages in one model: it is ``LLMEDTPretrain`` until :meth:`begin_finetuning`."""

    def __init__(self, config, dataset) -> None:
        self.finetuning = False
        super().__init__(config, dataset)

    def begin_finetuning(self) -> None:
        """Enter stage 2."""
        super().begin_finetuning()
        self.finetuning = True

    @property
    def _stage(self):
        return LLMEDTFinetune if self.finetuning else LLMEDTPretrain

    def train(self, mode: bool = True):
        """Switch the mode as the stage does."""
        return self._stage.train(self, mode)

    def adapt(self, domain: int, states: Tensor) -> Tensor:
        """Apply what the stage applies to a domain's states."""
        return self._stage.adapt(self, domain, states)

    def calculate_loss(self, interaction) -> Tensor:
        """Return the loss of the current stage (eq. 14 or eq. 15)."""
        return self._stage.calculate_loss(self, interaction)

    def user_vectors(self, interaction) -> list[Tensor]:
        """Return the user vectors of the current stage (eq. 8 or eq. 11)."""
        return self._stage.user_vectors(self, interaction)
