"""The whole way from raw files to a data set that trains."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from amazon_upstream import asin, cut_at, raw_lines, raw_paths, raw_review_line, review_line

from recbole_edt.errors import ConfigError, DataError, EDTError
from recbole_edt.io.files import read_table
from recbole_edt.io.lock import run_lock
from recbole_edt.prepare.command import prepare
from recbole_edt.prepare.settings import PrepareCommand
from recbole_edt.prepare.sources import pair_names, pair_sources

INTER = Path("dataset/cloth_sport/cloth_sport.inter")
ITEM = Path("dataset/cloth_sport/cloth_sport.item")
STATISTICS = Path("dataset/cloth_sport/cloth_sport.statistics.json")


def killed(*args, **kwargs):
    raise KeyboardInterrupt


def outputs() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(INTER.parent.iterdir())}


def made() -> list[str]:
    return sorted(path.name for path in Path("dataset").glob("*"))


@pytest.mark.parametrize(("edition", "zipped"), [("2014", True), ("2018", False), ("2023", True)])
def test_raw_files_become_atomic_files(write_raw, edition, zipped, capsys):
    source = write_raw(edition, zipped)
    prepare(["cloth_sport", f"--edition={edition}", "--source", str(source)])
    inter, item = read_table(INTER), read_table(ITEM)
    assert item["item_id"].tolist() == [
        *(asin("cloth", n) for n in range(4)), asin("unlisted", 0),
        *(asin("sport", n) for n in range(4)), asin("unlisted", 1),
    ]  # fmt: skip
    assert item["domain"].tolist() == ["cloth"] * 5 + ["sport"] * 5
    title, brand, price, categories, description = item.iloc[0, 2:7]
    assert (title, brand) == ("Thing B00C000000 5'' & more", "Café Noir")
    assert (price, description) == ("12.99", "It's good and cheap")
    assert categories.startswith("Clothing, Shoes & Jewelry | Women | Skirts")
    assert "Imported" not in categories
    assert item.iloc[4][["title", "price", "categories"]].tolist() == ["", "", ""]
    assert inter["user_id"].nunique() == 12
    one = inter[inter["user_id"] == "u0000001"]
    assert one["position"].tolist() == [str(n) for n in range(1, 11)]
    assert one["timestamp"].astype(int).is_monotonic_increasing
    assert set(one["item_id"][:2]) == {asin("cloth", 0), asin("sport", 0)}
    assert "12 users (12 of both domains), 120 rows" in capsys.readouterr().out


def test_statistics_say_what_was_done(write_raw):
    options = [f"--source={write_raw()}", "--output_path=reviewed", "--cross_listed=reviewed"]
    prepare(["cloth_sport", *options])
    items = read_table(Path("reviewed/cloth_sport/cloth_sport.item"))["item_id"].tolist()
    assert asin("m", 1) in items and asin("r", 1) not in items
    prepare(["cloth_sport", f"--source={write_raw()}"])
    found = json.loads(STATISTICS.read_text())
    assert found["items"] == {"cloth": 5, "sport": 5}
    assert found["imbalance"]["0%-10%"] == 1.0
    assert found["prepared"]["settings"]["min_user_rows"] == 5
    assert found["prepared"]["rows_after"] == {
        "read": 160, "cross-listed items dropped": 124, "filtered": 120,
    }  # fmt: skip
    assert found["prepared"]["items_without_metadata"] == 2
    assert set(found["prepared"]["raw_files"]) == {Path(name).name for name in raw_lines("2014")}


def test_the_same_raw_rows_give_the_same_bytes_in_any_order(write_raw):
    prepare(["cloth_sport", f"--source={write_raw()}"])
    first = outputs()
    turned = {name: lines[::-1] for name, lines in raw_lines("2014").items()}
    prepare(["cloth_sport", f"--source={write_raw(lines=turned)}", "--output_path=dataset/again"])
    again = Path("dataset/again/cloth_sport")
    for name in ("cloth_sport.inter", "cloth_sport.item"):
        assert (again / name).read_bytes() == first[name]


def test_downloaded_files_give_what_local_ones_give(write_raw, shelf):
    source = write_raw()
    prepare(["cloth_sport", f"--source={source}", "--output_path=local"])
    shelf.files = {name: (source / name).read_bytes() for name in raw_lines("2014")}
    shelf.behave = [cut_at(50), None, cut_at(50)]
    prepare(["cloth_sport", f"--base_url={shelf.url}/"])
    for file in ("cloth_sport.inter", "cloth_sport.item"):
        assert (INTER.parent / file).read_bytes() == (Path("local/cloth_sport") / file).read_bytes()
    asked = len(shelf.log)
    for file in INTER.parent.iterdir():
        file.unlink()
    prepare(["cloth_sport", f"--base_url={shelf.url}"])
    assert len(shelf.log) == asked  # the downloads are still there


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda: None, ["--users=both"], "prepared with other options"),
        (lambda: INTER.write_text("mine"), [], "changed since"),
        (STATISTICS.unlink, [], "not made by prepare"),
    ],
)
def test_nothing_else_is_ever_replaced(write_raw, spoil, options, message):
    source = write_raw()
    prepare(["cloth_sport", f"--source={source}"])
    spoil()
    before = outputs() if INTER.exists() else {}
    with pytest.raises(DataError, match=message):
        prepare(["cloth_sport", f"--source={source}", *options])
    assert outputs() == before


def test_a_failure_at_any_moment_leaves_no_half_data_set(write_raw, monkeypatch):
    source = write_raw()
    steps = ("prepare.amazon.read_reviews", "prepare.amazon.read_catalogue")
    for name in (*steps, "io.datasets.files.write_table", "io.datasets.os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"recbole_edt.{name}", killed)
            with pytest.raises(KeyboardInterrupt):
                prepare(["cloth_sport", f"--source={source}"])
        assert not INTER.parent.exists()
        assert made() in ([], [".downloads"])  # which holds no more than the lock
    Path("dataset/.cloth_sport.partial").mkdir()  # of a run that was killed outright
    Path("dataset/.cloth_sport.partial/cloth_sport.inter").write_text("half")
    prepare(["cloth_sport", f"--source={source}"])
    assert sorted(outputs()) == [INTER.name, ITEM.name, STATISTICS.name]
    assert made() == [".downloads", "cloth_sport"]


def test_a_second_run_waits_for_the_first_and_finds_its_data_set(write_raw, capsys):
    source = write_raw()
    with run_lock(Path("dataset/.downloads")):
        with pytest.raises(DataError, match="another run is using "):
            prepare(["cloth_sport", f"--source={source}"])
        assert made() == [".downloads"]
    prepare(["cloth_sport", f"--source={source}"])
    times = [path.stat().st_mtime_ns for path in INTER.parent.iterdir()]
    with run_lock(Path("dataset/.downloads")):  # what is there needs no lock
        prepare(["cloth_sport", f"--source={source}"])
    assert "was prepared before" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in INTER.parent.iterdir()] == times


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"name one pair to prepare \(cloth_sport, .*\), or two --categories"),
        (["--categories=Books"], "must name two different ones"),
        (["--categories=Books,"], "categories must be names such as a,b"),
        (["--categories=Books,Movie_and_TV"], "2014 has no .* did you mean 'Movies_and_TV'"),
        (["cloth_sport", "--categories=Books,Baby"], "either a pair or two --categories"),
        (["cloth_sprot"], "unknown pair 'cloth_sprot' .* did you mean 'cloth_sport'"),
        (["cloth_sport", "--edition=2022"], "unknown edition '2022' .*2014, 2018, 2023"),
        (["cloth_sport", "--min_user_row=3"], "unknown key .* did you mean 'min_user_rows'"),
        (["cloth_sport", "--max_rows=-1"], "max_rows must be at least 0"),
        (["cloth_sport", "--base_url=ftp://x"], "must start with http"),
        (["cloth_sport", "--base_url=http://x", "--source=y"], "cannot both be set"),
        (["--source", "nowhere", "cloth_sport"], "nowhere does not exist"),
        (["cloth_sport", "--output_path=/dev/null"], "output_path .* /dev/null takes no new file"),
        (["--source=nowhere", "cloth_sport", "food_kitchen"], "name one pair to prepare"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        prepare(arguments)
    assert "\n" not in str(caught.value)
    assert not Path("dataset").exists()


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("{}.jsonl", [], "{}.jsonl is a file of edition 2023: --edition=2023 --core=0"),
        ("{}_5.json.gz", [], "{}_5.json.gz is a file of edition 2018: --edition=2018 --core=5"),
        ("reviews_{}.json", ["--core=5"], "of edition 2014: --edition=2014 --core=0"),
        (
            "{}.csv",
            [],
            "{}.csv has ratings alone: recbole-edt import DOMAIN=FILE... --co",
        ),
        ("{}.txt", [], "nor reviews_{}_5.json, reviews_{}.json"),
    ],
)
def test_files_of_another_edition_are_named(name, keys, told):
    category = "Clothing_Shoes_and_Jewelry"
    Path("raw").mkdir()
    Path("raw", name.format(category)).write_text("A1,B000000001,5.0,1400000000\n")
    with pytest.raises(ConfigError) as caught:
        prepare(["cloth_sport", "--source=raw", *keys])
    assert told.format(category, category) in str(caught.value)


def test_bad_raw_files_are_one_clear_line_and_nothing_is_written(write_raw):
    reviews, metadata = raw_paths("2014", "sport")
    source = write_raw()
    cases: list[tuple[str, bytes | None, str]] = [
        (reviews, None, f"holds neither {reviews}"),
        (metadata, b"", "is empty"),
        (reviews, b"", "is empty"),
        (reviews, gzip.compress(b"<html>\n", mtime=0), "1 of 1 lines are unreadable"),
        (metadata, gzip.compress(b"<html>\n", mtime=0), "1 of 1 lines are unreadable"),
        (reviews, (source / reviews).read_bytes()[:-9], "damaged gzip file"),
        (reviews, review_line("A", "B000000001", 5).encode(), "leave only domain A"),
    ]
    for name, content, message in cases:
        good = (source / name).read_bytes()
        (source / name).unlink()
        if content is not None:
            (source / name).write_bytes(content)
        with pytest.raises(EDTError, match=message) as caught:
            prepare(["cloth_sport", f"--source={source}"])
        assert "\n" not in str(caught.value)
        assert not INTER.parent.exists()
        (source / name).write_bytes(good)


def test_every_pair_and_edition_has_its_addresses():
    for edition in (2014, 2018, 2023):
        for pair in pair_names():
            options = PrepareCommand(pair=pair, edition=edition)
            sources = pair_sources(options)
            assert pair == "_".join(source.domain for source in sources)
            for source in sources:
                five = f"{source.category}_5.json.gz" if edition < 2023 else "/5core/rating_only/"
                assert five in source.reviews[0] and len(source.reviews) == 1
                assert f"meta_{source.category}.json" in source.items
                every = pair_sources(options.model_copy(update={"core": 0}))
                assert all(five not in path for one in every for path in one.reviews)


def test_any_two_categories_of_files_with_all_reviews(write_raw):
    """Of 2023, in one folder: ratings alone for one category, reviews with texts for the other."""
    lines = raw_lines("2023")
    source = write_raw("2023", lines={
        "Appliances.csv.gz": lines[raw_paths("2023", "cloth")[0]],
        "meta_Appliances.jsonl.gz": lines[raw_paths("2023", "cloth")[1]],
        "Books.jsonl.gz": [
            raw_review_line(user, item, int(time) // 1000)
            for user, item, _, time in (
                line.split(",") for line in lines[raw_paths("2023", "sport")[0]][1:]
            )
        ],
        "meta_Books.jsonl.gz": lines[raw_paths("2023", "sport")[1]],
    })  # fmt: skip
    prepare(["--categories=Appliances,Books", "--edition=2023", f"--source={source}"])
    folder = Path("dataset/appliances_books")
    inter = read_table(folder / "appliances_books.inter")
    items = read_table(folder / "appliances_books.item")
    assert set(items["domain"]) == {"appliances", "books"}
    prepare(["cloth_sport", "--edition=2023", f"--source={write_raw('2023')}", "--dataset=cs"])
    same = read_table(Path("dataset/cs/cs.inter"))
    assert inter.to_dict() == same.to_dict()
    with pytest.raises(DataError, match="was prepared with other options"):
        prepare(["food_kitchen", "--edition=2023", f"--source={source}", "--dataset=cs"])


def test_memory_does_not_grow_with_the_texts(tmp_path):
    """60 MB of reviews cost far less than 60 MB."""
    script = (
        "import resource, sys; from pathlib import Path;"
        "from recbole_edt.prepare.raw import read_reviews;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "small, *big = map(Path, sys.argv[1:]);"
        "read_reviews([small], 0.0); before = peak();"
        "read_reviews(big, 0.0); print(peak() - before)"
    )
    paths = [tmp_path / "small.gz", tmp_path / "big.gz"]
    for path, number in zip(paths, (10, 5_000), strict=True):
        with gzip.open(path, "wt", compresslevel=1) as file:
            for row in range(number):
                line = review_line(f"A{row % 500}", asin("cloth", row % 300), row)
                file.write(line.replace("Nice.", "words " * 1_000) + "\n")
    command = [sys.executable, "-c", script, *map(str, paths), str(paths[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 15_000_000
