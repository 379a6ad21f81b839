"""The least time that an epoch of LLM-EDT's stage 1 can take on this machine.

What the equations need is counted, operation by operation and array by array, and divided by rates
that are measured here: of matrix products at the shapes of the epoch, each alone, by the fastest
implementation available, of exponentials and of GELU, and of passes over arrays of the same sizes.
Where the count leaves a choice it takes the smaller number: attention looks at no pair that it may
not see, an array between two products is passed over once however many steps are taken on it, and
nothing is counted for random numbers, indices, batches or calls.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from time import perf_counter

import torch
import torch.nn.functional as F

from recbole_edt.model.kernels import inner_product, product

FLOAT = 4
"""Bytes of a number."""


@dataclass
class Sizes:
    """What a batch consists of.

    Attributes
    ----------
    lengths : list of int
        Inputs of each window.
    positions : list of int
        Supervised positions of each domain.
    negatives : list of int
        Shared negatives of each domain.
    n_distinct : int
        Distinct items.
    hidden, inner, n_layers : int
        Size of the states, of the feed-forward layer, number of blocks.
    text, bottleneck : int
        Size of the text embeddings and of their adapter; zero without text.
    table : int
        Rows of the id table; zero without ids.
    n_parameters : int
        Numbers that Adam moves.
    """

    lengths: list[int]
    positions: list[int]
    negatives: list[int]
    n_distinct: int
    hidden: int
    inner: int
    n_layers: int
    text: int
    bottleneck: int
    table: int
    n_parameters: int


@dataclass(frozen=True)
class Layer:
    """A linear layer on n rows: products of [n, k] and [m, k], and, backwards, of their gradients.

    Attributes
    ----------
    n, k, m : int
        Rows, size of the inputs, size of the outputs.
    for_inputs : bool
        Whether the inputs need a gradient.
    """

    n: int
    k: int
    m: int
    for_inputs: bool = True

    @property
    def flops(self) -> int:
        """Operations of one of its products."""
        return 2 * self.n * self.k * self.m

    @property
    def n_products(self) -> int:
        """Products forward and backward."""
        return 3 if self.for_inputs else 2


def backbone_layers(sizes: Sizes) -> list[Layer]:
    """Linear layers of all blocks: queries, keys and values; output; the two feed-forward ones."""
    n, d = sum(sizes.lengths), sizes.hidden
    shapes = [(d, 3 * d), (d, d), (d, sizes.inner), (sizes.inner, d)]
    return [Layer(n, k, m) for k, m in shapes] * sizes.n_layers


def adapter_layers(sizes: Sizes) -> list[Layer]:
    """Text adapter: its two matrices folded into one, then the items."""
    if not sizes.text:
        return []
    folding = Layer(sizes.hidden, sizes.bottleneck, sizes.text)
    return [folding, Layer(sizes.n_distinct, sizes.text, sizes.hidden, for_inputs=False)]


def loss_layers(sizes: Sizes) -> list[Layer]:
    """Sampled softmax in each domain: the negatives are a layer's weight."""
    pairs = zip(sizes.positions, sizes.negatives, strict=True)
    return [Layer(n, sizes.hidden, m) for n, m in pairs if n]


def attention_flops(sizes: Sizes) -> int:
    """Two products forward (logits, mixture) and four backward, over the pairs that may be seen."""
    pairs = sum(length * (length + 1) // 2 for length in sizes.lengths)
    return sizes.n_layers * 6 * 2 * pairs * sizes.hidden


def matrix_flops(sizes: Sizes) -> int:
    """Operations of all matrix products of a training step."""
    layers = backbone_layers(sizes) + adapter_layers(sizes) + loss_layers(sizes)
    return attention_flops(sizes) + sum(layer.flops * layer.n_products for layer in layers)


def n_exponentials(sizes: Sizes) -> int:
    """One per logit of the loss; those of attention are few beside them."""
    return sum(n * m for n, m in zip(sizes.positions, sizes.negatives, strict=True))


def n_gelus(sizes: Sizes) -> int:
    """Numbers that pass through GELU, and its derivative backwards: error functions, not bytes."""
    return sizes.n_layers * sum(sizes.lengths) * sizes.inner


def activation_bytes(sizes: Sizes) -> int:
    """Bytes that what stands between the products reads and writes: arrays that fit a cache."""
    states = sum(sizes.lengths) * sizes.hidden
    norms = 2 * sizes.n_layers + 2
    numbers = norms * 5 * states  # forward: in, out; backward: in, gradient in, out
    numbers += sizes.n_layers * 2 * 5 * states  # dropout and sum: in, in, out; gradient in, out
    numbers += 4 * states  # dropout of the inputs: in, out; gradient in, out
    numbers += 4 * states  # looking items up, and adding their gradients: in, out each
    # the one pass over the logits is that of the exponentials, and GELU's its own
    return numbers * FLOAT


def table_bytes(sizes: Sizes) -> int:
    """Bytes that lie in memory alone: text of the items, the id table's gradient, Adam."""
    text = 2 * sizes.n_distinct * sizes.text  # gathered: in, out
    gradient = sizes.table * sizes.hidden  # cleared
    adam = 7 * sizes.n_parameters  # parameter, gradient, two moments in; all but the gradient out
    return (text + gradient + adam) * FLOAT


# -- what this machine can do ---------------------------------------------------------------------


def median_seconds(function: Callable[[], object], n: int = 15) -> float:
    """Median of n calls, after two that do not count."""
    times = []
    for _ in range(n + 2):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return statistics.median(times[2:])


@dataclass
class Rates:
    """Rates measured on this machine.

    Attributes
    ----------
    layers : dict
        (k, m) of a linear layer -> operations a second of its products: forward, gradient of the
        weight, gradient of the inputs; each by the fastest of the libraries.
    attention : float
        Operations a second in the products of single heads, of sequences of middling length.
    exponentials : float
        Numbers a second that are replaced by their exponentials, in a block of logits.
    gelus : float
        Numbers a second that pass through GELU forward and backward, in an epoch's arrays.
    cached, memory : float
        Bytes a second of ``out = a + b`` on arrays of an epoch's states, and of its id table.
    """

    layers: dict[tuple[int, int], list[float]]
    attention: float
    exponentials: float
    gelus: float
    cached: float
    memory: float

    def seconds(self, layers: list[Layer]) -> float:
        """Seconds that layers take forward and backward."""
        return sum(
            layer.flops / rate
            for layer in layers
            for rate in self.layers[layer.k, layer.m][: layer.n_products]
        )


_BLOCK = 512
"""Positions whose logits are computed together: as many as the cache holds."""


def layer_rates(layer: Layer) -> list[float]:
    """Operations a second of a layer's forward product and both gradients."""
    inputs, weight = torch.randn(layer.n, layer.k), torch.randn(layer.m, layer.k)
    grad = torch.randn(layer.n, layer.m)
    ways: list[list[Callable[[], object]]] = [
        [lambda: product(inputs, weight), lambda: inputs @ weight.T],
        [lambda: inner_product(grad, inputs), lambda: grad.T @ inputs],
        [lambda: product(grad, weight.T), lambda: grad @ weight],
    ]
    return [layer.flops / min(map(median_seconds, way)) for way in ways]


def attention_rate(sizes: Sizes, n_heads: int) -> float:
    """Operations a second of ``query @ key.T``, in sequences as long as an average step's own."""
    n = sum(sizes.lengths)
    length = max(round(sum(length**2 for length in sizes.lengths) / n), 1)
    batch, size = max(n // length, 1) * n_heads, sizes.hidden // n_heads
    query, key = torch.randn(batch, length, size), torch.randn(batch, size, length)
    return 2 * batch * length**2 * size / median_seconds(lambda: query @ key)


def measure_rates(sizes: Sizes, n_heads: int) -> Rates:
    """Measure rates at the shapes of a batch."""
    n, d = max(sum(sizes.lengths) // 64 * 64, 64), sizes.hidden
    layers = {}
    for layer in backbone_layers(sizes) + adapter_layers(sizes):
        rows = max(layer.n // 64 * 64, 64)
        layers[layer.k, layer.m] = Layer(rows, layer.k, layer.m)
    for layer in loss_layers(sizes):
        layers[layer.k, layer.m] = Layer(_BLOCK, layer.k, layer.m)
    logits = -torch.rand(_BLOCK, max(sizes.negatives))
    out = torch.empty_like(logits)
    seconds = median_seconds(lambda: torch.exp(logits, out=out))
    return Rates(
        {shape: layer_rates(layer) for shape, layer in layers.items()},
        attention_rate(sizes, n_heads),
        logits.numel() / seconds,
        gelu_rate(n * sizes.inner),
        add_rate(n * d),
        add_rate(max(sizes.table, 1 << 15) * d),
    )


def gelu_rate(size: int) -> float:
    """Numbers a second through GELU and, backwards, its derivative."""
    inputs, grad = torch.randn(size), torch.randn(size)
    forward = median_seconds(lambda: F.gelu(inputs))
    backward = median_seconds(lambda: torch.ops.aten.gelu_backward(grad, inputs))
    return size / (forward + backward)


def add_rate(size: int) -> float:
    """Bytes a second of ``out = a + b`` on arrays of a size."""
    first, second, out = torch.randn(size), torch.randn(size), torch.empty(size)
    return 3 * FLOAT * size / median_seconds(lambda: torch.add(first, second, out=out))


# -- an epoch -------------------------------------------------------------------------------------


def sizes_of_batch(network, batch) -> Sizes:
    """Count what a batch of a SequenceLoader gives stage 1 over mixed sequences to do."""
    sequence = batch["sequence"]
    targets = sequence[:, 1:]
    shared = [batch[f"negatives_{domain}"] for domain in range(network.n_domains)]
    domains = network.item_domain[targets]
    embedding, block = network.item_embedding, network.encoder.backbone.layers[0]
    adapter, table = embedding.adapter, embedding.table
    return Sizes(
        lengths=(sequence[:, :-1] > 0).logical_and(targets > 0).sum(1).tolist(),
        positions=[int((domains == d).sum()) for d in range(network.n_domains)],
        negatives=[len(items) for items in shared],
        n_distinct=len(torch.unique(torch.cat([sequence.reshape(-1), *shared]))),
        hidden=block.qkv.in_features,
        inner=block.inner.out_features,
        n_layers=len(network.encoder.backbone.layers),
        text=0 if adapter is None else adapter.inner.in_features,
        bottleneck=0 if adapter is None else adapter.inner.out_features,
        table=0 if table is None else table.num_embeddings,
        n_parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
    )


@dataclass
class Floor:
    """Seconds that an epoch takes at least, by what they go to."""

    backbone: float = 0.0
    attention: float = 0.0
    adapter: float = 0.0
    loss: float = 0.0
    exponentials: float = 0.0
    gelus: float = 0.0
    activations: float = 0.0
    tables: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))


def floor_of_epoch(batches: Iterable[Sizes], rates: Rates) -> Floor:
    """Add the counts of an epoch's batches up, at the measured rates."""
    floor = Floor()
    for sizes in batches:
        floor.backbone += rates.seconds(backbone_layers(sizes))
        floor.attention += attention_flops(sizes) / rates.attention
        floor.adapter += rates.seconds(adapter_layers(sizes))
        floor.loss += rates.seconds(loss_layers(sizes))
        floor.exponentials += n_exponentials(sizes) / rates.exponentials
        floor.gelus += n_gelus(sizes) / rates.gelus
        floor.activations += activation_bytes(sizes) / rates.cached
        floor.tables += table_bytes(sizes) / rates.memory
    return floor
