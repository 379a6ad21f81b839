"""Parts that the models share: adapters, the item embedding and the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_edt.model.kernels import (
    inner_product,
    linear,
    look_up,
    look_up_each,
    product,
    rounded_rows,
)
from recbole_edt.model.text import (
    ItemPairs,
    MappedText,
    changed_text,
    frozen_text,
    inner_products,
    mean_row,
    principal_components,
    principal_directions,
    start_components,
    text_rows,
)


class LinearAdapter(nn.Module):
    """Two linear layers with nothing between them: ``W1 (W2 e + b2) + b1`` (eqs. 7, 10).

    Being linear, the two layers are one matrix: they are folded into it before they meet the
    data, which changes neither parameters nor gradients.

    Parameters
    ----------
    n_in, n_hidden, n_out : int
        Sizes of input, bottleneck and output.
    zero : bool
        Start as the zero map (``W1`` and both biases zero).
    """

    def __init__(self, n_in: int, n_hidden: int, n_out: int, zero: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(n_in, n_hidden)
        self.outer = nn.Linear(n_hidden, n_out)
        if zero:
            for parameter in (self.inner.bias, self.outer.weight, self.outer.bias):
                nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., n_in] to [..., n_out]."""
        weight = linear(self.outer.weight, self.inner.weight.T)  # [n_out, n_in]
        bias = self.outer.weight @ self.inner.bias + self.outer.bias
        return linear(inputs, weight, bias)


class ResidualAdapter(nn.Module):
    """Bottleneck with activation and residual: ``h + W ReLU(W h)`` (specification, section 8)."""

    def __init__(self, n_in: int, n_hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_in, n_hidden)
        self.outer = nn.Linear(n_hidden, n_in)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., n_in] to [..., n_in]."""
        return inputs + self.outer(torch.relu(self.inner(inputs)))


_INNER_START = 16.0
"""Of whitened and canonical text, which is short: large weights keep Adam near its start."""

_START_SCALE = 0.25
"""Scale of a principal start; 0.1 ranked whole domains worse (validation, cloth_sport)."""


@torch.no_grad()
def start_principal_(adapter: LinearAdapter, text: Tensor | MappedText, fitted: Tensor) -> None:
    """Let an adapter start as the projection onto the principal directions of its inputs.

    Items alike in their text then start alike, more exactly than under a random projection.

    Parameters
    ----------
    adapter : LinearAdapter
        [d_L] -> [d]; its weights are overwritten.
    text : Tensor or MappedText
        [n_items, d_L]; centred.
    fitted : Tensor
        bool [n_items]; rows that directions are taken from.
    """
    directions = principal_directions(inner_products(text, fitted))
    nn.init.zeros_(adapter.inner.bias)
    nn.init.zeros_(adapter.outer.bias)
    adapter.inner.weight.copy_(directions[:, : adapter.inner.out_features].T)
    nn.init.eye_(adapter.outer.weight).mul_(_START_SCALE)


@torch.no_grad()
def start_leading_(adapter: LinearAdapter) -> None:
    """Let an adapter of whitened or canonical text start as the choice of its leading axes.

    Parameters
    ----------
    adapter : LinearAdapter
        [d_L] -> [d]; its weights are overwritten.
    """
    nn.init.zeros_(adapter.inner.bias)
    nn.init.zeros_(adapter.outer.bias)
    nn.init.eye_(adapter.inner.weight).mul_(_INNER_START)
    nn.init.eye_(adapter.outer.weight)


@torch.no_grad()
def start_projection_(adapter: LinearAdapter, vectors: Tensor, fitted: Tensor) -> None:
    """Let a bottleneck of equal ends start as the projection onto the leading axes of vectors.

    Of all maps through so narrow a bottleneck, it changes the products with those vectors least.

    Parameters
    ----------
    adapter : LinearAdapter
        [d] -> [d]; its weights are overwritten.
    vectors : Tensor
        [n, d].
    fitted : Tensor
        bool [n]; rows that axes are taken from. If there are none, the adapter stays as it is.
    """
    if not fitted.any():
        return
    products = inner_products(vectors, fitted, mean_row(vectors, fitted))
    axes = principal_directions(products)[:, : adapter.inner.out_features]
    for parameter in (adapter.inner.bias, adapter.outer.weight, adapter.outer.bias):
        nn.init.zeros_(parameter)
    width = axes.shape[1]  # of a bottleneck wider than its ends, the rest starts as the zero map
    adapter.inner.weight[:width] = axes.T
    adapter.outer.weight[:, :width] = axes


@torch.no_grad()
def start_reduced_(table: Tensor, text: Tensor | MappedText, items: Tensor, fitted: Tensor) -> None:
    """Let the id vectors of some items start as their text, reduced by PCA.

    The reduced vectors are scaled to the root mean square that the id vectors had.

    Parameters
    ----------
    table : Tensor
        float32 [n_items, d]; rows ``items`` are overwritten, in as many of their entries as there
        are directions of the text.
    text : Tensor
        float32 [n_items, d_L].
    items, fitted : Tensor
        bool [n_items]; whose vectors start so, and whose text says what its directions are.
    """
    components = principal_components(text, fitted, table.shape[1])
    spread = components[fitted].square().mean().sqrt()
    if not spread > 0:  # no text, or all alike
        return
    scale = table[items].square().mean().sqrt() / spread
    columns = torch.arange(components.shape[1], device=table.device)
    table[torch.nonzero(items), columns] = components[items] * scale


@torch.no_grad()
def start_unit_(table: Tensor, components: Tensor, fitted: Tensor) -> None:
    """Let id vectors start as reduced text whose vectors have, in root mean square, length one.

    Parameters
    ----------
    table : Tensor
        float32 [n_items, d]; overwritten in as many columns as there are components.
    components : Tensor
        float32 [n_items, <= d]; row 0 (padding) is zero.
    fitted : Tensor
        bool [n_items]; rows that the length is taken from. If they are all zero, nothing is done.
    """
    length = components[fitted].square().sum(1).mean().sqrt()
    if length > 0:
        table[:, : components.shape[1]] = components / length


class ItemEmbedding(nn.Module):
    """Vectors of items: from their frozen text embedding (eq. 7), from their id, or the sum.

    Parameters
    ----------
    kind : {"text", "id", "both"}
        ``text`` is the paper.
    n_items, hidden_size : int
        Size of the table and of its vectors.
    text : Tensor or MappedText, optional
        float32 [n_items, d_L]; frozen text embeddings, row 0 zero. Needed unless ``kind`` is id.
    spreads : mapping, optional
        ``principal``, ``whitened``, ``canonical`` -> scalar; the spread of text changed so. It is
        saved, so that the weights of one kind of text do not fit a model of another.
    """

    def __init__(
        self,
        kind: str,
        n_items: int,
        hidden_size: int,
        text: Tensor | MappedText | None,
        spreads: Mapping[str, Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        spreads = spreads or {}
        self.text: Tensor | MappedText | None
        if isinstance(text, MappedText):
            self.text = text  # no buffer: it stays where its file is
        else:
            self.register_buffer("text", text, persistent=False)
        self.register_buffer("text_spread", spreads.get("principal"))
        self.register_buffer("white_spread", spreads.get("whitened"))
        self.register_buffer("canonical_spread", spreads.get("canonical"))
        self.adapter = None
        if text is not None:
            self.adapter = LinearAdapter(text.shape[1], text.shape[1] // 2, hidden_size)
        self.table = None
        if kind != "text":
            self.table = nn.Embedding(n_items, hidden_size)
            nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """Embed item ids of any shape [...] into [..., hidden_size]."""
        parts: list[Tensor] = []
        if self.adapter is not None and self.text is not None:
            parts.append(self.adapter(text_rows(self.text, items)))
        if self.table is not None:
            parts.append(self.table(items))
        first, *rest = parts
        return sum(rest, start=first)


def make_item_embedding(
    kind: str, text_start: str, id_start: str, dataset, hidden_size: int
) -> ItemEmbedding:
    """Embedding of a dataset's items, started as configured.

    What a start takes from the text is fitted to the items that preprocessing did not generate.

    Parameters
    ----------
    kind : {"text", "id", "both"}
        As in :class:`ItemEmbedding`.
    text_start : {"random", "principal", "whitened", "canonical"}
        ``principal``: text standardised, its adapter started as its PCA. ``whitened``,
        ``canonical``: text in those coordinates, its adapter started as the leading ones.
    id_start : {"random", "principal", "whitened", "canonical"}
        Beside the text (``both``), id vectors start as its PCA, or as the leading whitened or
        canonical coordinates; without it they know nothing of it.
    dataset : CrossDomainDataset
        Where the text embeddings come from.
    hidden_size : int
        Size of the vectors.
    """
    n_items = len(dataset.item_domain)
    if kind == "id":
        return ItemEmbedding(kind, n_items, hidden_size, None)
    text = frozen_text(dataset.item_table())
    raw = torch.from_numpy((dataset.item_domain >= 0) & ~dataset.item_generated)
    pairs = ItemPairs(dataset.train_sequences, dataset.item_domain)
    components = None
    if kind == "both" and id_start != "random":
        components = start_components(id_start, text, raw, hidden_size, pairs)
    text, spread = changed_text(text_start, text, raw, hidden_size, pairs)
    embedding = ItemEmbedding(kind, n_items, hidden_size, text, {text_start: spread})
    assert embedding.adapter is not None
    if text_start == "principal":
        start_principal_(embedding.adapter, text, raw)
    elif text_start != "random":
        start_leading_(embedding.adapter)
    if components is not None and embedding.table is not None:
        start_unit_(embedding.table.weight, components, raw)
    return embedding


class Lookup:
    """Vectors of items that are computed already.

    Parameters
    ----------
    vectors : Tensor
        [n, d].
    slot : Tensor, optional
        int64 [n_items]; row of each item's vector. By default its id.
    """

    def __init__(self, vectors: Tensor, slot: Tensor | None = None) -> None:
        self.vectors, self.slot = vectors, slot

    def _rows(self, items: Tensor) -> Tensor:
        return items if self.slot is None else self.slot[items]

    def __call__(self, items: Tensor) -> Tensor:
        """Look ids [...] up: [..., d]."""
        return look_up(self.vectors, self._rows(items))

    def each(self, *items: Tensor) -> tuple[Tensor, ...]:
        """Look several ids [m] up, [m, d] each; the vectors get one gradient from all of them."""
        return look_up_each(self.vectors, *map(self._rows, items))

    def columns(self, start: int, stop: int) -> Lookup:
        """Lookup of a part of each vector: ids [...] -> [..., stop - start]."""
        return Lookup(self.vectors[:, start:stop], self.slot)


class ItemLookup(Lookup):
    """Vectors of just the items a batch needs, each computed once.

    Parameters
    ----------
    embedding : callable
        Computes them: distinct item ids [n] -> vectors [n, d].
    n_items : int
        Size of the item table.
    *items : Tensor
        All ids the batch will ask for.
    """

    def __init__(self, embedding: Callable[[Tensor], Tensor], n_items: int, *items: Tensor) -> None:
        wanted = torch.zeros(n_items, dtype=torch.bool, device=items[0].device)
        wanted[0] = True  # padding is always asked for
        for ids in items:
            wanted[ids.reshape(-1)] = True
        distinct = torch.nonzero(wanted).squeeze(1)
        # more padding, which is looked up nowhere, makes the products of a size that costs least
        distinct = F.pad(distinct, (0, rounded_rows(len(distinct)) - len(distinct)))
        super().__init__(embedding(distinct), torch.cumsum(wanted, 0) - 1)


def look_up_by(lookup: Callable[[Tensor], Tensor], *items: Tensor) -> tuple[Tensor, ...]:
    """Vectors of several ids [m] by any lookup: [m, d] each."""
    if isinstance(lookup, Lookup):
        return lookup.each(*items)
    return lookup(torch.cat(items)).split([len(ids) for ids in items])


def bpr_loss(states: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Sum of ``-log sigmoid(positive's - negative's score)`` over positions (eqs. 9, 12).

    Parameters
    ----------
    states, positives, negatives : Tensor
        [n, d]; scores are products with ``states``.

    Returns
    -------
    Tensor
        Scalar.
    """
    return -F.logsigmoid((states * (positives - negatives)).sum(-1)).sum()


@torch.no_grad()
def hard_negatives(
    states: Tensor, pool: Tensor, owned: Tensor, owners: Tensor, temperature: float
) -> Tensor:
    """Draw one negative per position from a shared pool, as ``softmax(score / temperature)``.

    Nearly all of a domain is scored low: a negative drawn uniformly says little about the order of
    what is scored high, which is what is looked at. The distribution follows the model, as in
    dynamic negative sampling.

    Parameters
    ----------
    states : Tensor
        [n, d].
    pool : Tensor
        [m, d]; vectors of the shared negatives.
    owned : Tensor
        bool [B, m]; negatives that a user of the batch has, which are not drawn.
    owners : Tensor
        int64 [n]; whose position it is, a row of ``owned``.
    temperature : float
        Above zero; the smaller, the harder.

    Returns
    -------
    Tensor
        int64 [n]; rows of ``pool``. A user who owns the whole pool gets its last row.
    """
    drawn = torch.empty(len(states), dtype=torch.int64, device=states.device)
    others = pool.float() / temperature
    for start in range(0, len(states), _HARD_ROWS):
        block = slice(start, start + _HARD_ROWS)
        scores = product(states[block].float().contiguous(), others)
        scores.masked_fill_(owned[owners[block]], -torch.inf)
        weights = scores.sub_(scores.amax(1, keepdim=True)).exp_().nan_to_num_(0.0)
        edges = weights.cumsum_(1)
        share = torch.rand(len(edges), 1, device=edges.device) * edges[:, -1:]
        drawn[block] = torch.searchsorted(edges, share, right=True).squeeze(1)
    return drawn.clamp_(max=len(pool) - 1)


_HARD_ROWS = 512
"""Positions whose negatives are drawn at a time."""

_ROWS = {"cpu": 512}
"""Positions whose logits exist at a time; elsewhere than on a CPU, as many as fit (8192)."""


def _filled_up(state: Tensor) -> Tensor:
    """Append rows of zeros, whose products are of a size that costs least, and weigh nothing."""
    if state.device.type != "cpu" or len(state) == rounded_rows(len(state)):
        return state
    return F.pad(state, (0, 0, 0, rounded_rows(len(state)) - len(state)))


def _nonzero_of_few(mask: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.nonzero`` of a mask [B, m] that holds hardly anywhere: eight entries at a glance."""
    if mask.shape[1] % 8 or not mask.is_contiguous():
        row, column = torch.nonzero(mask, as_tuple=True)
        return row, column
    words = mask.view(torch.int64)  # [B, m / 8]
    row, word = torch.nonzero(words, as_tuple=True)
    which, place = torch.nonzero(words[row, word, None].view(torch.bool), as_tuple=True)
    return row[which], word[which] * 8 + place


def _masked_places(owned: Tensor, owners: Tensor, rows: int) -> Iterator[Tensor]:
    """Yield the places of owned negatives among the flattened logits of each block of positions.

    They are few: they are found once, instead of a mask of all logits being laid over them.
    """
    n = owned.shape[1]
    owner, negative = _nonzero_of_few(owned)
    counts = torch.bincount(owner, minlength=len(owned))
    of_position = counts[owners]
    ends = of_position.cumsum(0)
    position = torch.repeat_interleave(of_position)  # [total], ascending
    first = (counts.cumsum(0) - counts)[owners[position]]
    step = torch.arange(len(position), device=owned.device) - (ends - of_position)[position]
    places = position % rows * n + negative[first + step]
    stops = [0, *ends[rows - 1 :: rows].tolist(), len(places)]
    return (places[start:stop] for start, stop in pairwise(stops))


class _SoftmaxLoss(torch.autograd.Function):
    """Loss and gradients of the sampled softmax, a block of positions at a time.

    The logits of a block stay in the processor's cache: they are turned into probabilities and
    those into gradients before the next block is touched, and none are kept for the backward pass.
    The three matrix products run in ``dtype``, everything else in float32.
    """

    @staticmethod
    def forward(ctx, states, positives, negatives, owned, owners, dtype):
        others = negatives.to(dtype)
        rows = _ROWS.get(states.device.type, 8192)
        grad_states = torch.empty_like(states)
        grad_others = None  # [d, m]; frozen items need no gradients: that saves the third product
        if ctx.needs_input_grad[2]:
            grad_others = torch.zeros_like(others.T, dtype=torch.float32).contiguous()
        scores = (states * positives).sum(-1, keepdim=True)  # [n, 1]
        highest, whole = torch.empty_like(scores), torch.empty_like(scores)
        masked = _masked_places(owned, owners, rows)
        for start in range(0, len(states), rows):
            block = slice(start, start + rows)
            state, score, most, sum_of_all = (
                of_all[block] for of_all in (states, scores, highest, whole)
            )
            lowered = _filled_up(state).to(dtype)
            logits = product(lowered, others).float()
            logits.view(-1).index_fill_(0, next(masked), -torch.inf)
            weights = logits[: len(state)]
            torch.maximum(weights.amax(1, keepdim=True), score, out=most)
            weights.sub_(most).exp_()  # over their sum: the negatives' probabilities
            torch.add(weights.sum(1, keepdim=True), (score - most).exp_(), out=sum_of_all)
            filled_up = logits.to(dtype)
            # what has d columns is divided by the sum, in place of the logits with their m
            of_negatives = product(filled_up, others.T)[: len(state)].float()
            torch.div(of_negatives, sum_of_all, out=grad_states[block])
            if grad_others is not None:
                lowered = _filled_up(state / sum_of_all).to(dtype)
                grad_others += inner_product(lowered, filled_up)
        excess = (scores - highest).exp_().div_(whole).sub_(1.0)  # positive's probability, minus 1
        grad_states.addcmul_(excess, positives)
        grad_positives = excess * states if ctx.needs_input_grad[1] else None
        grad_negatives = None if grad_others is None else grad_others.T
        ctx.save_for_backward(grad_states, grad_positives, grad_negatives)
        return (whole.log_().add_(highest).sub_(scores)).sum()

    @staticmethod
    def backward(ctx, grad):
        grads = (None if saved is None else grad * saved for saved in ctx.saved_tensors)
        return *grads, None, None, None


def softmax_loss(
    states: Tensor, positives: Tensor, negatives: Tensor, owned: Tensor, owners: Tensor
) -> Tensor:
    """Sampled softmax over each positive and the shared negatives of its domain, summed.

    It is the full softmax over the domain when all of its items are drawn.

    Parameters
    ----------
    states, positives : Tensor
        [n, d]; user states and the vectors of their targets.
    negatives : Tensor
        [m, d]; vectors of the shared negatives.
    owned : Tensor
        bool [B, m]; negatives that a user of the batch has, which do not count.
    owners : Tensor
        int64 [n]; whose position it is, a row of ``owned``.

    Returns
    -------
    Tensor
        Scalar; the sum over positions of ``-log p(positive)``.
    """
    device = states.device.type
    lowered = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if lowered else torch.float32
    with torch.autocast(device_type=device, enabled=False):
        return _SoftmaxLoss.apply(
            states.float(), positives.float(), negatives.float(), owned, owners, dtype
        )


def alignment_loss(users: Tensor, profiles: Tensor, temperature: float, infonce: bool) -> Tensor:
    """Contrastive alignment of user vectors and profiles, both directions summed (eq. 13).

    Parameters
    ----------
    users, profiles : Tensor
        [n, d]; row i of both belongs to the same user.
    temperature : float
        The paper's tau.
    infonce : bool
        Whether the positive stands in the denominator too; as printed it does not.

    Returns
    -------
    Tensor
        Scalar; zero for fewer than two users, who have no negatives.
    """
    if len(users) < 2:
        return users.sum() * 0.0
    cosine = F.normalize(users.float(), dim=-1) @ F.normalize(profiles.float(), dim=-1).T
    logits = cosine / temperature
    positives = logits.diagonal()
    if not infonce:
        itself = torch.eye(len(users), dtype=torch.bool, device=users.device)
        logits = logits.masked_fill(itself, -torch.inf)
    one_side = torch.logsumexp(logits, dim=1) - positives
    other_side = torch.logsumexp(logits, dim=0) - positives
    return one_side.mean() + other_side.mean()
