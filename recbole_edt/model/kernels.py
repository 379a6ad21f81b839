"""Fast replacements of PyTorch operations, for training in float32 on a CPU.

The products use private operators of PyTorch. They are checked against plain PyTorch on a small
input when they are first used, and turned off if an operator is missing, changed or wrong. Without
them, on other devices and in other types the functions here are PyTorch's own.
"""

from __future__ import annotations

from functools import cache
from logging import getLogger

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 64
"""Products take rows in multiples of it, as oneDNN compiles a kernel per shape; the rest goes to
PyTorch's own product."""

_MASK_BITS = {torch.int8: 8, torch.int16: 16}
"""Random bits per entry that a dropout mask compares: 8 where they give the exact rate, such as
0.5; else 16, and the rate is rounded to a multiple of 1/65536."""

_IMAGES = 16  # with fewer, PyTorch does not use oneDNN on one thread

_allowed = True


def rounded_rows(n: int) -> int:
    """Number of rows, at least ``n``, that :func:`product` takes without remainder."""
    return -(-n // _ROWS) * _ROWS


def use_fast_kernels(mode: str | None) -> None:
    """Switch the fast ways of the process: ``auto`` (also None) or ``off``."""
    global _allowed
    _allowed = mode != "off"


# -- matrix products ------------------------------------------------------------------------------


@cache
def _products_work() -> bool:
    """Check the products; log one line if they fail."""
    problem = "its results are not PyTorch's own"
    try:
        with (
            torch.random.fork_rng(devices=[]),  # runs draw the same numbers without it
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            torch.manual_seed(0)
            left, right, bias = torch.randn(128, 8), torch.randn(5, 8), torch.randn(5)
            pairs = (
                (_product(left, right, bias), F.linear(left, right, bias)),
                (_summed_over_rows(left, left[:, :5]), left.T @ left[:, :5]),
            )
            if all(torch.allclose(*pair, rtol=1e-4, atol=1e-4) for pair in pairs):
                return True
    except Exception as error:  # a missing or changed operator can raise anything
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    getLogger().warning(f"fast products (oneDNN) are off: {problem}")
    return False


def _are_fast(*tensors: Tensor) -> bool:
    on_cpu = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return on_cpu and _allowed and _products_work()


def _product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply matrices without gradient: ``left [n, k] @ right [m, k].T + bias [m]``, [n, m].

    PyTorch's products come from MKL, which uses half of the vector units of processors of other
    makers; oneDNN uses all. Rows of ``left`` should be contiguous, columns of ``right``.
    """
    whole = len(left) // _ROWS * _ROWS
    if not whole or not _are_fast(left, right):
        return F.linear(left, right, bias)
    if len(right) < whole:  # the copy is worth it: oneDNN reads columns faster
        right = right.T.contiguous().T
    out = _product(left[:whole], right, bias)
    if whole == len(left):
        return out
    return torch.cat([out, F.linear(left[whole:], right, bias)])


def inner_product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply along rows without gradient: ``left [n, k].T @ right [n, m]``, [k, m]."""
    whole = len(left) // _ROWS * _ROWS
    if not whole or not _are_fast(left, right):
        return left.T @ right
    if whole > max(left.shape[1], right.shape[1]):
        out = _summed_over_rows(left[:whole], right[:whole])
    elif right.shape[1] < left.shape[1]:  # the narrower one is transposed in memory
        out = product(right[:whole].T.contiguous(), left[:whole].T).T
    else:
        out = product(left[:whole].T.contiguous(), right[:whole].T)
    return out.addmm_(left[whole:].T, right[whole:]) if whole < len(left) else out


def _summed_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right`` of many rows, as the weight gradient of a convolution of single pixels.

    A product would need one of them transposed in memory.
    """

    def images(rows: Tensor) -> Tensor:
        return rows.reshape(_IMAGES, -1, 1, rows.shape[1]).permute(0, 3, 1, 2)

    weight = left.new_empty(left.shape[1], right.shape[1], 1, 1)
    of_single_pixels = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    _, gradient, _ = torch.ops.aten.convolution_backward(
        images(left), images(right), weight, None, *of_single_pixels, [False, True, False]
    )
    return gradient.view(left.shape[1], right.shape[1])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, bias):
        ctx.save_for_backward(inputs, weight)
        return product(inputs, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        inputs, weight = ctx.saved_tensors
        grad = grad.contiguous()
        for_inputs, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(grad, weight.T) if for_inputs else None,
            inner_product(grad, inputs) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map ``inputs`` [..., k] by a ``weight`` [m, k] and a ``bias`` [m], as ``F.linear`` does."""
    if not _are_fast(inputs, weight) or torch.is_autocast_enabled("cpu"):
        return F.linear(inputs, weight, bias)
    rows = inputs.reshape(-1, inputs.shape[-1]).contiguous()
    return _Linear.apply(rows, weight, bias).view(*inputs.shape[:-1], len(weight))


class Linear(nn.Linear):
    """``nn.Linear`` whose products :func:`linear` computes."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., n_in] to [..., n_out]."""
        return linear(inputs, self.weight, self.bias)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, distinct, *indices):
        ctx.shape, ctx.distinct = table.shape, distinct
        ctx.save_for_backward(*indices)
        return tuple(table.index_select(0, index) for index in indices)

    @staticmethod
    def backward(ctx, *grads):
        grad_table = grads[0].new_zeros(ctx.shape)
        add = grad_table.index_copy_ if ctx.distinct else grad_table.index_add_
        for index, grad in zip(ctx.saved_tensors, grads, strict=True):
            add(0, index, grad)
        return grad_table, None, *[None] * len(grads)


def take_rows_each(table: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
    """Rows of a ``table`` [n, d] at indices int64 [m] that are all different: [m, d] each."""
    return _Rows.apply(table, True, *indices)


def look_up_each(table: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
    """Rows of a ``table`` [n, d] at several indices, int64 [m] each: [m, d] each.

    All add to one gradient of the table, in a fixed order: the sum is the same in every run.
    """
    if table.device.type != "cpu":
        return tuple(F.embedding(index, table) for index in indices)
    return _Rows.apply(table, False, *indices)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a ``table`` [n, d] at an ``index`` of any shape, as ``F.embedding`` finds them."""
    return look_up_each(table, index.reshape(-1))[0].view(*index.shape, table.shape[1])


# -- dropout --------------------------------------------------------------------------------------


def _dropout_mask(like: Tensor, rate: float) -> tuple[Tensor, float]:
    """Zero with the probability ``rate``, else one; and the factor that compensates for it."""
    dtype = torch.int8 if (rate * 256).is_integer() else torch.int16
    n, levels, per_word = like.numel(), 1 << _MASK_BITS[dtype], 64 // _MASK_BITS[dtype]
    # PyTorch's own mask takes a random number of 32 bits or more per entry, one after the other
    words = torch.empty(-(-n // per_word), dtype=torch.int64).random_(-(1 << 63), None)
    dropped = round(rate * levels)
    mask = torch.empty(like.shape, dtype=like.dtype)
    torch.ge(words.view(dtype)[:n].view(like.shape), dropped - levels // 2, out=mask)
    return mask, levels / (levels - dropped)


def _draws_masks(states: Tensor, rate: float, training: bool) -> bool:
    return training and 0 < rate < 1 and states.device.type == "cpu" and _allowed


def dropout(states: Tensor, rate: float, training: bool) -> Tensor:
    """Drop entries at random and scale the others up, as ``F.dropout`` does, drawing faster."""
    if not _draws_masks(states, rate, training):
        return F.dropout(states, rate, training)
    mask, scale = _dropout_mask(states, rate)
    return states * mask.mul_(scale)


def add_dropout(states: Tensor, added: Tensor, rate: float, training: bool) -> Tensor:
    """``states`` plus what dropout leaves of ``added``, of the same shape."""
    if states.dtype != added.dtype or not _draws_masks(added, rate, training):
        return states + dropout(added, rate, training)  # other types: autocast
    mask, scale = _dropout_mask(added, rate)
    return torch.addcmul(states, added, mask, value=scale)


# -- attention ------------------------------------------------------------------------------------


def tiled_attention(
    qkv: Tensor, tiles: list[tuple[int, int]], masks: list[Tensor], n_heads: int
) -> Tensor:
    """Scaled dot-product attention within sequences that share tiles: [n, d].

    ``qkv`` [n, 3 d] holds queries, keys and values side by side, in the order of the tiles;
    ``tiles`` and ``masks`` are of :func:`~recbole_edt.model.packing.tile_sequences` and
    ``tile_masks``. Rows after the last tile are zero.
    """
    sizes = [n * size for n, size in tiles]
    *parts, rest = qkv.split([*sizes, len(qkv) - sum(sizes)])
    out = []
    for (n, size), mask, part in zip(tiles, masks, parts, strict=True):
        heads = part.view(n, size, 3, n_heads, -1)
        query, key, value = (x.transpose(1, 2) for x in heads.unbind(2))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out.append(mixed.transpose(1, 2).reshape(n * size, -1))
    return torch.cat([*out, rest.new_zeros(len(rest), qkv.shape[1] // 3)])
