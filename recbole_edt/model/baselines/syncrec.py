"""SyNCRec (SIGIR '24): single- and cross-domain recommendation that learn beside each other.

Park et al., "Pacer and Runner: Cooperative Learning Framework between Single- and Cross-Domain
Sequential Recommendation". The task SDSR sees one domain's sub-sequence, CDSR the mixed sequence.
Parts of the paper:

* shared embedding layer: ``item_embedding`` and ``positions``;
* ACMoE, the asymmetric cooperative network: ``experts``, :class:`Gate`, :class:`Tower` (one per
  task), :meth:`SyNCRec.run_task` (with the stop-gradient);
* LC-NTG, loss correction with the negative transfer gap: :meth:`SyNCRec.relative_gaps`,
  :meth:`SyNCRec.prediction_losses`;
* SC-MIM, mutual information between both tasks per domain: :func:`mutual_information_loss`,
  :meth:`SyNCRec.mutual_information`;
* total loss: :meth:`SyNCRec.calculate_loss`; inference by CDSR: :meth:`SyNCRec.user_vectors`.

Departures:

* A gate weighs the experts step by step, from the mean of the inputs up to the step. The paper's
  gate reads the whole sequence at once, so that states know later items.
* Each expert has separate weights, and gates are soft, without noise. In the authors' code all
  experts are one module, and a fixed ratio splits a gate's weight between the two kinds.
* The gap compares the two losses of the same targets. CDSR alone predicts the first target of a
  domain (the paper starts a sub-sequence with a token). Losses are means over positions, not sums,
  so that the softmax over the gaps does not depend on the batch size.
* The update of the gap (alpha, beta) is fixed. Learned from the loss that it weighs, it would
  prefer the domain with easier targets; in the authors' code no gradient reaches it either.
* Negatives of SC-MIM are the last SDSR states of other users.
* The authors' embedding of an item's domain is left out: the item's vector contains it.
* ``loss: bpr`` is the pairwise form of the paper's binary cross-entropy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recbole_edt.data.dataloader import SEQUENCE
from recbole_edt.model.backbones import make_backbone
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.baselines.settings import BaselineSettings
from recbole_edt.model.encoder import drop_items
from recbole_edt.model.item_embedding import ItemEmbedding, id_table
from recbole_edt.settings import Count, NonNegative, Positive


class SyNCRecSettings(BaselineSettings):
    """Keys of SyNCRec."""

    learning_rate: Positive = Field(0.0005, description="learning rate; authors: 0.001")
    n_cross_experts: Count = Field(2, description="j, experts that learn from CDSR; authors: 4")
    mim_weight: NonNegative = Field(0.1, description="weight of SC-MIM; paper: 1")


class Gate(nn.Module):
    """Weights of the K experts for one task, from the inputs [.., d] up to each step."""

    def __init__(self, size: int, n_experts: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.weigh = nn.Linear(size, n_experts)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map right-padded inputs [B, L, d] to weights [B, L, K] that sum to one."""
        steps = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
        seen = inputs.cumsum(1) / steps[:, None]
        return self.weigh(self.norm(seen)).softmax(-1)


class Tower(nn.Module):
    """Feed-forward head of one task: ``LayerNorm(x + dropout(W GELU(W x)))``."""

    def __init__(self, size: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.inner = nn.Linear(size, inner_size)
        self.outer = nn.Linear(inner_size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, states: Tensor) -> Tensor:
        """Map [..., d] to [..., d]."""
        added = self.outer(F.gelu(self.inner(states)))
        return self.norm(states + F.dropout(added, self.dropout, self.training))


def mutual_information_loss(
    anchors: Tensor, positives: Tensor, negatives: Tensor, same: Tensor
) -> Tensor:
    """Negative of the InfoNCE bound as SC-MIM prints it: the positive is not in the sum.

    ``mean(log sum_j exp sigmoid(a_i . n_j) - sigmoid(a_i . p_i))`` of anchors and positives [n, d]
    and negatives [m, d], without those of the anchor's own user (``same``, bool [n, m]). Anchors
    without a negative are left out; zero if none has one.
    """
    has_any = ~same.all(1)
    if not has_any.any():
        return anchors.sum() * 0.0
    anchors, positives, same = anchors[has_any], positives[has_any], same[has_any]
    against = torch.sigmoid((anchors @ negatives.T).float()).masked_fill(same, -torch.inf)
    matched = torch.sigmoid((anchors * positives).sum(-1).float())
    return (torch.logsumexp(against, dim=1) - matched).mean()


class SyNCRec(CrossDomainModel):
    """CDSR and SDSR of both domains in one network."""

    settings = SyNCRecSettings
    gap_decay, gap_rate = 0.9, 0.1  # alpha and beta of LC-NTG, which the paper does not print
    transfer_gaps: Tensor  # [n_domains]

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        size, self.cross_task = config["hidden_size"], self.n_domains
        n_tasks = self.n_domains + 1
        self.item_dropout, self.mim_weight = config["item_dropout"], config["mim_weight"]
        self.item_embedding = ItemEmbedding("id", self.n_items, size)
        self.positions = id_table(self.max_seq_length + 1, size)
        cross = nn.ModuleList(make_backbone(config) for _ in range(config["n_cross_experts"]))
        single = nn.ModuleList([make_backbone(config)])  # one, as in the authors' code
        self.experts = nn.ModuleDict({"cross": cross, "single": single})
        self.gates = nn.ModuleList(Gate(size, len(cross) + 1) for _ in range(n_tasks))
        self.towers = nn.ModuleList(
            Tower(size, config["inner_size"], config["dropout"]) for _ in range(n_tasks)
        )
        self.discriminators = nn.ModuleList(
            nn.Linear(size, size, bias=False) for _ in range(self.n_domains)
        )
        for discriminator in self.discriminators:
            nn.init.normal_(discriminator.get_parameter("weight"), std=0.02)
        self.register_buffer("transfer_gaps", torch.zeros(self.n_domains))

    def embed(self, items: Tensor) -> Tensor:
        """Vectors of items, [...] -> [..., d]."""
        return self.item_embedding(items)

    # -- ACMoE ----------------------------------------------------------------------------------

    def run_task(self, task: int, lookup, sequence: Tensor) -> Tensor:
        """States [B, L, d] of a task after each item: its tower over the gated sum of the experts.

        ``task`` is a domain (SDSR) or ``cross_task``; ``sequence`` [B, L] is the task's own. The
        gradient stops at the experts of the other task. States on padding are arbitrary.
        """
        vectors = drop_items(lookup(sequence), self.item_dropout if self.training else 0.0)
        positions = self.positions.weight[: sequence.shape[1]]
        weights = self.gates[task](vectors + positions)  # [B, L, K]
        learning = "cross" if task == self.cross_task else "single"
        states = []
        for kind, experts in self.experts.items():
            found = [expert(vectors, positions, sequence > 0) for expert in experts.children()]
            states += found if kind == learning else [state.detach() for state in found]
        weighed = zip(weights.unbind(-1), states, strict=True)
        return self.towers[task](sum(weight[..., None] * state for weight, state in weighed))

    # -- losses ---------------------------------------------------------------------------------

    @torch.no_grad()
    def relative_gaps(self, gaps: Tensor) -> Tensor:
        """Update each domain's negative transfer gap and weigh the domains by it (LC-NTG).

        ``phi <- alpha phi + beta gaps``, then ``softmax(phi)``: the less CDSR gains over SDSR in a
        domain, the less the domain counts. ``gaps`` [n_domains] is the loss of SDSR minus that of
        CDSR of the batch. The update is kept in training only.
        """
        updated = self.gap_decay * self.transfer_gaps + self.gap_rate * gaps
        if self.training:
            self.transfer_gaps.copy_(updated)
        return updated.softmax(0)

    def prediction_losses(
        self, batch, lookup, cross: Tensor, single: Tensor, has_history: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Next-item losses of SDSR, and of CDSR corrected by the negative transfer gaps.

        ``cross`` and ``single`` are the states of both tasks [B, L, d], where state t predicts
        ``sequence[:, t + 1]``; ``has_history`` (bool [B, L]) tells where ``single`` has any.
        The loss of SDSR is the mean over the targets with domain history, that of CDSR over all
        targets, those of a domain weighed by n_domains times its relative gap.
        """
        domain_of = self.item_domain[batch[SEQUENCE][:, 1:]]  # -1 on padding
        single_sum, cross_sums, gaps = cross.new_zeros(()), [], []
        for domain in range(self.n_domains):
            paired = has_history & (domain_of == domain)
            alone = ~has_history & (domain_of == domain)
            of_single = self.next_item_loss(batch, lookup, single, paired)
            of_cross = self.next_item_loss(batch, lookup, cross, paired)
            of_rest = self.next_item_loss(batch, lookup, cross, alone)
            gaps.append((of_single - of_cross).detach())
            single_sum = single_sum + of_single * paired.sum()
            cross_sums.append(of_cross * paired.sum() + of_rest * alone.sum())
        weights = self.n_domains * self.relative_gaps(torch.stack(gaps))
        n_targets = (domain_of >= 0).sum().clamp(min=1)
        cross_loss = (weights * torch.stack(cross_sums)).sum() / n_targets
        return single_sum / has_history.sum().clamp(min=1), cross_loss

    def mutual_information(
        self, batch, cross: Tensor, single: Tensor, has_history: Tensor
    ) -> Tensor:
        """SC-MIM, summed over the domains; arguments as of :meth:`prediction_losses`.

        Per domain, the CDSR and the SDSR state of the same target belong together, against the
        last SDSR states of the other users of the batch.
        """
        domain_of = self.item_domain[batch[SEQUENCE][:, 1:]]
        users = batch[self.USER_ID]
        steps = torch.arange(1, has_history.shape[1] + 1, device=has_history.device)
        total = cross.new_zeros(())
        for domain, discriminator in enumerate(self.discriminators):
            paired = has_history & (domain_of == domain)
            final = (paired * steps).amax(1)
            rows = torch.nonzero(final).squeeze(1)
            batch_index = torch.nonzero(paired)[:, 0]
            total = total + mutual_information_loss(
                discriminator(cross[paired]),
                single[paired],
                single[rows, final[rows] - 1],
                users[batch_index][:, None] == users[rows],
            )
        return total

    def calculate_loss(self, interaction) -> Tensor:
        """Loss over all positions of a batch: SDSR, corrected CDSR and SC-MIM."""
        batch = interaction
        lookup = self.batch_lookup(batch)
        cross = self.run_task(self.cross_task, lookup, batch[SEQUENCE][:, :-1])
        single, has_history = self.encode_domains(
            batch, lambda domain, sequence, _: self.run_task(domain, lookup, sequence[:, :-1])
        )
        states = cross, single, has_history
        single_loss, cross_loss = self.prediction_losses(batch, lookup, *states)
        loss = single_loss + cross_loss
        if self.mim_weight:
            loss = loss + self.mim_weight * self.mutual_information(batch, *states)
        return loss

    # -- inference ------------------------------------------------------------------------------

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] of CDSR, after the last item of the mixed sequence."""
        lengths = interaction[self.ITEM_SEQ_LEN]
        sequence = interaction[self.ITEM_SEQ][:, : max(int(lengths.max()), 1)]
        states = self.run_task(self.cross_task, self.item_lookup, sequence)
        rows = torch.arange(len(lengths), device=lengths.device)
        return [states[rows, (lengths - 1).clamp(min=0)]] * self.n_domains
