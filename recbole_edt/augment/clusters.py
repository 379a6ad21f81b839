"""Items as vectors, their clusters, and the items that stand for a user's history (3.2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from recbole_edt.augment.histories import Histories
from recbole_edt.data.sequences import row_offsets

_SAMPLES = 20_000
"""Above this many items, mini-batches fit the centroids: the cost stays linear and small."""


@dataclass(frozen=True)
class Clusters:
    """Clusters of the items of both domains."""

    label: np.ndarray  # int64 [n_items]; cluster of each item within its domain
    distance: np.ndarray  # float64 [n_items]; distance to the centroid
    # Per domain the item line nearest to each centroid, int64 [<= K]
    medoids: tuple[np.ndarray, np.ndarray]


def cluster_items(
    vectors: np.ndarray, item_domain: np.ndarray, k: int, seed: int = 2026
) -> Clusters:
    """Cluster each domain's item embeddings (unit length, so Euclid orders as cosine does)."""
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
    return Clusters(label, distance, (medoids[0], medoids[1]))


@dataclass(frozen=True)
class Representatives:
    """Per user and domain one item for each touched cluster, in the order of the rows."""

    # int64 [2 * n_users + 1]; those of user ``u`` in domain ``d`` are ``offsets[2 * u +
    # d]:offsets[2 * u + d + 1]``
    offsets: np.ndarray
    places: np.ndarray  # int64 [n]; their training rows

    def of(self, user: int, domain: int) -> np.ndarray:
        """Return the training rows that stand for a user's history in a domain."""
        slot = 2 * user + domain
        return self.places[self.offsets[slot] : self.offsets[slot + 1]]


def representatives(histories: Histories, clusters: Clusters) -> Representatives:
    """Choose per user, domain and touched cluster the item nearest to the centroid.

    Of equally near rows (the same item bought twice) the last one stands for the cluster.
    """
    rows, owners = histories.rows, histories.owners
    slot = 2 * owners + histories.item_domain[rows]
    key = slot * (int(clusters.label.max()) + 1) + clusters.label[rows]
    places = np.arange(len(rows))
    order = np.lexsort((-places, np.round(clusters.distance[rows], 9), key))
    chosen = order[np.unique(key[order], return_index=True)[1]]
    chosen = chosen[np.lexsort((chosen, slot[chosen]))]
    counts = np.bincount(slot[chosen], minlength=2 * len(histories.users))
    return Representatives(row_offsets(counts), chosen)


@dataclass(frozen=True)
class ItemSpace:
    """Users' training rows and their items in the space of the encoder."""

    histories: Histories  # Training rows
    vectors: np.ndarray  # float32 [items + new items, d_L]
    clusters: Clusters  # Of the raw items
    chosen: Representatives  # What stands for each user's history

    @classmethod
    def of(cls, histories: Histories, vectors: np.ndarray, k: int, seed: int = 2026) -> ItemSpace:
        """Cluster the items of each domain and choose every user's representatives."""
        clusters = cluster_items(vectors, histories.item_domain, k, seed)
        return cls(histories, vectors, clusters, representatives(histories, clusters))

    def representatives(self, user: int, domain: int) -> np.ndarray:
        """Items that stand for a user in a domain; its cluster medoids if the user has none."""
        places = self.chosen.of(user, domain)
        return self.histories.rows[places] if len(places) else self.clusters.medoids[domain]
