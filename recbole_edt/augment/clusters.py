"""Item vectors, their clusters, and the items that represent a user's history (3.2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from recbole_edt.augment.histories import Histories
from recbole_edt.data.sequences import row_offsets

_SAMPLES = 20_000  # above this many items, mini-batches fit the centroids: the cost stays linear


@dataclass(frozen=True)
class ItemSpace:
    """Users' training rows, and their items in the space of the encoder."""

    histories: Histories
    vectors: np.ndarray  # float32 [items + new items, d_L]
    label: np.ndarray  # int64 [items]; cluster of each raw item within its domain
    medoids: tuple[np.ndarray, np.ndarray]  # per domain the item nearest to each centroid
    # Training rows of the representatives, in the order of the rows; those of user ``u`` in domain
    # ``d`` are ``places[offsets[2 * u + d]:offsets[2 * u + d + 1]]``
    offsets: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, histories: Histories, vectors: np.ndarray, k: int, seed: int = 2026) -> ItemSpace:
        """Cluster the items of each domain and choose every user's representatives.

        These are, per domain and cluster that the user touched, the item nearest to the centroid.
        Of equally near rows (the same item bought twice) the last one is chosen.
        """
        label, distance, medoids = _cluster(vectors, histories.item_domain, k, seed)
        rows = histories.rows
        slot = 2 * histories.owners + histories.item_domain[rows]
        key = slot * (int(label.max()) + 1) + label[rows]
        order = np.lexsort((-np.arange(len(rows)), np.round(distance[rows], 9), key))
        chosen = order[np.unique(key[order], return_index=True)[1]]
        chosen = chosen[np.lexsort((chosen, slot[chosen]))]
        counts = np.bincount(slot[chosen], minlength=2 * len(histories.users))
        return cls(histories, vectors, label, medoids, row_offsets(counts), chosen)

    def chosen(self, user: int, domain: int) -> np.ndarray:
        """Training rows that represent a user's history in a domain."""
        return self.places[slice(*self.offsets[2 * user + domain :][:2])]

    def representatives(self, user: int, domain: int) -> np.ndarray:
        """Items that represent a user in a domain; its cluster medoids if the user has none."""
        places = self.chosen(user, domain)
        return self.histories.rows[places] if len(places) else self.medoids[domain]


def _cluster(
    vectors: np.ndarray, item_domain: np.ndarray, k: int, seed: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Label, distance to the centroid, and medoids; unit vectors, so Euclid orders as cosine."""
    label = np.zeros(len(vectors), dtype=np.int64)
    distance = np.zeros(len(vectors))
    medoids = []
    for domain in (0, 1):
        lines = np.flatnonzero(item_domain == domain)
        units = normalize(np.asarray(vectors[lines], dtype=np.float64))
        n = min(k, len(np.unique(units, axis=0)))
        method = KMeans if len(lines) <= _SAMPLES else MiniBatchKMeans
        with threadpool_limits(1):  # the order of sums must not depend on the machine's cores
            model = method(n, n_init=1, random_state=seed).fit(units)
        label[lines] = model.labels_
        distance[lines] = np.linalg.norm(units - model.cluster_centers_[model.labels_], axis=1)
        order = lines[np.lexsort((lines, np.round(distance[lines], 9), label[lines]))]
        medoids.append(order[np.unique(label[order], return_index=True)[1]])
    return label, distance, (medoids[0], medoids[1])
