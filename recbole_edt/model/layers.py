"""Parts that the models share: adapters, the item embedding and the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.model.kernels import (
    inner_product,
    linear,
    look_up,
    look_up_each,
    product,
    rounded_rows,
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


class Standardising:
    """Centres text embeddings and gives their entries unit root mean square.

    Sentence vectors share one large common part and have entries far below one, which Adam's
    steps of fixed size follow slowly. The outcome depends on which items are fitted: it belongs to
    one dataset.

    Parameters
    ----------
    text : Tensor or MappedText
        float32 [n_items, d_L]; row 0 is padding.
    fitted : Tensor
        bool [n_items]; rows that centre and spread are taken from.

    Attributes
    ----------
    spread : Tensor
        Scalar; the root mean square before. Zero if fitted rows are all alike: nothing is scaled.
    """

    def __init__(self, text: Tensor | MappedText, fitted: Tensor) -> None:
        self.centre = mean_row(text, fitted)
        square = torch.zeros((), device=self.centre.device)
        for part, rows in row_blocks(text):
            square += (rows[fitted[part]] - self.centre).square().sum()
        self.spread = (square / fitted.sum() / text.shape[1]).sqrt()

    def __call__(self, rows: Tensor) -> Tensor:
        """Change rows [n, d_L]."""
        rows = rows - self.centre
        return rows / self.spread if self.spread > 0 else rows


class Whitening:
    """Turns text embeddings into the coordinates of their principal axes, all of one spread.

    Sentence vectors share one large common part and a few axes along which all of them differ.
    Without these, items are told apart by what is particular to them: a sum over a user's history
    then ranks the whole of a domain better than a trained model that starts from text as it is.

    Parameters
    ----------
    text : Tensor or MappedText
        float32 [n_items, d_L]; row 0 is padding.
    fitted : Tensor
        bool [n_items]; rows that centre and axes are taken from.
    size : int
        How many leading axes a row's length is measured by.

    Attributes
    ----------
    spread : Tensor
        Scalar; root mean square of the centred entries. Zero if fitted rows are all alike.
    """

    def __init__(self, text: Tensor | MappedText, fitted: Tensor, size: int) -> None:
        self.size = size
        self.centre = mean_row(text, fitted)
        products = inner_products(text, fitted, self.centre)
        axes = principal_directions(products)  # [d_L, d_L]
        spreads = ((axes * (products @ axes)).sum(0).clamp(min=0) / fitted.sum()).sqrt()
        self.spread = spreads.square().mean().sqrt()
        # an axis along which nothing varies says nothing: it is not blown up
        self.map = axes / spreads.clamp(min=_LEAST_SPREAD * float(self.spread) or 1.0)

    def __call__(self, rows: Tensor) -> Tensor:
        """Change rows [n, d_L]; what they have on the leading axes gets one length."""
        rows = (rows - self.centre) @ self.map
        length = torch.linalg.vector_norm(rows[:, : self.size], dim=1, keepdim=True)
        return rows / length.clamp(min=1e-6) * (self.size**0.5 / _TEXT_DIVISOR)


class MappedText:
    """Rows of a text table that stays in its file, as they are asked for.

    Parameters
    ----------
    table : EmbeddingTable
        The text.
    change : callable, optional
        What is done to rows [n, d_L] but those of padding: :class:`Standardising`,
        :class:`Whitening`.
    """

    def __init__(
        self, table: EmbeddingTable, change: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.table, self.change = table, change
        self.shape = table.shape

    def __call__(self, ids: Tensor) -> Tensor:
        """Rows of ids [...], on their device: float32 [..., d_L]."""
        flat = ids.reshape(-1).cpu()
        rows = self._changed(torch.from_numpy(self.table[flat.numpy()]), flat > 0)
        return rows.to(ids.device).view(*ids.shape, -1)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, a block of ids at a time."""
        for part, rows in self.table.blocks():
            real = torch.arange(part.start, part.stop) > 0
            yield part, self._changed(torch.from_numpy(rows), real)

    def _changed(self, rows: Tensor, real: Tensor) -> Tensor:
        if self.change is not None:
            rows[real] = self.change(rows[real])
        return rows


def row_blocks(text: Tensor | MappedText) -> Iterator[tuple[slice, Tensor]]:
    """Rows of text [n_items, d_L] with their places: in one piece, or mapped ones in blocks."""
    if isinstance(text, MappedText):
        return text.blocks()
    return iter([(slice(0, len(text)), text)])


_LEAST_SPREAD = 1e-3
"""Axes that vary less, in parts of the mean, are not whitened further."""

_TEXT_DIVISOR = 256.0
_INNER_START = 16.0
"""Adam moves every weight by about the learning rate, however small what it multiplies is: short
text behind large weights lets the adapter learn slowly from its start, which is worth keeping."""

_START_SCALE = 0.25
"""Scale of a principal start; 0.1 ranked whole domains worse (validation, cloth_sport)."""


@torch.no_grad()
def principal_directions(products: Tensor) -> Tensor:
    """Principal directions of centred vectors X, the largest first: columns of [d_L, d_L].

    They are the same on every machine: the largest entry of each is positive.

    Parameters
    ----------
    products : Tensor
        ``X.T @ X`` [d_L, d_L].
    """
    _, directions = torch.linalg.eigh(products.double().cpu())  # smallest first
    directions = directions.flip(1)
    # the sign of a direction is the solver's whim: its largest entry shall be positive
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return (directions * largest.sign()).to(products)


def inner_products(
    text: Tensor | MappedText, fitted: Tensor, centre: Tensor | None = None
) -> Tensor:
    """``X.T @ X`` of the rows X where ``fitted`` holds, after ``centre`` was taken from them."""
    total = torch.zeros(())
    for part, rows in row_blocks(text):
        mine = rows[fitted[part]]
        mine = mine if centre is None else mine - centre
        total = total.to(mine.device) + mine.T @ mine
    return total


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
def start_whitened_(adapter: LinearAdapter) -> None:
    """Let an adapter of whitened text start as the choice of its leading axes.

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


def mean_row(text: Tensor | MappedText, fitted: Tensor) -> Tensor:
    """Mean of the rows of text [n_items, d_L] where ``fitted`` holds: [d_L]."""
    total = torch.zeros(text.shape[1])
    for part, rows in row_blocks(text):
        total = total.to(rows) + rows[fitted[part]].sum(0)
    return total / fitted.sum()


def principal_components(text: Tensor | MappedText, fitted: Tensor, size: int) -> Tensor:
    """Reduce text embeddings to their first principal components (PCA without whitening).

    Parameters
    ----------
    text : Tensor or MappedText
        float32 [n_items, d_L]; row 0 is padding.
    fitted : Tensor
        bool [n_items]; rows that centre and directions are taken from.
    size : int
        How many components; text has no more than d_L of them.

    Returns
    -------
    Tensor
        float32 [n_items, min(size, d_L)]; row 0 is zero.
    """
    centre = mean_row(text, fitted)
    directions = principal_directions(inner_products(text, fitted, centre))[:, :size]
    components = torch.cat([(rows - centre) @ directions for _, rows in row_blocks(text)])
    components[0] = 0
    return components


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
        ``principal`` or ``whitened`` -> scalar; the spread of text that was changed so. It is
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


def text_rows(text: Tensor | MappedText, ids: Tensor) -> Tensor:
    """Rows of ids [...] of a text table, in memory or mapped: [..., d_L]."""
    return text(ids) if isinstance(text, MappedText) else F.embedding(ids, text)


def frozen_text(table: EmbeddingTable) -> Tensor | MappedText:
    """Keep a text table in memory (float32 [n, d_L]) if it is small enough, else in its file."""
    return torch.from_numpy(table.whole()) if table.fits else MappedText(table)


def make_item_embedding(
    kind: str, text_start: str, id_start: str, dataset, hidden_size: int
) -> ItemEmbedding:
    """Embedding of a dataset's items, started as configured.

    What a start takes from the text is fitted to the items that preprocessing did not generate.

    Parameters
    ----------
    kind : {"text", "id", "both"}
        As in :class:`ItemEmbedding`.
    text_start : {"random", "principal", "whitened"}
        ``principal``: text standardised, its adapter started as its PCA. ``whitened``: text
        whitened, its adapter started as its leading axes.
    id_start : {"random", "principal", "whitened"}
        Beside the text (``both``), id vectors start as its PCA, or as the leading axes of whitened
        text; without it they know nothing of it.
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
    components = start_components(id_start, text, raw, hidden_size) if kind == "both" else None
    text, spread = changed_text(text_start, text, raw, hidden_size)
    embedding = ItemEmbedding(kind, n_items, hidden_size, text, {text_start: spread})
    assert embedding.adapter is not None
    if text_start == "principal":
        start_principal_(embedding.adapter, text, raw)
    elif text_start == "whitened":
        start_whitened_(embedding.adapter)
    if components is not None and embedding.table is not None:
        start_unit_(embedding.table.weight, components, raw)
    return embedding


def start_components(
    id_start: str, text: Tensor | MappedText, fitted: Tensor, size: int
) -> Tensor | None:
    """Vectors that ids start as, float32 [n_items, <= size]; None for a random start."""
    if id_start == "principal":
        return principal_components(text, fitted, size)
    if id_start == "whitened":
        whitening = Whitening(text, fitted, size)
        components = torch.cat([whitening(rows)[:, :size] for _, rows in row_blocks(text)])
        components[0] = 0
        return components
    return None


def changed_text(
    text_start: str, text: Tensor | MappedText, fitted: Tensor, size: int
) -> tuple[Tensor | MappedText, Tensor | None]:
    """Standardise or whiten text as its start asks for; return it with its spread before."""
    change: Standardising | Whitening
    if text_start == "whitened":
        change = Whitening(text, fitted, size)
    elif text_start == "principal":
        change = Standardising(text, fitted)
    else:
        return text, None
    if isinstance(text, MappedText):
        return MappedText(text.table, change), change.spread
    text[1:] = change(text[1:])
    return text, change.spread


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
