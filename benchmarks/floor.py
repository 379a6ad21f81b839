"""The least time that an epoch of LLM-EDT's stage 1 can take on this machine.

What the equations need is counted, operation by operation and array by array, and divided by rates
that are measured here: of matrix products at the shapes of the epoch, and of passes over arrays of
the sizes at hand. Where the count leaves a choice it takes the smaller number: attention looks at
no pair that it may not see, an array between two products is passed over once however many steps
are taken on it, and nothing is counted for indices, batches or calls.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from time import perf_counter

import torch

from recbole_edt.model.kernels import product

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


def linear_flops(n: int, n_in: int, n_out: int, for_inputs: bool = True) -> int:
    """Operations of a linear layer on n rows: forward, gradient of weight and, maybe, of inputs."""
    return (3 if for_inputs else 2) * 2 * n * n_in * n_out


def backbone_flops(sizes: Sizes) -> int:
    """Linear layers of all blocks: queries, keys and values; output; the two feed-forward ones."""
    n, d = sum(sizes.lengths), sizes.hidden
    per_block = linear_flops(n, d, 3 * d) + linear_flops(n, d, d)
    per_block += linear_flops(n, d, sizes.inner) + linear_flops(n, sizes.inner, d)
    return sizes.n_layers * per_block


def attention_flops(sizes: Sizes) -> int:
    """Two products forward (logits, mixture) and four backward, over the pairs that may be seen."""
    pairs = sum(length * (length + 1) // 2 for length in sizes.lengths)
    return sizes.n_layers * 6 * 2 * pairs * sizes.hidden


def adapter_flops(sizes: Sizes) -> int:
    """Text adapter: its two matrices folded into one (forward, both gradients), then the items."""
    folding = linear_flops(sizes.hidden, sizes.bottleneck, sizes.text)
    items = linear_flops(sizes.n_distinct, sizes.text, sizes.hidden, for_inputs=False)
    return (folding + items) if sizes.text else 0


def loss_flops(sizes: Sizes) -> int:
    """Sampled softmax: logits, gradient of states, gradient of negatives, in each domain."""
    pairs = zip(sizes.positions, sizes.negatives, strict=True)
    return sum(3 * 2 * n * m * sizes.hidden for n, m in pairs)


def matrix_flops(sizes: Sizes) -> int:
    """Operations of all matrix products of a training step."""
    return backbone_flops(sizes) + attention_flops(sizes) + adapter_flops(sizes) + loss_flops(sizes)


def activation_bytes(sizes: Sizes) -> int:
    """Bytes that what stands between the products reads and writes: arrays that fit a cache."""
    states, inner = sum(sizes.lengths) * sizes.hidden, sum(sizes.lengths) * sizes.inner
    norms = 2 * sizes.n_layers + 2
    logits = sum(n * m for n, m in zip(sizes.positions, sizes.negatives, strict=True))
    numbers = norms * 5 * states  # forward: in, out; backward: in, gradient in, out
    numbers += sizes.n_layers * 2 * 5 * states  # dropout and sum: in, in, out; gradient in, out
    numbers += 4 * states  # dropout of the inputs: in, out; gradient in, out
    numbers += sizes.n_layers * 5 * inner  # GELU, as a norm
    numbers += 4 * states  # looking items up, and adding their gradients: in, out each
    numbers += 2 * logits  # to probabilities: in, out
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
    flops : float
        Floating-point operations a second in float32 matrix products, the faster of the libraries.
    mkl : float
        The same of PyTorch's own product.
    cached, memory : float
        Bytes a second of ``out = a + b`` on arrays of an epoch's states, and of its id table.
    """

    flops: float
    mkl: float
    cached: float
    memory: float


def measure_rates(sizes: Sizes) -> Rates:
    """Measure rates at the shapes of a batch: qkv, feed-forward and logits, weighed by their work.

    The rate is that of the three products one after the other: what an epoch's mixture could reach.
    """
    n, d = sum(sizes.lengths) // 64 * 64, sizes.hidden
    shapes = [(n, d, 3 * d), (n, d, sizes.inner), (512, d, max(sizes.negatives))]
    pairs = [(torch.randn(rows, k), torch.randn(m, k)) for rows, k, m in shapes]
    work = sum(2 * rows * k * m for rows, k, m in shapes)
    rates = []
    for function in (product, lambda a, b: a @ b.T):
        seconds = sum(median_seconds(partial(function, *pair)) for pair in pairs)
        rates.append(work / seconds)
    speeds = []
    for size in (n * d, max(sizes.table, 1 << 15) * d):
        first, second, out = torch.randn(size), torch.randn(size), torch.empty(size)
        seconds = median_seconds(partial(torch.add, first, second, out=out))
        speeds.append(3 * FLOAT * size / seconds)
    return Rates(max(rates), rates[1], *speeds)


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
        floor.backbone += backbone_flops(sizes) / rates.flops
        floor.attention += attention_flops(sizes) / rates.flops
        floor.adapter += adapter_flops(sizes) / rates.flops
        floor.loss += loss_flops(sizes) / rates.flops
        floor.activations += activation_bytes(sizes) / rates.cached
        floor.tables += table_bytes(sizes) / rates.memory
    return floor
