"""Latent semantic analysis: the embedded default, without a network."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from recbole_edt.augment.encoders import Encoder, register_encoder
from recbole_edt.augment.items import item_text, read_items
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io.atomic import check_unchanged
from recbole_edt.io.files import LSA_TEXTS, value_sha256

_LEAST_AXES, _TEXTS_PER_AXIS = 128, 10  # of small catalogues
_MOST_WEIGHTS = 2**28  # of terms in all axes, 2 GiB
_METHOD = f"NFC randomized scipy {scipy.__version__}"  # part of the identity of vectors
_ALIKE = 1e-6  # relative difference of what rounding may order in either way
_SMALL = 2048  # texts or terms of which all axes are computed

# marks that belong to the letter before, such as vowel signs; variation selectors do not
_SIGNS = "".join(
    chr(code) for code in range(0x300, 0xFE00) if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
# figures, such as a price, are no words
_WORD = re.compile(rf"\b[^\W\d_]+(?:[{_SIGNS}]+[^\W\d_]*)*(?![\w{_SIGNS}])")
# letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana and Han
_UNSPACED = re.compile(
    "([\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecf\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003fffd]+)"
)


def words_of(text: str) -> list[str]:
    """Words of at least two letters; of scripts without spaces, pairs of neighbouring characters.

    Those are single ones where one stands alone.
    """
    words = []
    for place, part in enumerate(_UNSPACED.split(unicodedata.normalize("NFC", text))):
        if place % 2:  # what the pattern found
            words += [part[at : at + 2] for at in range(max(len(part) - 1, 1))]
        else:
            words += [word for word in _WORD.findall(part) if len(word) > 1]
    return words


def _leading_axes(weights, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return axes of texts [texts, terms], longest first: lengths, and axes [>= dim, terms].

    Of a small matrix they are all its axes, of others what randomized SVD finds.
    """
    if min(weights.shape) > _SMALL:
        return randomized_svd(weights, dim, n_iter=0, random_state=2026)[1:]
    by_text = weights.shape[0] <= weights.shape[1]
    products = (weights @ weights.T if by_text else weights.T @ weights).toarray()
    squares, vectors = np.linalg.eigh(products)
    lengths, vectors = np.sqrt(squares[::-1].clip(min=0.0)), vectors[:, ::-1]
    if by_text:
        vectors = weights.T @ vectors / np.maximum(lengths, lengths[0] * _ALIKE)
    return lengths, vectors.T


def _alike(lengths: np.ndarray) -> list[np.ndarray]:
    """Places of lengths, longest first, in groups of equal ones."""
    apart = lengths[1:] < lengths[:-1] * (1 - _ALIKE)
    return np.split(np.arange(len(lengths)), np.flatnonzero(apart) + 1)


@register_encoder("lsa")
class LsaEncoder(Encoder):
    """TF-IDF of words, as :func:`words_of` has them, and word pairs, then truncated SVD.

    The SVD is randomized, without power iterations (Halko, Martinsson & Tropp, 2011, algorithm
    5.1): beside the axes of frequent words its own ones have a share of the rarer words, such as
    brands, by which models rank better than by the exact leading axes. Its random numbers are
    fixed, and given to texts in alphabetical order. Of up to 2,048 texts or terms it is exact.
    The largest entry of each component is positive, because signs are arbitrary. Where components
    have the same length, as in small catalogues, any rotation of them is as good: one is chosen by
    fixed directions. There is one axis for every ten texts, but at least 128 and at most
    512, and fewer of catalogues with more than half a million terms.

    It is fitted to the texts to encode. Data that have grown keep the space of the earlier ones:
    ``settings.lsa_items`` names their ``.item``, and its items are the corpus, or the lines of
    ``<D>.lsa.txt`` beside it, which say what it was fitted to itself. Without ``lsa_items`` such a
    file beside the data to encode is the corpus.
    """

    dim: int = 512  # at most
    identity = f"lsa {dim} {_METHOD}"

    def __init__(self, settings: Any, about: Any = None, client: Any = None) -> None:
        super().__init__(settings, about, client)
        given = settings.lsa_items
        if given and not Path(given).is_file():
            raise ConfigError(f"lsa_items {given}: there is no such file")
        beside = str(given or about or "").removesuffix(".item").removesuffix(".item_emb.npy")
        texts = Path(f"{beside}.{LSA_TEXTS}")
        if beside and texts.is_file():
            check_unchanged(texts)
            self.corpus = texts.read_text(encoding="utf-8").split("\n")
        elif given:
            items, described = read_items(Path(given), settings.text_columns)
            if "domain" not in items:
                raise DataError(f"lsa_items {given}: it has no column domain:token")
            if "generated" in items:
                items = items[items["generated"] != "1"]
            rows = items[["domain", *described]].to_dict("records")
            self.corpus = [item_text(row) for row in rows]
        if self.corpus:
            self.identity = f"lsa {self.dim} {_METHOD} {value_sha256(self.corpus)}"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Fit the corpus and encode texts; :meth:`encode_more` encodes into its space."""
        self._vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            sublinear_tf=True,
            stop_words="english",
            tokenizer=words_of,
            token_pattern=None,
        )
        fitted = self.corpus or texts
        try:
            weights = self._vectorizer.fit_transform(fitted)  # [texts, terms]
        except ValueError as error:
            raise DataError("there is no word in the texts to encode") from error
        n_texts, n_terms = weights.shape
        axes = min(n_texts // _TEXTS_PER_AXIS, _MOST_WEIGHTS // n_terms)
        wanted = min(self.dim, max(_LEAST_AXES, axes))
        alphabetical = sorted(range(n_texts), key=fitted.__getitem__)
        self._axes = self._fit(weights[alphabetical], min(wanted, min(weights.shape) - 1))
        return self.encode_more(texts)[0] if self.corpus else self._project(weights)

    def _fit(self, weights, dim: int) -> np.ndarray:
        if dim < 1:  # a single text or term: all texts point the same way
            return np.ones((1, weights.shape[1]))
        lengths, axes = _leading_axes(weights, dim)
        axes[lengths < lengths[0] * _ALIKE] = 0.0  # there are fewer
        for group in _alike(lengths):
            if 1 < len(group) and group[0] < dim:  # the rotation that meets fixed directions first
                fixed = np.random.default_rng(2026).standard_normal((axes.shape[1], len(group)))
                axes[group] = np.linalg.qr(axes[group] @ fixed)[0].T @ axes[group]
        axes = axes[:dim]
        sizes = np.abs(axes)
        peaks = (sizes > sizes.max(axis=1, keepdims=True) * (1 - _ALIKE)).argmax(axis=1)
        return axes * np.sign(np.take_along_axis(axes, peaks[:, None], axis=1))

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode texts into the space of the corpus; words that it lacks do not count."""
        return self._project(self._vectorizer.transform(texts)), {}

    def _project(self, weights) -> np.ndarray:
        vectors = np.asarray(weights @ self._axes.T)  # [texts, dim]
        vectors[np.linalg.norm(vectors, axis=1) < 1e-9] = 0.0  # nothing but rounding noise
        return normalize(vectors).astype(np.float32)
