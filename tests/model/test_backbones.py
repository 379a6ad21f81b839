"""Backbones against plain numpy, and what they may and may not see."""

import numpy as np
import pytest
import torch
from slow_reference import CONFIG, SIZE, array, layer_norm, linear, shake

from recbole_edt.model.backbones import make_backbone
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.packing import Packing

CAUSAL = ("sasrec", "gru4rec")
ALL = (*CAUSAL, "bert4rec")


def backbone_of(name: str):
    torch.manual_seed(0)
    backbone = make_backbone({**CONFIG, "backbone": name}).double()
    shake(backbone)
    return backbone.eval()


def gelu(x):
    return np.array([0.5 * v * (1 + float(torch.erf(torch.tensor(v / 2**0.5)))) for v in x])


def slow_transformer(backbone, vectors: np.ndarray, positions: np.ndarray, causal: bool):
    """One unpadded sequence, one step and one head at a time."""
    states = [
        layer_norm(backbone.input_norm, v + p) for v, p in zip(vectors, positions, strict=True)
    ]
    for layer in backbone.layers:
        size = SIZE // layer.n_heads
        qkv = [
            linear(layer.qkv, layer_norm(layer.attention_norm, s)).reshape(3, -1) for s in states
        ]
        mixed = []
        for t in range(len(states)):
            seen = range(t + 1) if causal else range(len(states))
            heads = []
            for head in range(layer.n_heads):
                part = slice(head * size, (head + 1) * size)
                weights = np.array(
                    [np.exp(qkv[t][0][part] @ qkv[s][1][part] / np.sqrt(size)) for s in seen]
                )
                weights = weights / weights.sum()
                heads.append(sum(w * qkv[s][2][part] for w, s in zip(weights, seen, strict=True)))
            mixed.append(states[t] + linear(layer.out, np.concatenate(heads)))
        states = [
            s + linear(layer.outer, gelu(linear(layer.inner, layer_norm(layer.inner_norm, s))))
            for s in mixed
        ]
    return np.stack([layer_norm(backbone.output_norm, s) for s in states])


@pytest.mark.parametrize("name", ALL)
def test_transformers_equal_numpy_and_grus_themselves_on_sequences_of_a_padded_batch(name) -> None:
    backbone = backbone_of(name)
    vectors = torch.randn(3, 5, SIZE, dtype=torch.float64)
    positions = torch.randn(5, SIZE, dtype=torch.float64)
    lengths = [5, 2, 1]
    states = backbone(vectors, positions, torch.arange(5) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        mine, places = array(vectors)[row, :length], array(positions)[:length]
        if name == "gru4rec":  # torch's own
            inputs = torch.from_numpy(mine + places)
            expected = array(backbone.output(backbone.gru(inputs)[0]))
        else:
            expected = slow_transformer(backbone, mine, places, causal=name == "sasrec")
        assert np.allclose(array(states)[row, :length], expected)


def test_gru_stays_open_for_gradients_while_frozen() -> None:
    """cuDNN passes no gradient through a GRU in evaluation mode, and stage 2 needs one."""
    backbone = backbone_of("gru4rec").eval()
    assert backbone.gru.training
    assert backbone.gru.dropout == 0
    assert not backbone.training


def test_layer_that_starts_as_a_mean_adds_half_the_mean_of_what_it_sees() -> None:
    torch.manual_seed(0)
    config = {**CONFIG, "backbone": "sasrec", "n_layers": 1}
    del config["attention_start"], config["inner_size"]
    encoder = SequenceEncoder(config, 5).double()
    layer = encoder.backbone.layers[0].eval()
    assert layer.inner.out_features == 2 * SIZE
    with torch.no_grad():
        layer.qkv.weight[: 2 * SIZE] = 0  # attention wholly even, feed-forward part away
        layer.outer.weight.zero_()
    states = torch.randn(3, SIZE, dtype=torch.float64)
    valid = torch.ones(1, 3, dtype=torch.bool)
    packing = Packing(valid)
    out = packing.pad(layer(packing.pack(states[None]), packing, valid))[0]
    normed = torch.nn.functional.layer_norm(states, (SIZE,))
    seen = torch.stack([normed[: t + 1].mean(0) for t in range(3)])
    assert torch.allclose(out, states + 0.5 * seen, atol=1e-6)
