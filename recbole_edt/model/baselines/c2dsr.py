"""C2DSR (Cao et al., CIKM '22): single- and cross-domain states, tied by an infomax objective.

Parts of the paper:

- graph encoder over directed item transitions: :class:`ItemGraph`;
- attentive encoders: ``encoder`` (mixed sequence), ``domain_encoders`` (sub-sequences);
- sequential training objectives, single- and cross-domain: :meth:`C2DSR.calculate_loss`;
- contrastive infomax objective: :class:`Discriminator`, :meth:`C2DSR.infomax_loss`.

Departures:

- The encoders are the plugin's pre-norm blocks, always causal; they normalise item vectors, which
  are therefore not scaled by the root of d.
- A single-domain target is predicted from the cross-domain state directly before it, in training
  as in evaluation. The authors train with the state at the domain's previous item.
- Edges are binary, as printed; the authors' code counts repeated transitions.
- With ``graph_edges: others`` the graphs of a training batch have no edge that only users of the
  batch made. With all edges (paper) the vector of an item holds the very target that follows it
  in training, and never in evaluation.
- With ``output_vectors: graphs`` a state is multiplied with the item vectors of its own graph.
- Every position is a target (authors' code: the last ten); losses are means, not sums. A target
  without history in its domain counts in the cross-domain objective alone, a user without both
  domains in no infomax term; the authors' code drops the whole sequence.
- Predictions are softmaxes over the target's own domain, without a padding class or a bias.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recbole_edt.data.dataloader import SEQUENCE
from recbole_edt.data.sequences import Sequences
from recbole_edt.model.base import CrossDomainModel, add_constants
from recbole_edt.model.baselines.settings import BaselineSettings
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.item_embedding import id_table
from recbole_edt.model.lookup import Lookup


class C2DSRSettings(BaselineSettings):
    """Keys of C2DSR."""

    output_vectors: Literal["own", "graphs"] = Field(
        "graphs",
        description="vectors that score items: own tables, or those of the graphs; paper: own",
    )
    graph_edges: Literal["all", "others"] = Field(
        "others",
        description="edges of item graphs: all, or no batch's own ones; paper: all",
    )
    prediction_share: float = Field(0.7, gt=0, le=1, description="lambda; infomax has the rest")


class ItemGraph(nn.Module):
    """Item vectors, propagated once over directed transitions without weights or activation.

    ``G = mean(E, A E) + E``: the mean over the layers (one, as in the authors' runs), plus the
    vectors themselves, which the paper adds against over-smoothing. Row i of A is the mean over
    the distinct successors of item i; it is zero for an item without any.

    ``node_of`` (int64 [n_items]) is the node of each item, 0 for padding and for items that are no
    node, whose rows are left out.
    """

    edges: Tensor  # int64 [2, n_edges]; from and to
    edge_of: Tensor  # int64 [n_transitions]; their edges
    user_of: Tensor  # int64 [n_transitions]; their users

    def __init__(
        self, size: int, dropout: float, sequences: Sequences, node_of: np.ndarray
    ) -> None:
        super().__init__()
        self.dropout, self.n_users = dropout, sequences.n_users
        self.n_nodes = int(node_of.max()) + 1
        self.table = id_table(self.n_nodes, size)
        rows = sequences.keep(node_of[sequences.items] > 0)
        nodes, users = node_of[rows.items], rows.users
        follows = users[1:] == users[:-1]
        keys = nodes[:-1][follows] * self.n_nodes + nodes[1:][follows]
        distinct, edge_of = np.unique(keys, return_inverse=True)
        edges = np.stack(np.divmod(distinct, self.n_nodes))
        users = users[1:][follows]
        add_constants(self, edges=edges, edge_of=edge_of.reshape(-1), user_of=users)

    def propagation(self, without: Tensor | None = None) -> Tensor:
        """Return A, sparse [n_nodes, n_nodes], without the transitions of some users (ids [n])."""
        edge_of = self.edge_of
        if without is not None:
            away = torch.zeros(self.n_users, dtype=torch.bool, device=edge_of.device)
            away[without] = True
            edge_of = edge_of[~away[self.user_of]]
        edges = self.edges[:, torch.bincount(edge_of, minlength=self.edges.shape[1]) > 0]
        successors = torch.bincount(edges[0], minlength=self.n_nodes)
        weights = 1 / successors[edges[0]].to(self.table.weight.dtype)
        size = (self.n_nodes, self.n_nodes)
        return torch.sparse_coo_tensor(
            edges, weights, size, is_coalesced=True, check_invariants=False
        )

    def forward(self, without: Tensor | None = None) -> Tensor:
        """Return the vectors of all nodes, [n_nodes, d]; ``without`` as in :meth:`propagation`."""
        vectors = self.table.weight
        with torch.autocast(device_type=vectors.device.type, enabled=False):
            dropped = F.dropout(vectors, self.dropout, self.training)
            layer = torch.sparse.mm(self.propagation(without), dropped)
        return (vectors + layer) / 2 + vectors


class Discriminator(nn.Module):
    """Logit that two prototypes belong to the same user: bilinear, with a threshold."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(size, size, 1)
        nn.init.xavier_uniform_(self.bilinear.weight)
        nn.init.zeros_(self.bilinear.bias)

    def forward(self, single: Tensor, cross: Tensor) -> Tensor:
        """Judge prototypes [n, d] and [n, d]: [n]."""
        dtype = self.bilinear.weight.dtype
        with torch.autocast(device_type=single.device.type, enabled=False):
            return self.bilinear(single.to(dtype), cross.to(dtype)).squeeze(-1)


def prototypes(states: Tensor, where: Tensor) -> Tensor:
    """Mean of states [B, L, d] over each row's chosen positions (bool [B, L]), else 0: [B, d]."""
    weights = where / where.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,bld->bd", weights.to(states.dtype), states)


class C2DSR(CrossDomainModel):
    """Three item graphs and encoders; predictions from the sum of single- and cross-domain state.

    ``output`` has the vectors that states are multiplied with (the paper's W^X and W^Y, one row
    per item). None if ``output_vectors`` is ``graphs``: each state is then multiplied with the
    vectors of its own graph, and both vectors of an item and of a user are concatenated.
    """

    settings = C2DSRSettings
    node_of: Tensor  # int64 [n_domains, n_items]

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.prediction_share = config["prediction_share"]
        self.all_edges = config["graph_edges"] == "all"
        size, rows = config["hidden_size"], dataset.train_sequences
        inside = [dataset.item_domain == domain for domain in range(self.n_domains)]
        nodes = [np.where(mine, np.cumsum(mine), 0) for mine in inside]
        add_constants(self, node_of=np.stack(nodes))
        everything = np.arange(self.n_items)
        self.mixed_graph, *domain_graphs = (
            ItemGraph(size, config["dropout"], rows, node_of) for node_of in (everything, *nodes)
        )
        self.domain_graphs = nn.ModuleList(domain_graphs)
        self.encoder = SequenceEncoder(config, self.max_seq_length)
        self.domain_encoders = self.encoder_per_domain(config)
        self.output = None
        if config["output_vectors"] == "own":
            self.output = id_table(self.n_items, size)
        self.discriminators = None
        if self.prediction_share < 1:
            self.discriminators = nn.ModuleList(Discriminator(size) for _ in nodes)

    def embed(self, items: Tensor) -> Tensor:
        """Vectors that user vectors are multiplied with: [..., d], or [..., 2 d] of graphs."""
        if self.output is not None:
            return self.output(items)
        return self.views(items, *self.inputs())

    def inputs(self, without: Tensor | None = None) -> tuple[Lookup, list[Lookup]]:
        """Look-ups of the vectors that the mixed and each domain's sequences are encoded from.

        Transitions of the users ``without`` (ids [n]) are left out of the graphs.
        """
        vectors = self.mixed_graph(without)
        domains = zip(self.domain_graphs, self.node_of, strict=True)
        return Lookup(vectors), [Lookup(graph(without), nodes) for graph, nodes in domains]

    def views(self, items: Tensor, mixed: Lookup, domains: list[Lookup]) -> Tensor:
        """Vectors of items in the mixed graph and in their own domain's, side by side."""
        first, second = (lookup(items) for lookup in domains)
        own = torch.where((self.item_domain[items] == 0)[..., None], first, second)
        return torch.cat([mixed(items), own], dim=-1)

    def both(self, cross: Tensor, single: Tensor) -> Tensor:
        """User vectors whose scores are the sum of the cross- and the single-domain state's."""
        return cross + single if self.output is not None else torch.cat([cross, single], dim=-1)

    # -- losses ---------------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """Both sequential objectives and the infomax objective, over all positions of a batch.

        ``lambda (single + cross) + (1 - lambda) infomax``; lambda is ``prediction_share``.
        """
        batch, sequence = interaction, interaction[SEQUENCE]
        mixed, domains = self.inputs(None if self.all_edges else batch[self.USER_ID])
        target_mask = self.encoder.choose_targets(sequence)
        cross = self.encoder.before_targets(mixed, sequence, target_mask)
        single, has_history = self.domain_states(batch, self.domain_encoders, domains)
        outputs = self.output or (lambda items: self.views(items, mixed, domains))
        loss = self.next_item_loss(batch, self.output or mixed, cross, target_mask[:, 1:])
        loss = loss + self.next_item_loss(batch, outputs, self.both(cross, single), has_history)
        loss = self.prediction_share * loss
        if self.discriminators is not None:
            infomax = self.infomax_loss(sequence, mixed, cross, single, has_history)
            loss = loss + (1 - self.prediction_share) * infomax
        return loss

    def infomax_loss(
        self, sequence: Tensor, inputs: Lookup, cross: Tensor, single: Tensor, has_history: Tensor
    ) -> Tensor:
        """Contrastive infomax objective of both domains, summed.

        A domain's single-domain prototype shall tell the user's cross-domain prototype from that
        of a corrupted sequence, in which items of the domain are replaced by random ones of it:
        ``-log D(z, c) - log(1 - D(z, corrupted c))``, averaged over the users who have both.
        Cross-domain prototypes are taken at the other domain's items: there, their knowledge of
        the domain comes from the mixed sequence.

        ``sequence`` [B, L + 1] is encoded from the vectors ``inputs``; ``cross`` and ``single``
        [B, L, d] are the states before each target, of the mixed and of the target's own sequence;
        ``has_history`` (bool [B, L]) tells where ``single`` has domain history.
        """
        assert self.discriminators is not None
        domain_of = self.item_domain[sequence]
        total = cross.new_zeros(())
        for domain, discriminator in enumerate(self.discriminators):
            own = has_history & (domain_of[:, 1:] == domain)
            other = (domain_of[:, :-1] == 1 - domain) & (sequence[:, 1:] > 0)
            users = own.any(1) & other.any(1)
            if not users.any():
                continue
            corrupted = self.corrupted(sequence[users], domain)
            false = self.encoder.before_targets(inputs, corrupted, torch.zeros_like(corrupted))
            prototype, other = prototypes(single[users], own[users]), other[users]
            real_logits = discriminator(prototype, prototypes(cross[users], other))
            false_logits = discriminator(prototype, prototypes(false, other))
            total = total - F.logsigmoid(real_logits).mean() - F.logsigmoid(-false_logits).mean()
        return total

    def corrupted(self, sequence: Tensor, domain: int) -> Tensor:
        """Replace a domain's items [B, L + 1] by random items of the domain."""
        pool = torch.nonzero(self.item_domain == domain).squeeze(1)
        drawn = pool[torch.randint(len(pool), sequence.shape, device=pool.device)]
        return torch.where(self.item_domain[sequence] == domain, drawn, sequence)

    # -- inference ------------------------------------------------------------------------------

    def user_vectors(self, interaction) -> list[Tensor]:
        """Cross- and single-domain state per domain, [B, d] or [B, 2 d].

        The single-domain part is zero without history in the domain.
        """
        mixed, domains = self.inputs()
        cross = self.mixed_state(interaction, mixed)
        single = self.last_domain_states(interaction, self.domain_encoders, domains)
        return [self.both(cross, state) for state in single]
