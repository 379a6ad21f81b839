"""Lines of the upstream files, clean and dirty."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_edt.errors import DataError
from recbole_edt.prepare import records
from recbole_edt.prepare.records import Item

ROOT = "Clothing_Shoes_and_Jewelry"


@given(st.text(string.digits + string.ascii_uppercase, min_size=10, max_size=10))
def test_an_asin_is_a_number_and_back(asin):
    number = int(asin, 36)
    assert 0 <= number < 2**63
    assert records.number_to_asin(number) == asin


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        *((line, "no JSON object") for line in (b"[1]", b"\xff\xfe", b"[" * 100_000)),
        (b'{"asin": "B000000001", "unixReviewTime": 5}', "no reviewerID"),
        (b'{"reviewerID": "A", "asin": "b1", "unixReviewTime": 5}', "no asin"),
        *((b'{"reviewerID": "A", "asin": "B000000001", "unixReviewTime": %b}' % time, "no unix")
          for time in (b"-5", b"null", b"true", b'"May"', b"NaN", b"1e300")),
    ],
)  # fmt: skip
def test_a_line_that_is_no_review_says_why(line, reason):
    with pytest.raises(records.Malformed, match=reason):
        records.parse_review(line)


@pytest.mark.parametrize("time", ["1400000000", '"1400000000"', "1400000000.0", "1400000000999"])
def test_times_are_seconds_or_milliseconds_numbers_or_texts(time):
    line = f'{{"reviewerID": "A", "asin": "B000000001", "unixReviewTime": {time}}}'
    assert records.parse_review(line.encode()) == ("A", "B000000001", 1_400_000_000)


def test_metadata_is_parsed_but_never_run(tmp_path):
    line = f"{{'asin': 'B000000001', 'title': open({str(tmp_path / 'x')!r}, 'w')}}".encode()
    with pytest.raises(records.Malformed, match="no Python literal"):
        records.parse_metadata(line)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"title": None, "price": ""}, Item("B000000001")),
        # some titles of 2018 are the script of a page
        ({"title": "var aPageStart = (new Date()).getTime();"}, Item("B000000001")),
        ({"brand": "\n\n\n   by\n    \n    Outers"}, Item("B000000001", brand="Outers")),
        ({"brand": "Byron"}, Item("B000000001", brand="Byron")),
        ({"main_category": "Books", "categories": []}, Item("B000000001", categories="Books")),
        ({"store": "Outers", "details": None}, Item("B000000001", brand="Outers")),
        ({"details": '{"Brand": "Outers"}'}, Item("B000000001", brand="Outers")),
        ({"details": "{Brand"}, Item("B000000001")),
        ({"brand": "by Malene Birger"}, Item("B000000001", brand="by Malene Birger")),
        *(
            ({"price": written}, Item("B000000001", price=price))
            for written, price in [
                ("$12.99", 12.99), ("$1,299.00", 1299.0), ("$9.99 - $19.99", 9.99), (7, 7.0),
                ("from 18.99", 18.99), ("\u20ac 19.90", 19.9), ("19.90 EUR", 19.9), ("US $5", 5.0),
                ("Rs. 1,299", 1299.0), ("1 299,00 kr", 1299.0), ("49,99 zł", 49.99),
                ("2 for 5", None), (0.0, None), (float("nan"), None), (True, None),
                (".a-box-inner{background-color:#fff}", None),
            ]
        ),
    ],
    ids=str,
)  # fmt: skip
def test_attributes_that_are_dirty(attributes, expected):
    assert records.read_item({"asin": "B000000001", **attributes}, ROOT, 100) == expected


@given(st.text())
def test_clean_text_fits_one_cell(text):
    cell = records.clean(text)
    assert cell == " ".join(cell.split())
    assert not set(cell) & set('"\t\r\n\0\x85\u2028')
    assert records.clean(cell) == records.clean(records.clean(cell))
    cell.encode("utf-8")


def test_texts_lose_markup_and_end_behind_a_word():
    text = "a &amp;lt;3 <br/>b<!-- no --> <script>x()</script>c 1 < 2 soft\u200bhyphen \ud83d"
    assert records.clean(text) == "a <3 b c 1 < 2 softhyphen"
    assert records.shorten("one two three", 9) == "one two"
    assert records.shorten("one two", 7) == "one two"
    assert records.shorten("onetwothree", 5) == "onetw"


def test_too_many_unreadable_lines_are_refused(tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(b'{"a": 1}\n' * 3 + b"{\n[]\n" + b"{}\n" * 5)
    assert list(records.parse_lines(path, records.parse_json, 0.2)) == [{"a": 1}] * 3 + [{}] * 5
    with pytest.raises(DataError, match=r"2 of 10 lines .* first is line 4: no JSON"):
        list(records.parse_lines(path, records.parse_json, 0.1))
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match="is empty"):
        list(records.parse_lines(path, records.parse_json, 0.1))
