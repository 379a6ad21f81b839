"""Item text and the embedded LSA encoder."""

import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from recbole_edt.augment.encoders import CachedEncoder, Encoder, JoinedEncoder, encoder_class
from recbole_edt.augment.encoders import lsa as lsa_module
from recbole_edt.augment.encoders.endpoint import EndpointEncoder
from recbole_edt.augment.encoders.file import FileEncoder
from recbole_edt.augment.encoders.lsa import LsaEncoder, words_of
from recbole_edt.augment.items import item_text, read_items
from recbole_edt.augment.settings import AugmentSettings
from recbole_edt.errors import ConfigError, DataError

FULL = {
    "domain": "sport",
    "title": "Trail Tent",
    "brand": "Tarnavel",
    "price": "140.5",
    "categories": "Sports & Outdoors | Camping",
    "description": "Keeps the rain out.",
}
CORPUS = [
    f"{size} {colour} {thing}"
    for size in ("large", "small", "tiny")
    for colour in ("red", "green", "blue", "black")
    for thing in ("tent", "boot", "golf glove", "ski helmet")
]


class Lsa(LsaEncoder):
    """Of any size; counts what it is asked."""

    asked = 0

    def encode(self, texts):
        self.asked += 1
        return super().encode(texts)


def lsa(dim: int) -> Lsa:
    encoder = Lsa(AugmentSettings())
    encoder.dim, encoder.identity = dim, f"lsa {dim}"
    return encoder


def test_text_names_what_is_known_and_leaves_out_the_rest() -> None:
    text = item_text(FULL)
    for part in ("sport", "Trail Tent", "Tarnavel", "140.50", "Sports & Outdoors, Camping"):
        assert part in text
    assert text.endswith("Keeps the rain out.")
    for key in FULL.keys() - {"domain"}:
        without = item_text({k: v for k, v in FULL.items() if k != key})
        assert len(without) < len(text) and "nan" not in without
        assert all(item_text({**FULL, key: value}) == without for value in (None, "", "  "))


def test_other_columns_come_under_their_own_names() -> None:
    text = item_text({"domain": "art", "title": "Oak", "release_year": "1999.", "price": "few"})
    assert text == "A product of the art domain: Oak. Release year: 1999. Sold at few."


def test_the_text_of_an_item_is_all_of_its_text_columns_or_the_chosen_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.item"
    path.write_text(
        "item_id:token\tgenre:token\tstars:float\tname:token_seq\tprice:float\tdomain:token\n"
        "a\tnoir\t4.5\tOak\t3\tart\n"
    )
    items, described = read_items(path)
    assert described == ["title", "genre", "price"] and items["title"].tolist() == ["Oak"]
    assert read_items(path, ["stars", "name"])[1] == ["title", "stars"]
    for column in ("gnre", "item_id"):
        with pytest.raises(ConfigError, match=f"t.item: there is no column '{column}'"):
            read_items(path, [column])


def test_same_bytes_again_and_with_any_number_of_threads() -> None:
    made = []
    for threads in (1, 2, 2):
        with threadpool_limits(threads):
            made.append(lsa(8).encode(CORPUS).astype(np.float16).tobytes())
    assert len(set(made)) == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@example(["ww ww", "ww ww"])
@given(
    st.lists(st.text("qw xyz", max_size=12), min_size=1, max_size=6).filter(
        lambda texts: any(len(word) > 1 for text in texts for word in text.split())
    )
)
def test_small_corpora_lower_the_size_without_a_warning(texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = lsa(128).encode(texts)
    assert len(vectors) == len(texts)
    assert 1 <= vectors.shape[1] <= max(1, len(texts) - 1)
    assert np.isfinite(vectors).all()
    lengths = np.linalg.norm(vectors, axis=1)
    assert (np.isclose(lengths, 1.0, atol=1e-5) | (lengths == 0.0)).all()


def _word(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:04d}")


@pytest.mark.parametrize(
    "texts",
    [
        [f"{_word(n)} lamp" for n in range(30)],  # all components of one length
        [f"{_word(n % 20)} lamp" for n in range(30)],  # and fewer than there are texts
        [f"{_word(n)} {_word(n // 2)}" for n in range(300)],  # the last one is one of many
    ],
)
def test_components_of_one_length_are_the_same_in_any_order_of_texts(texts: list[str]) -> None:
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = lsa(128).encode([texts[at] for at in order])
    assert np.allclose(lsa(128).encode(texts)[order], shuffled, atol=1e-5)
    if len(texts) < 128:
        assert len(np.unique(shuffled.round(4), axis=0)) == len(set(texts))


@settings(deadline=None, derandomize=True)
@given(st.text(st.characters(codec="latin-1") | st.sampled_from("aаЯγ한ب\u200d—™❤\ufe0f9_ ")))
@example("iphone13 4k-tv don't größe ❤️love it™️")
def test_words_of_spaced_scripts_are_runs_of_letters(text: str) -> None:
    assert words_of(text) == re.findall(r"\b[^\W\d_]{2,}\b", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("红色女士 鞋", "红色 色女 女士 鞋"),
        ("棉质t恤 ab手机 13寸", "棉质 恤 ab 手机 寸"),
        ("ワンピース・夏", "ワン ンピ ピー ース 夏"),
        ("สีแดง", "สี ีแ แด ดง"),
        ("महिला जूते x", "महिला जूते"),
        (unicodedata.normalize("NFD", "küche schlafsäcke é"), "küche schlafsäcke"),
    ],
)
def test_words_of_other_scripts(text: str, words: str) -> None:
    assert words_of(text) == words.split()


@pytest.mark.parametrize(
    ("n_texts", "most", "n_axes"), [(700, 512, 128), (1500, 512, 150), (1500, 140, 140)]
)
def test_every_ten_texts_have_an_axis_within_bounds(
    n_texts: int, most: int, n_axes: int, monkeypatch
) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(_word(n) for n in rng.integers(1000, size=4)) for _ in range(n_texts)]
    assert lsa(most).encode(texts).shape == (n_texts, n_axes)
    monkeypatch.setattr(lsa_module, "_MOST_WEIGHTS", 1000)  # of very many terms
    assert lsa(most).encode(texts).shape == (n_texts, 128)


@pytest.fixture(scope="module")
def shop_texts() -> list[str]:
    """3,000 products: frequent words for kinds, rare ones for brands."""
    rng = np.random.default_rng(0)
    kinds, brands = rng.integers(40, size=3000), rng.integers(600, size=3000)
    return [
        f"{_word(kind)} {_word(100 + kind)} {_word(1000 + brand)} {_word(7000 + n)}"
        for n, (kind, brand) in enumerate(zip(kinds, brands, strict=True))
    ]


def test_large_corpora_have_the_same_vectors_in_any_order_and_with_any_number_of_threads(
    shop_texts: list[str],
) -> None:
    order = np.random.default_rng(1).permutation(len(shop_texts))
    made = []
    for threads, places in ((1, order), (2, np.arange(len(order)))):
        with threadpool_limits(threads):
            vectors = lsa(512).encode([shop_texts[at] for at in places])
        made.append(vectors[np.argsort(places)])
    assert made[0].shape == (3000, 300)
    np.testing.assert_allclose(made[0], made[1], atol=1e-6)


def test_axes_of_large_corpora_tell_rare_words_apart_from_frequent_ones(
    shop_texts: list[str],
) -> None:
    """By the exact leading axes a brand counts less than what products of a kind differ by."""
    vectors = lsa(128).encode(shop_texts)
    kind, brand = zip(*((text.split()[0], text.split()[2]) for text in shop_texts), strict=True)
    same_kind = np.equal.outer(kind, kind) & ~np.eye(len(kind), dtype=bool)
    same_brand = np.equal.outer(brand, brand)
    alike = vectors @ vectors.T
    of_brand, of_others = alike[same_kind & same_brand], alike[same_kind & ~same_brand]
    assert of_brand.mean() - of_others.mean() > 2 * of_others.std() > 0
    assert of_others.mean() > alike[~same_kind & same_brand].mean()


def test_corpus_without_words_is_an_error() -> None:
    with pytest.raises(DataError, match="no word"):
        lsa(128).encode(["", "1 2"])


def test_further_texts_join_the_space_of_the_corpus() -> None:
    encoder = lsa(8)
    vectors = encoder.encode(CORPUS)
    more, failures = encoder.encode_more([CORPUS[3], "a red tent of a kind", "unheard words"])
    assert not failures
    np.testing.assert_allclose(more[0], vectors[3], atol=1e-6)
    nearest = CORPUS[int((vectors @ more[1]).argmax())]
    assert "red" in nearest
    assert "tent" in nearest
    np.testing.assert_array_equal(more[2], 0.0)  # nothing of it is known


def test_a_file_holds_one_vector_per_item(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float16))
    vectors = FileEncoder(AugmentSettings(), tmp_path / "v.npy").encode(["a", "b", "c"])
    np.testing.assert_array_equal(vectors, np.eye(3))
    with pytest.raises(DataError, match="3 rows"):
        FileEncoder(AugmentSettings(), tmp_path / "v.npy").encode(["a", "b"])


def test_an_encoder_of_ones_own_encodes_further_texts_as_it_does_items() -> None:
    class Lengths(Encoder):
        def encode(self, texts):
            return np.array([[len(text)] for text in texts], np.float32)

    vectors, failures = Lengths(AugmentSettings()).encode_more(["ab", "c"])
    assert vectors.tolist() == [[2], [1]] and failures == {}


def test_an_endpoint_that_fails_for_some_texts_is_an_error(llm_server, llm_client) -> None:
    llm_server.unreadable = "broken"
    with llm_client(llm_server, retries=1) as client:
        encoder = EndpointEncoder(AugmentSettings(), client=client)
        assert encoder.encode(["red tent", "blue boot"]).shape[0] == 2
        with pytest.raises(DataError, match="1 items could not be embedded"):
            encoder.encode(["red tent", "broken"])


def test_joined_encoders_put_vectors_of_one_length_side_by_side(tmp_path: Path) -> None:
    given = np.random.default_rng(0).normal(size=(len(CORPUS), 3)).astype(np.float16)
    np.save(tmp_path / "item_emb.npy", given)
    kind = encoder_class("file+lsa")
    assert kind is encoder_class("file+lsa") and kind.items_only and not kind.uses_llm
    settings = AugmentSettings(encoder="file+lsa", generator="none")
    vectors = kind(settings, tmp_path / "item_emb.npy").encode(CORPUS)
    words = LsaEncoder(settings).encode(CORPUS)
    units = given / np.linalg.norm(given.astype(np.float32), axis=1, keepdims=True)
    expected = (units @ units.T + words @ words.T) / 2
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-3)


def test_a_text_that_one_of_joined_encoders_cannot_encode_has_no_vector() -> None:
    class Picky(Encoder):
        def encode(self, texts):
            return np.ones((len(texts), 2), np.float32)

        def encode_more(self, texts):
            return self.encode(texts), {at: "odd" for at, text in enumerate(texts) if "odd" in text}

    encoder = JoinedEncoder(AugmentSettings())
    encoder.parts = [lsa(4), Picky(AugmentSettings())]
    encoder.encode(CORPUS)
    vectors, failures = encoder.encode_more(["a red tent", "an odd tent"])
    assert failures == {1: "odd"} and not vectors[1].any()
    assert np.linalg.norm(vectors[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["", "lsa+", "lsa+lsa", "lsa+glove", "glove"])
def test_unknown_and_repeated_encoders_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"one of .*lsa.*file\+lsa"):
        AugmentSettings(encoder=name)


def test_a_second_run_neither_fits_nor_encodes(tmp_path: Path) -> None:
    more = [["a red boot"], ["a blue boot"]]
    first = CachedEncoder(lsa(4), tmp_path)
    made = [first.encode(CORPUS), first.encode_more(more[0])[0]]
    again = lsa(4)
    second = CachedEncoder(again, tmp_path)
    kept = [second.encode(CORPUS), second.encode_more(more[0])[0]]
    assert again.asked == 0
    assert all(np.array_equal(*pair) for pair in zip(made, kept, strict=True))
    new, failures = second.encode_more(more[1])  # fits only now
    assert again.asked == 1 and not failures
    assert np.array_equal(new, first.encode_more(more[1])[0])


@pytest.mark.parametrize("change", ["identity", "corpus"])
def test_vectors_of_something_else_are_not_taken_for_these(tmp_path: Path, change: str) -> None:
    CachedEncoder(lsa(4), tmp_path).encode(CORPUS)
    corpus = ["a green hat", *CORPUS[1:]] if change == "corpus" else CORPUS
    counting = lsa(5 if change == "identity" else 4)
    CachedEncoder(counting, tmp_path).encode(corpus)
    assert counting.asked == 1


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array"])
def test_damaged_vectors_are_made_again(tmp_path: Path, content: bytes) -> None:
    # the words of CORPUS are equally frequent: rounding turns the axes along which texts vary alike
    uneven = [text for at, text in enumerate(CORPUS) for _ in range(1 + at % 5)]
    made = CachedEncoder(lsa(4), tmp_path).encode(uneven)
    (file,) = tmp_path.glob("encode-*.npy")
    file.write_bytes(content)
    assert np.array_equal(CachedEncoder(lsa(4), tmp_path).encode(uneven), made)
    assert np.array_equal(np.load(file), made)
