"""A tiny shop, and LLM-EDT's equations done slowly: one user, one position, one pair at a time.

Nothing here uses the package's batches, lookups, adapters or losses. States come from the model's
backbone run on one unpadded sequence; `test_backbones.py` holds the backbones themselves against
numpy.
"""

from functools import partial

import numpy as np
import torch

from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.data.sequences import build_sequences, training_windows
from recbole_edt.model.encoder import SequenceEncoder

TEXT_SIZE, PROFILE_SIZE, SIZE, MAX_LENGTH = 6, 4, 8, 8
N_ITEMS, FIRST_OF_B = 13, 6  # items 1..5 are of domain 0, items 6..12 of domain 1

SEQUENCES = {
    1: [1, 6, 2, 7, 3],
    2: [8, 9],  # nothing of domain 0
    3: [4, 1, 5],  # nothing of domain 1
    4: [10, 2, 11, 12, 3, 6, 1],
    5: [9, 5, 7, 4],
}
NO_PROFILE = 3

CONFIG = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
    "device": torch.device("cpu"),
    "seed": 1,
    "single_spec": True,
    "worker": 0,
    "transform": None,
    "MODEL_TYPE": None,
    "train_batch_size": 3,
    "n_negatives": 4,
    "item_embedding": "text",
    "text_start": "random",
    "attention_start": "random",
    "backbone": "sasrec",
    "hidden_size": SIZE,
    "n_layers": 2,
    "n_heads": 2,
    "inner_size": 12,
    "dropout": 0.5,
    "item_dropout": 0.0,
    "pretrain_sequences": "mixed",
    "loss": "bpr",
    "recency_half_life": 0.0,
    "align_weight": 0.0,
    "align_temperature": 0.2,
    "align_loss": "paper",
    "adapter": "paper",
}


def domain_of(item: int) -> int:
    return int(item >= FIRST_OF_B)


def items_of(domain: int) -> list[int]:
    return [item for item in range(1, N_ITEMS) if domain_of(item) == domain]


def sequences_of(raw: dict[int, list[int]], inserted: dict[tuple[int, int], int] | None = None):
    """Sequences of users; ``inserted[user, n]`` is an item inserted before the user's n-th."""
    rows = [(user, item, step, False) for user, s in raw.items() for step, item in enumerate(s)]
    rows += [(user, item, n - 0.5, True) for (user, n), item in (inserted or {}).items()]
    users, items, places, augmented = (np.array(column) for column in zip(*rows, strict=True))
    return build_sequences(users, items, places, augmented, places, max(raw) + 1)


class TinyShop:
    """Stands in for the dataset: what models and loaders ask one for.

    ``generated_text`` makes the last item a generated one whose text has that value everywhere.
    """

    domains = ("a", "b")
    uid_field = "user_id"

    def __init__(
        self, max_length=MAX_LENGTH, profiles=True, generated_text=None, text_size=TEXT_SIZE,
        inserted=None,
    ) -> None:  # fmt: skip
        self.max_item_list_len = max_length
        self.profiles = profiles
        self.generated_text, self.text_size = generated_text, text_size
        self.item_domain = np.array([-1] + [domain_of(item) for item in range(1, N_ITEMS)])
        self.item_generated = np.zeros(N_ITEMS, dtype=bool)
        self.item_generated[-1] = generated_text is not None
        self.train_sequences = sequences_of(SEQUENCES, inserted)

    def num(self, field: str) -> int:
        return {"item_id": N_ITEMS, "user_id": max(SEQUENCES) + 1}[field]

    def windows(self):
        return training_windows(self.train_sequences, self.max_item_list_len)

    def item_table(self) -> EmbeddingTable:
        return EmbeddingTable(self.item_embeddings(), np.arange(N_ITEMS))

    def user_table(self) -> EmbeddingTable | None:
        profiles = self.user_embeddings()
        return None if profiles is None else EmbeddingTable(profiles, np.arange(len(profiles)))

    def item_embeddings(self) -> np.ndarray:
        out = np.random.default_rng(5).normal(size=(N_ITEMS, self.text_size)).astype(np.float32)
        out[0] = 0
        if self.generated_text is not None:
            out[-1] = self.generated_text
        return out

    def user_embeddings(self) -> np.ndarray | None:
        if not self.profiles:
            return None
        out = np.random.default_rng(6).normal(size=(max(SEQUENCES) + 1, PROFILE_SIZE))
        out[[0, NO_PROFILE]] = 0
        return out.astype(np.float32)


def shake(module: torch.nn.Module) -> None:
    """Move all parameters far from their start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)


def build(model_class, seed: int = 0, shop: TinyShop | None = None, mask_ratio=0.5, **options):
    """Make a model in float64, whose parameters are all random and far from their start."""
    torch.manual_seed(seed)
    model = model_class({**CONFIG, **options}, shop or TinyShop()).double()
    for module in model.modules():
        if isinstance(module, SequenceEncoder):
            module.mask_ratio = mask_ratio
    shake(model)
    return model.eval()


def right_padded(rows: list[list[int]], width: int, value: int = 0) -> torch.Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def training_batch(users=tuple(SEQUENCES), extra: int = 0, sequences=None) -> dict:
    """Batch of whole sequences, with ``extra`` columns of padding and fixed negatives."""
    sequences = [(sequences or SEQUENCES)[user] for user in users]
    width = max(map(len, sequences)) + extra
    negatives = [[negative_of(u, t) for t in s[1:]] for u, s in zip(users, sequences, strict=True)]
    batch = {
        "user_id": torch.tensor(users),
        "sequence": right_padded(sequences, width),
        "last": torch.ones(len(users), dtype=torch.bool),
        "negatives": right_padded(negatives, width - 1),
    }
    for domain in (0, 1):
        own = [[item for item in s if domain_of(item) == domain] for s in sequences]
        places = [
            [own_s.index(t) if domain_of(t) == domain else -1 for t in s[1:]]
            for s, own_s in zip(sequences, own, strict=True)
        ]
        shared = SHARED[domain]
        batch[f"sequence_{domain}"] = right_padded(own, max(max(map(len, own)), 1) + extra)
        batch[f"place_{domain}"] = right_padded(places, width - 1, -1)
        batch[f"negatives_{domain}"] = torch.tensor(shared)
        batch[f"seen_{domain}"] = torch.tensor([[n in s for n in shared] for s in sequences])
    return batch


SHARED = ([2, 5, 3], [12, 7, 8, 6])


def negative_of(user: int, target: int) -> int:
    """Choose some item of the target's domain that the user does not have."""
    free = [i for i in items_of(domain_of(target)) if i not in SEQUENCES[user]]
    return free[(user + target) % len(free)]


def evaluation_batch(users=tuple(SEQUENCES), extra: int = 0, sequences=None) -> dict:
    """Evaluation rows: the whole sequences as history."""
    histories = {"": [(sequences or SEQUENCES)[user] for user in users]}
    for domain in (0, 1):
        histories[f"_{domain}"] = [[i for i in s if domain_of(i) == domain] for s in histories[""]]
    batch = {"user_id": torch.tensor(users)}
    for key, rows in histories.items():
        batch[f"item_id_list{key}"] = right_padded(rows, max(max(map(len, rows)), 1) + extra)
        batch[f"item_length{key}"] = torch.tensor([len(row) for row in rows])
    return batch


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def linear(layer, vector: np.ndarray) -> np.ndarray:
    return array(layer.weight) @ vector + array(layer.bias)


def layer_norm(norm, vector: np.ndarray) -> np.ndarray:
    centred = vector - vector.mean()
    scaled = centred / np.sqrt((centred**2).mean() + norm.eps)
    return scaled * array(norm.weight) + array(norm.bias)


def two_layers(adapter, vector: np.ndarray) -> np.ndarray:
    """W1 (W2 e + b2) + b1, one layer after the other (eqs. 7, 10)."""
    return linear(adapter.outer, linear(adapter.inner, vector))


def item_vector(model, item: int) -> np.ndarray:
    embedding = model.item_embedding
    out = np.zeros(SIZE)
    if embedding.text is not None:
        out = out + two_layers(embedding.adapter, array(embedding.text)[item])
    if embedding.table is not None:
        out = out + array(embedding.table.weight)[item]
    return out


def states_alone(encoder, vectors: torch.Tensor) -> torch.Tensor:
    """States of one unpadded sequence, [n, d] -> [n, d]."""
    valid = torch.ones(1, len(vectors), dtype=torch.bool)
    return encoder.backbone(vectors[None], encoder.positions.weight[: len(vectors)], valid)[0]


def states_of(encoder, vectors) -> np.ndarray:
    """The same of a sequence of numpy vectors."""
    return array(states_alone(encoder, torch.from_numpy(np.stack(vectors))))


def thread(encoder, vector_of, items: list[int | None]) -> np.ndarray:
    """States of an encoder on one unpadded sequence; None stands for the mask."""
    mask = encoder.backbone.mask_vector
    return states_of(encoder, [array(mask) if i is None else vector_of(i) for i in items])


def after(encoder, vector_of, history: list[int]) -> np.ndarray:
    """State of an encoder that predicts what follows the history."""
    return thread(encoder, vector_of, history if encoder.causal else [*history, None])[-1]


def run_alone(model, items: list[int | None]) -> np.ndarray:
    """States of a model's encoder on items by their vectors of eq. 7."""
    return thread(model.encoder, partial(item_vector, model), items)


def user_vector(model, history: list[int]) -> np.ndarray:
    """u of eq. 8: the state that predicts what follows the history."""
    return after(model.encoder, partial(item_vector, model), history)


def adapted(model, domain: int, state: np.ndarray) -> np.ndarray:
    """u^A of eq. 10."""
    adapter = model.domain_adapters[domain]
    if type(adapter).__name__ == "LinearAdapter":
        return two_layers(adapter, state)
    return state + linear(adapter.outer, np.maximum(linear(adapter.inner, state), 0))


def summed_vector(model, history: list[int], domain: int) -> np.ndarray:
    """What eq. 11 multiplies with a candidate of the domain: u^A + u, or u without history."""
    own = [item for item in history if domain_of(item) == domain]
    out = user_vector(model, history)
    return out + adapted(model, domain, user_vector(model, own)) if own else out


def hardest_term(state, model, positive: int, seen: list[int]) -> float:
    """-log sigmoid(P(v+) - P(v-)) of eqs. 9 and 12, v- being the hardest shared negative."""
    shared = [n for n in SHARED[domain_of(positive)] if n not in seen]
    hardest = max(state @ item_vector(model, n) for n in shared)
    return float(np.log1p(np.exp(hardest - state @ item_vector(model, positive))))


def softmax_term(state, model, positive: int, seen: list[int]) -> float:
    """Sampled softmax over the shared negatives that the user has not."""
    shared = [n for n in SHARED[domain_of(positive)] if n not in seen]
    top = np.exp(state @ item_vector(model, positive))
    rest = sum(np.exp(state @ item_vector(model, n)) for n in shared)
    return float(-np.log(top / (top + rest)))


def prefixes():
    """Yield every training target: its user, the history before it, the target."""
    for user, items in SEQUENCES.items():
        for step in range(1, len(items)):
            yield user, items[:step], items[step]


def masked_targets(model, batch):
    """Yield every drawn target: its user, the row as shown, its step, its domain's steps.

    After ``torch.manual_seed(3)`` a model draws the same again.
    """
    torch.manual_seed(3)
    chosen = model.encoder.choose_targets(batch["sequence"])
    for hidden, (user, items) in zip(chosen.tolist(), SEQUENCES.items(), strict=True):
        shown = [None if h else item for h, item in zip(hidden, items, strict=False)]
        for step in np.flatnonzero(hidden).tolist():
            domain = domain_of(items[step])
            yield user, shown, step, [s for s, i in enumerate(items) if domain_of(i) == domain]


def one_side(left: np.ndarray, right: np.ndarray, temperature: float, infonce: bool) -> float:
    """One side of eq. 13 as printed, pair by pair."""

    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    total = 0.0
    for i in range(len(left)):
        top = np.exp(cosine(left[i], right[i]) / temperature)
        bottom = sum(
            np.exp(cosine(left[i], right[j]) / temperature)
            for j in range(len(left))
            if j != i or infonce
        )
        total -= np.log(top / bottom)
    return total / len(left)


def alignment(users: np.ndarray, profiles: np.ndarray, temperature: float, infonce=False) -> float:
    """Both sides of eq. 13."""
    return one_side(users, profiles, temperature, infonce) + one_side(
        profiles, users, temperature, infonce
    )


def check_scores(model, score_of) -> None:
    """Hold all ways to score padded rows against ``score_of(history, item)``, user by user."""
    rows = evaluation_batch(extra=1)
    with torch.no_grad():
        everything = array(model.full_sort_predict(rows))
        for row, history in enumerate(SEQUENCES.values()):
            expected = [score_of(history, item) for item in range(1, N_ITEMS)]
            assert np.allclose(everything[row, 1:], expected)
        one = {**rows, "item_id": torch.tensor([3, 9, 6, 1, 12])}
        assert np.allclose(array(model.predict(one)), everything[range(5), one["item_id"]])
        candidates = torch.tensor([[1, 4, 3], [6, 12, 7], [12, 11, 6], [5, 5, 1], [8, 9, 10]])
        some = array(model.candidate_scores(rows, candidates))
        assert np.allclose(some, np.take_along_axis(everything, candidates.numpy(), 1))
