"""LLM-EDT (KDD '26): global pre-training, then domain fine-tuning of small adapters.

Equation numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recbole_edt import distributed
from recbole_edt.data.dataloader import SEQUENCE, domain_sequence_fields
from recbole_edt.data.dataset import domain_fields
from recbole_edt.errors import CheckpointError
from recbole_edt.model.adapters import LinearAdapter, ResidualAdapter, start_projection_
from recbole_edt.model.base import ProfiledModel
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.frozen import FrozenStates, fingerprint
from recbole_edt.model.item_embedding import make_item_embedding
from recbole_edt.model.packing import PackedStates

_TEXT_SPREADS = {f"item_embedding.{kind}_spread" for kind in ("text", "white", "canonical")}
"""Saved by models of standardised, whitened or canonical text alone."""

_UNUSED_IN_STAGE_2 = ("domain_", "profile_adapter.")
"""Parts that are stage 2's own, or that no score needs any more."""


class LLMEDTPretrain(ProfiledModel):
    """Stage 1: one backbone over the mixed sequence (eqs. 7-9, 13, 14)."""

    splits_batches = True
    properties = "LLMEDT"
    choices = {
        **ProfiledModel.choices,
        "item_embedding": ("text", "id", "both"),
        "text_start": ("random", "principal", "whitened", "canonical"),
        "id_start": ("random", "principal", "whitened", "canonical"),
        "id_updates": ("dense", "lazy"),
        "negative_sampling": ("uniform", "hard"),
        "adapter": ("paper", "residual"),
        "adapter_start": ("zero", "projection"),
        "pretrain_sequences": ("mixed", "all"),
        "finetune_positions": ("frozen", "learned"),
    }

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.all_sequences = config["pretrain_sequences"] == "all"

        size = config["hidden_size"]
        self.item_embedding = make_item_embedding(
            config["item_embedding"], config["text_start"], config["id_start"], dataset, size
        )
        if self.item_embedding.table is not None:
            self.item_embedding.table.sparse = config["id_updates"] == "lazy"
        self.encoder = SequenceEncoder(config, self.max_seq_length)
        self._add_profiles(dataset, size)

    def embed(self, items: Tensor) -> Tensor:
        """Vectors of items (eq. 7), [...] -> [..., d]."""
        return self.item_embedding(items)

    # -- losses ---------------------------------------------------------------------------------

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
        lookup = self.batch_lookup(batch, by_domain=self.all_sequences)
        chosen = self.encoder.choose_targets(sequence)
        states = self.encoder.packed_before_targets(lookup, sequence, chosen, sequence[:, 1:] > 0)
        loss = self.next_item_loss(batch, lookup, states, chosen[:, 1:])
        if self.all_sequences:
            positions = [self.encoder.positions.weight] * self.n_domains
            domain_states, has = self.domain_states(batch, lookup, positions, chosen)
            loss = loss + self.next_item_loss(batch, lookup, domain_states, has & chosen[:, 1:])
        if self.profiles is not None:
            padded = states.padded() if isinstance(states, PackedStates) else states
            loss = loss + self.align_weight * self.profile_alignment(batch, padded)
        return loss

    def domain_states(
        self, batch, lookup, positions: list[Tensor], chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States of each target's own domain sub-sequence before it (eq. 10's h), adapted.

        Returns
        -------
        states : Tensor
            [B, L, d]; zero where the target is the first of its domain.
        has : Tensor
            bool [B, L]; where there is domain history.
        """

        def encode(domain, sequence, masked):
            before = self.encoder.before_targets(lookup, sequence, masked, positions[domain])
            return self.adapt(domain, before)

        return self.states_in_own_domain(batch, encode, None if self.encoder.causal else chosen)

    def adapt(self, domain: int, states: Tensor) -> Tensor:
        """Leave a domain's states as they are: stage 1 has no domain adapters."""
        return states

    # -- inference ------------------------------------------------------------------------------

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with (eq. 8)."""
        sequence, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return [self.encoder.last(self.look_up, sequence, lengths)] * self.n_domains


class LLMEDTFinetune(LLMEDTPretrain):
    """Stage 2: frozen backbone and items, one adapter and own positions per domain (eqs. 10-12).

    What the frozen part says about a loader's targets is computed once (:meth:`loss_over`).
    """

    trainer = "recbole_edt.trainer.stages:FinetuneTrainer"
    stages = (("epochs", "learning_rate"), ("finetune_epochs", "finetune_learning_rate"))

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.learned_positions = config["finetune_positions"] == "learned"
        self.start_adapters = config["adapter_start"] == "projection"
        self.cache_bytes = int(config["finetune_cache"] * 2**20)
        self._frozen: FrozenStates | None = None
        self._frozen_of: tuple | None = None
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
        """Freeze stage 1; start each domain's positions, and its adapter, from what it learned."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.domain_adapters.requires_grad_(True)
        self.domain_positions.requires_grad_(self.learned_positions)
        with torch.no_grad():
            for positions in self.own_positions():
                positions.copy_(self.encoder.positions.weight)
            if self.start_adapters:
                self._start_adapters()

    def _start_adapters(self) -> None:
        """Let adapters as printed leave of a domain's states what its items vary in most."""
        vectors = self.item_vectors()
        for domain, adapter in enumerate(self.domain_adapters):
            if isinstance(adapter, LinearAdapter):
                start_projection_(adapter, vectors, self.item_domain == domain)

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
        if own != theirs and own ^ theirs <= _TEXT_SPREADS:
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
        self.encoder.train(False)
        return self

    def calculate_loss(self, interaction) -> Tensor:
        """Loss of stage 2, both domains over all their positions (eqs. 11, 12, 15).

        A target's score is the sum of the domain and the global term for the same candidate, so
        the two user vectors are summed before they meet the candidate.
        """
        batch, sequence = interaction, interaction[SEQUENCE]
        chosen = self.encoder.choose_targets(sequence)
        with torch.no_grad():
            lookup = self.batch_lookup(batch)
            states = self.encoder.before_targets(lookup, sequence, chosen)
        return self._loss(batch, lookup, states, chosen)

    def _loss(self, batch, lookup, states: Tensor, chosen: Tensor) -> Tensor:
        domain_states, has = self.domain_states(batch, lookup, self.own_positions(), chosen)
        return self.next_item_loss(batch, lookup, states + domain_states, has & chosen[:, 1:])

    def loss_over(self, train_data) -> Callable[..., Tensor]:
        """Loss of stage 2 for batches of one loader: :meth:`calculate_loss`, from frozen states.

        Global states, item vectors and, where ``finetune_positions`` is frozen, domain states are
        computed at the first batch, and anew should the frozen weights change. They are computed
        batch by batch where they would take more than ``finetune_cache``, and for BERT4Rec, which
        hides other targets in each epoch.

        Parameters
        ----------
        train_data : SequenceLoader
            Whose batches the loss is asked for.
        """

        def loss(batch):
            frozen = self._frozen_states(train_data)
            if frozen is None:
                return self.calculate_loss(batch)
            if frozen.domain_states is None:
                chosen = self.encoder.choose_targets(batch[SEQUENCE])
                return self._loss(batch, frozen.lookup, frozen.padded(batch), chosen)
            return self._adapter_loss(batch, frozen)

        return loss

    def _frozen_states(self, loader) -> FrozenStates | None:
        """Return what is known of a loader's targets, or None where it is computed per batch."""
        known = (loader, fingerprint(self))
        if self._frozen_of != known:
            self._frozen = None  # before the next one takes its place in memory
            in_domain = not self.learned_positions
            small = FrozenStates.size(self, loader, in_domain) <= self.cache_bytes
            if self.encoder.causal and small:
                self._frozen = FrozenStates(self, loader, in_domain)
            self._frozen_of = known
        return self._frozen

    def _adapter_loss(self, batch, frozen: FrozenStates) -> Tensor:
        """Eqs. 10-12 where adapters are all that is left to compute."""
        assert frozen.domain_states is not None
        total = self.encoder.positions.weight.new_zeros(())
        n = torch.zeros((), dtype=torch.int64, device=total.device)
        for domain in range(self.n_domains):
            _, place_field = domain_sequence_fields(domain)
            targets = torch.nonzero(batch[place_field] >= 1, as_tuple=True)  # not the first ones
            places = frozen.places(batch, *targets)
            adapted = self.adapt(domain, frozen.domain_states[places])
            states = frozen.states[places] + adapted
            total = total + self.loss_in_domain(batch, frozen.lookup, domain, states, targets)
            n += len(places)
        return total / distributed.all_reduce_sum(n).clamp(min=1)

    def user_vectors(self, interaction) -> list[Tensor]:
        """Global plus domain user vector per domain (eq. 11); the global one without history."""
        out = []
        positions = self.own_positions()
        for domain, state in enumerate(super().user_vectors(interaction)):
            list_field, length_field = domain_fields(domain)
            sequence, lengths = interaction[list_field], interaction[length_field]
            own = self.encoder.last(self.look_up, sequence, lengths, positions[domain])
            out.append(state + self.adapt(domain, own) * (lengths > 0)[:, None])
        return out


class LLMEDT(LLMEDTFinetune):
    """Both stages in one model: it is ``LLMEDTPretrain`` until :meth:`begin_finetuning`."""

    trainer = "recbole_edt.trainer.stages:TwoStageTrainer"

    def __init__(self, config, dataset) -> None:
        self.finetuning = False
        super().__init__(config, dataset)

    def begin_finetuning(self) -> None:
        """Enter stage 2."""
        super().begin_finetuning()
        self.finetuning = True

    def enter_stage(self, stage: int) -> None:
        """Become ``LLMEDTPretrain`` (1) or ``LLMEDTFinetune`` (2)."""
        if stage == 2 and not self.finetuning:
            self.begin_finetuning()

    @property
    def _stage(self):
        return LLMEDTFinetune if self.finetuning else LLMEDTPretrain

    def train(self, mode: bool = True):
        """Switch the mode as the stage does."""
        return self._stage.train(self, mode)

    def adapt(self, domain: int, states: Tensor) -> Tensor:
        """Apply what the stage applies to a domain's states."""
        return self._stage.adapt(self, domain, states)

    def loss_over(self, train_data) -> Callable[..., Tensor]:
        """Return the loss of the current stage over one loader."""
        return self._stage.loss_over(self, train_data)

    def calculate_loss(self, interaction) -> Tensor:
        """Return the loss of the current stage (eq. 14 or eq. 15)."""
        return self._stage.calculate_loss(self, interaction)

    def user_vectors(self, interaction) -> list[Tensor]:
        """Return the user vectors of the current stage (eq. 8 or eq. 11)."""
        return self._stage.user_vectors(self, interaction)
