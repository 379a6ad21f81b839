"""Files of one's own in, a data set that trains out; what is wrong with them in one line."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from strangers import STRANGERS, recbole_cdr, recbole_folder

import recbole_edt
from recbole_edt import cli
from recbole_edt.errors import ConfigError, DataError, DependencyError
from recbole_edt.importing.command import import_files
from recbole_edt.io.files import read_table

FOLDER = Path("dataset/mine")
MINE = "--dataset=mine"


def tables(name: str = "mine") -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = Path("dataset", name)
    return read_table(folder / f"{name}.inter"), read_table(folder / f"{name}.item")


def imported(*arguments: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    import_files([*arguments, MINE, "--embed=False"])
    return tables()


def imported_frames(*frames, **settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    recbole_edt.import_frames(*frames, **{"dataset": "mine", "embed": False} | settings)
    return tables()


def rows_file(name: str = "rows.csv", text: str = "") -> str:
    """A small file: u buys a1, b1, a2, b2 and v buys b2, a1."""
    rows = "u,a1,1,9,5\nu,b1,2,7,4\nu,a2,3,5,2\nu,b2,4,9,1\nv,b2,1,3,5\nv,a1,2,9,3\n"
    Path(name).write_text(text or f"user,item,time,price,stars\n{rows}")
    return name


def domains_file(name: str = "items.csv") -> str:
    items = "a1,Oak,x,wood\na2,Elm,x,wood\nb1,Fig,y,fruit\nb2,Hip,y,fruit\n"
    Path(name).write_text(f"id,name,domain,kind\n{items}")
    return name


# -- the whole way --------------------------------------------------------------------------------


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.__name__)
def test_strangers_files_become_the_same_sequences(stranger, shop, sequences, capsys):
    import_files([*stranger(shop), MINE])
    inter, item = tables()
    both = inter.merge(item, on="item_id").astype({"position": int}).sort_values("position")
    assert both.groupby("user_id")["title"].apply(list).to_dict() == sequences
    assert sorted(item["domain"].unique()) == ["books", "films"]
    assert len(np.load(FOLDER / "mine.item_emb.npy")) == len(item)
    assert not {"review", "Kommentar"} & set(item)  # what users wrote is no text of items
    out = capsys.readouterr().out
    assert "30 users" in out and "next: recbole-edt run --model=LLMEDT --dataset=mine" in out
    statistics = json.loads((FOLDER / "mine.statistics.json").read_text())
    assert statistics["rows"] == len(shop)
    assert statistics["prepared"]["rows_after"] == {"read": len(shop), "filtered": len(shop)}


def test_the_same_of_dataframes(shop):
    columns = ["user", "domain", "item", "time", "rating"]
    frame = pd.DataFrame(shop, columns=columns, index=np.arange(len(shop)) // 3)
    frame = frame.astype({"item": float})
    names = pd.DataFrame({"sku": range(20), "name": [f"thing {n} of {n % 7}" for n in range(20)]})
    found = recbole_edt.import_frames(frame, names, dataset="one")
    by_domain = {name: part.drop(columns="domain") for name, part in frame.groupby("domain")}
    again = recbole_edt.import_frames(by_domain, {"films": names}, dataset="two", embed=False)
    assert found["rows"] == again["rows"] == len(shop)
    (one, items), (two, others) = tables("one"), tables("two")
    one, two = (
        frame.sort_values(["user_id", "position"], ignore_index=True) for frame in (one, two)
    )
    assert one.equals(two) and one["item_id"].str.fullmatch(r"(books|films):\d+").all()
    assert (items["title"] != "").all()
    assert ((others["title"] != "") == (others["domain"] == "films")).all()
    with pytest.raises(ConfigError, match="unknown key 'columns'"):
        recbole_edt.import_frames(frame, dataset="three", columns=["a"])


def test_nested_objects_names_of_each_file_and_cells_that_are_empty(capsys):
    rows = [("u", 1, "Oak"), ("v", 1, None), ("u", 2, ""), ("v", 2, "Elm"), ("w", 2, "Elm"),
            ("w", 3, "Fig"), ("u", 3, None), ("v", 3, "Fig"), ("w", 1, "Oak")]  # fmt: skip
    lines = [
        {"buyer": {"id": user}, "what": {"ref": n, "label": label}, "kind": kind, "day": place}
        for place, (user, n, label) in enumerate(rows)
        for kind in ("Tree" if place else "TREE", "bush")
    ]
    Path("sold.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("goods.csv").write_text("nr,colour\n1,brown\n2,grey\n3,green\n")
    given = ["--user=buyer.id", "--item=what.ref,nr", "--time=day", "--domain=kind", MINE]
    import_files(["sold.jsonl", "goods.csv", *given, "--title=what.label"])
    _, items = tables()
    assert items["title"].tolist() == ["Oak", "Elm", "Fig"] * 2
    assert items["colour"].tolist() == ["brown", "grey", "green"] * 2
    assert items["domain"].tolist() == ["Tree"] * 3 + ["bush"] * 3
    assert "2 rows" not in capsys.readouterr().out


def test_the_lines_of_an_order_and_the_ids_of_a_basket_are_rows(capsys):
    lines = [[("a1", "x"), ("b1", "y")], [("b1", "y")], []]
    orders = [
        {"customer_id": 5, "time": n, "lines": [{"sku": sku, "shop": of} for sku, of in one]}
        for n, one in enumerate(lines)
    ]
    Path("orders.json").write_text(json.dumps([*orders, {"customer_id": 6, "lines": [{}]}]))
    assert cli.execute("import", ["orders.json", MINE]) == 2
    assert "(it has: customer_id, time, lines.sku, lines.shop): name" in capsys.readouterr().err
    assert cli.execute("import", ["orders.json", MINE, "--item=lines"]) == 2
    assert "lines holds objects: name a value of them, --item=lines.sku or --item=lines.shop" in (
        capsys.readouterr().err
    )
    named = ["--item=lines.sku", "--domain=lines.shop", "--max_malformed=0.4"]
    assert imported("orders.json", *named)[0]["item_id"].tolist() == ["a1", "b1", "b1"]
    pd.read_json("orders.json").to_csv("orders.csv", index=False)  # lists as text
    assert imported("orders.csv", *named)[0]["item_id"].tolist() == ["a1", "b1", "b1"]
    rows = pd.DataFrame({"user": ["u", "v"], "x": [{"y": 1, "z": "a"}] * 2, "x.y": [3, 4]})
    rows = rows.assign(time=[1, 2], domain=["p", "q"])
    recbole_edt.import_frames(rows, dataset="mine", item=["x.y"], title=["x.z"], embed=False)
    assert tables()[1][["item_id", "title"]].to_numpy().tolist() == [["3", "a"], ["4", "a"]]
    basket = pd.DataFrame({"user": ["u", "v"], "item": [["a1", "b1"], ["a2"]], "time": [1, 2]})
    items = pd.DataFrame({"item": ["a1", "b1", "a2"], "domain": ["x", "y", "x"]})
    recbole_edt.import_frames(basket, items, dataset="mine", embed=False)
    assert tables()[0].iloc[:, :2].to_numpy().tolist() == [["u", "a1"], ["u", "b1"], ["v", "a2"]]


@pytest.mark.parametrize(
    ("stranger", "told"),
    [
        (recbole_cdr, ["title = movie_title", "names of the files"]),
        (recbole_folder, ["title = name", "column category"]),
    ],
)
def test_a_preview_says_what_was_recognised_and_writes_nothing(stranger, told, shop, capsys):
    import_files([*stranger(shop), MINE, "--preview"])
    out = capsys.readouterr().out
    assert all(words in out for words in ["user = user_id", *told])
    assert out.count("\n      0 ") + out.count("\n      1 ") >= 5  # rows of the first users
    assert not Path("dataset").exists()


def test_what_becomes_of_each_column_is_told(capsys):
    rows = "Kunde,SKU,Tag,Name,Jahr,Bild,Region\n"
    rows += "u,1,1,Oak,9,http://x/1,N\nv,1,2,Oak,9,http://x/1,S\nu,2,3,Elm,5,http://x/2,N\n"
    Path("trees.csv").write_text(rows + "v,2,4,Elm,5,http://x/2,O\n")
    keys = ["--user=Kunde,user", "--item=SKU,item", "--time=Tag,time", "--title=Name"]
    import_files(["tree=trees.csv", f"other={rows_file()}", MINE, *keys, "--preview"])
    assert (
        "columns of items: text: title (Name); kept, but no text: Jahr; left out (empty, links, "
        "vectors, or not one value per item): Bild, Region, price\n"
    ) in capsys.readouterr().out


def test_numbers_are_kept_as_they_are_given():
    rows = "user,item,time,rating\nu,1,1,0.000916\nu,2,2,0.0099\nv,1,3,4\nv,2,4,\n"
    Path("one.csv").write_text(rows)
    Path("two.csv").write_text(rows)
    codes = "item,title,isbn,ean,latitude\n1,Oak,0306000001,12345678901234567,33.449376\n"
    Path("books.csv").write_text(codes + "2,Elm,0306000002,12345678901234568,-0.5\n")
    inter, item = imported("x=one.csv", "y=two.csv", "x=books.csv")
    assert sorted(inter["rating"].unique()) == ["", "0.000916", "0.0099", "4"]
    book = item[item["item_id"] == "x:1"].iloc[0]
    assert (book["isbn"], book["ean"], book["latitude"]) == (
        "0306000001", "12345678901234567", "33.449376"
    )  # fmt: skip


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "form"),
    [
        *(("1400000000" + zeros, None) for zeros in ("", ".0", "000", "000000", "000000000")),
        ("2014-05-13T16:53:20Z", None),
        ("2014-05-13 16:53:20 UTC", None),
        ("2014-05-13 16:53:20 GMT", None),
        ("20140513165320", None),
        ("41772.7037037037", None),  # Excel's days
        ("2014-05-13,165320", None),
        ("2014-05-13T16:53:20,4:53:20 PM", None),
        ("2014-05-13 18:53:20+02:00", None),
        ("13/05/2014 16.53.20", "%d/%m/%Y %H.%M.%S"),
    ],
)
def test_times_are_numbers_of_any_unit_or_dates(written, form):
    rows_file(
        text=f"user,item,date,time\nu,a1,{written}\nu,b1,{written}\n".replace(
            ",time", ",time" * (written.count(","))
        )
    )
    given = [f"--time_format={form}"] if form else []
    import_files(["rows.csv", domains_file(), MINE, *given])
    assert tables()[0]["timestamp"].tolist() == ["1400000000"] * 2


@pytest.mark.parametrize(
    ("first", "second", "read"),
    [
        ("20210105", "20210203", [1609804800, 1612310400]),
        ("2010", "2012", [1262304000, 1325376000]),
        ("1980-03-01", "1981-03-01", [320716800, 352252800]),
        ("1600000000", "1600000001000", [1600000000, 1600000001]),  # one unit per number
        ("7", "1001", [7, 1001]),
        ("0.5", "9000000000", [0.5, 9e9]),
        ("1900", "1600000000", "'1900'): beside seconds, numbers before 1990"),
        ("1600000000", "0", "'0'): beside seconds, numbers before 1990"),
        ("9", "2020-01-01", "have no readable time"),
        ("19:00", "07:00", "date holds times of day without a date (such as '19:00')"),
        ("01/10/2021 02:05 PM", "01/10/2021 03:05 AM",
         "such as '%d/%m/%Y %I:%M %p' or '%m/%d/%Y %I:%M %p'; "),
        ("31.12.20", "01.02.21", "such as '%d.%m.%y'; "),
        ("01/10/2021", "01/13/2021", "such as '%m/%d/%Y'; "),
        ("2021/02-01", "2021/02-02", "such as '%Y/%m-%d'; "),
        ("soon", "later", "need --time_format, with %d, %m, %Y and"),
    ],
)  # fmt: skip
def test_a_time_is_read_as_what_it_is_or_refused(first, second, read, capsys):
    rows_file(text=f"user,item,date\nu,a1,{first}\nu,b1,{second}\nv,b1,{second}\n")
    status = cli.execute("import", ["rows.csv", domains_file(), MINE, "--embed=False"])
    out, err = capsys.readouterr()
    assert status == (2 if isinstance(read, str) else 0)
    if isinstance(read, str):
        assert read in err and err.count("\n") == 1
    else:
        assert tables()[0]["timestamp"].astype(float).tolist()[:2] == read
        assert ("they only order the rows" in out) == (read[0] < 100)


@pytest.mark.parametrize(
    ("one", "other", "naive"),
    [
        ("2014-05-13T18:53:20+02:00", "2014-05-13 16:53:20", "y.csv"),
        ("1400000000", "2014-05-13T16:53:20", "y.csv"),
        ("20140513T165320Z", "2014-05-13 18:53:20+02", ""),
        ("2014-05-13", "2014-05-13T00:00:00", ""),
    ],
)
def test_times_without_a_zone_beside_exact_ones_are_told(one, other, naive, capsys):
    for file, date in {"x.csv": one, "y.csv": other}.items():
        rows_file(file, f"user,item,date\nu,{file[0]}1,{date}\n")
    import_files(["x=x.csv", "y=y.csv", MINE, "--embed=False"])
    told = f"without a zone, such as those of {naive}, are read as UTC beside exact ones, such as"
    assert (told in capsys.readouterr().out) == bool(naive)
    assert tables()[0]["timestamp"].nunique() == 1


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        ("2021-03-0{}", "9999-12-31"),
        ("2021-03-0{}", "0001-01-01"),
        ("2021-03-0{} 00:00:00", "1970-01-01 00:00:00"),
        ("2021-03-0{}T00:00:00.5Z", "2199-01-01T00:00:00Z"),
        ("2021030{}", "00000000"),
        ("2021030{}", "20211301"),
        ("2021030{}", "0"),
        ("2021030{}0000", "999912312359"),
        ("2021030{}000000", "00000000000000"),
        ("4425{}.25", "0"),
    ],
)
def test_a_date_that_stands_for_an_unknown_one_is_unreadable(known, unknown, capsys):
    dates = [unknown, *(known.format(n) for n in range(1, 10))]
    rows = [f"u,{'ab'[n % 2]}{n},{date}\n" for n, date in enumerate(dates)]
    rows_file(text="".join(["user,item,date\n", *rows]))
    Path("items.csv").write_text(
        "id,domain\n" + "".join(f"{'ab'[n % 2]}{n},{n % 2}d\n" for n in range(10))
    )
    given = ["rows.csv", "items.csv", MINE, "--embed=False"]
    assert cli.execute("import", given) == 2
    told = capsys.readouterr().err
    assert f"1 of 10 rows have no readable time in date (such as '{unknown}'): beside dates" in told
    assert "or after 2100" in told and told.endswith("--max_malformed=0.1 leaves such rows out\n")
    import_files([*given, "--max_malformed=0.1"])
    inter = tables()[0]
    assert inter["item_id"].tolist() == [f"{'ab'[n % 2]}{n}" for n in range(1, 10)]
    days = inter["timestamp"].astype(float) // 86_400
    assert (days.diff()[1:] == 1).all() and days[0] in (18_687, 18_682)


@pytest.mark.parametrize("time", ["1620864000", "1620864000000", "20210513", "2021-05-13"])
def test_a_time_format_is_for_the_files_that_have_it(time, capsys):
    for file, date in {"x.csv": "13.05.2021", "y.csv": time}.items():
        rows_file(file, f"user,item,date\nu,{file[0]}1,{date}\n")
    import_files(["x=x.csv", "y=y.csv", MINE, "--embed=False", "--time_format=%d.%m.%Y"])
    assert tables()[0]["timestamp"].tolist() == ["1620864000"] * 2
    out = capsys.readouterr().out
    assert out.count(", not of the form %d.%m.%Y)") == 1 and "time = date (dates)\n" in out


def test_unknown_dates_of_dataframes_are_unreadable_and_old_ones_stay():
    frame = pd.DataFrame({"user": "u", "item": range(20), "domain": ["x", "y"] * 10})
    for end, rows in (("9999-12-31", 19), ("2021-01-20", 20), ("1950-01-01", 19)):
        days = [f"2021-01-{n:02}" for n in range(1, 20)] + [end]
        for column in (np.array(days, "datetime64[D]").tolist(), np.array(days, "datetime64[s]")):
            made = recbole_edt.import_frames(
                frame.assign(date=column), dataset="mine", embed=False, max_malformed=0.05
            )
            assert made["rows"] == rows
    old = [f"1951-01-{n:02}" for n in range(1, 21)]
    assert recbole_edt.import_frames(frame.assign(date=old), dataset="mine")["rows"] == 20
    months = pd.period_range("2021-01", periods=20, freq="M")
    recbole_edt.import_frames(frame.assign(date=months), dataset="mine")
    assert tables()[0]["timestamp"].iloc[:2].tolist() == ["1609459200", "1612137600"]


def test_rows_of_one_time_keep_the_order_of_their_file_and_no_file_comes_first():
    for file in "xy":
        rows = [f"u{u},{file}{n},2021-01-01\n" for u in range(200) for n in (2, 0, 1)]
        rows_file(f"{file}.csv", "user,item,date\n" + "".join(rows))
    inter = imported("x=x.csv", "y=y.csv")[0]
    import_files(["y=y.csv", "x=x.csv", "--dataset=turned", "--embed=False"])
    again = tables("turned")[0]
    by = ["user_id", "position"]
    assert inter.sort_values(by).to_numpy().tolist() == again.sort_values(by).to_numpy().tolist()
    items = inter.groupby("user_id")["item_id"].agg(" ".join)
    for file in "xy":
        own = items.str.findall(rf"{file}\d").str.join("")
        assert (own == f"{file}2{file}0{file}1").all()
        assert 70 < items.str.contains(f"{file}1$").sum() < 130


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (["1.60E+12"] * 4, "; 4 rows have the same time (such as '1.60E+12') as others of their"),
        (["2021-01-01", "2021-01-01", "2021-01-01", "2021-01-02"], "; 3 rows have the same time"),
        (["1600000000", "1600000000", "1600000001", "1600000002"], ""),
    ],
)
def test_rounded_times_are_told(times, told, capsys):
    rows = [f"u,{'ab'[n % 2]}{n // 2 + 1},{time}\n" for n, time in enumerate(times)]
    rows_file(text="".join(["user,item,time\n", *rows]))
    import_files(["rows.csv", domains_file(), MINE, "--embed=False"])
    out = capsys.readouterr().out
    assert told in out and ("the same time" in out) == bool(told)


def test_decimal_commas_are_read_and_unreadable_numbers_are_counted(capsys):
    rows = ["u;a1;1;4,5;1.299,90", "u;b1;2;3,0;19,90", "v;a1;3;good;1.299,90", "v;b1;4;5;19,90"]
    rows_file(
        text="\n".join(["user;item;time;stars;price", *rows, "v;b2;5;4;free", "u;b2;6;4;free"])
    )
    import_files(["rows.csv", domains_file(), MINE, "--min_rating=4", "--embed=False"])
    out = capsys.readouterr().out
    assert "; 1 ratings are no numbers (such as 'good')" in out
    assert "prices that are no amount above 0: 1 of 3 (such as 'free')" in out
    inter, item = tables()
    assert inter["rating"].tolist() == ["4.5", "4", "5", "4"]
    assert item["price"].tolist() == ["1299.90", "19.90", ""]


def test_a_domain_of_several_files_and_rows_and_titles_that_lack_are_counted(capsys):
    rows_file("old.csv", "user,item,time,name\nu,a1,1,Oak\nv,a1,2,Oak\n")
    rows_file("new.csv", "user,item,time\nu,a1,1\nu,a2,3\n")
    rows_file("b.csv", "user,item,time\nu,b1,1\nv,b1,2\n")
    for place in range(2):
        import_files(["x=old.csv", "x=new.csv", "y=b.csv", MINE, "--title=name"])
        out = capsys.readouterr().out
        assert "rows: 6 read, 5 without repeated ones, 5 filtered\n" in out
        assert "items without a title: 2 of 3\n" in out
        assert ("written: dataset/mine, in place of the earlier import\n" in out) == place


@pytest.mark.parametrize("word", ["", r"\N", "NULL", "null", "nan", "NaN", "None", "<NA>"])
@pytest.mark.parametrize("role", ["user", "item", "domain"])
def test_a_word_for_no_value_is_no_id_and_no_domain_but_may_be_a_title(role, word, capsys):
    rows = [{"user": f"u{n % 5}", "item": f"{'ab'[n % 2]}{n // 2}", "time": n, "title": "NULL",
             "domain": "xy"[n % 2]} for n in range(20)]  # fmt: skip
    rows[6][role] = word
    pd.DataFrame(rows).to_csv("rows.csv", index=False)
    import_files(["rows.csv", MINE, "--max_malformed=0.1", "--embed=False", "--title=title"])
    out = capsys.readouterr().out
    assert ("; 1 incomplete rows are left out" in out) == (role != "domain")
    assert ("20 complete" in out, "19 of both domains" in out) == (False, role == "domain")
    inter, item = tables()
    assert len(inter) == 19 and set(item["domain"]) == {"x", "y"}
    assert not {word} & {*inter["user_id"], *item["item_id"]}


def test_whole_numbers_that_a_merge_made_floats_are_the_same_ids():
    rows = pd.DataFrame(
        {"user": [7, 7, 8, 8, None], "item": [12, 30, 12, 31, 12], "time": range(5)}
    )
    rows.astype({"item": float}).to_csv("floats.csv", index=False)
    rows[:4].astype(int).to_json("whole.json", orient="records")
    Path("names.csv").write_text("id,title\n12,1.0\n30,2.0\n31,3.0\n")
    Path("mixed.csv").write_text("user,item,time\n7,1.0,1\n7,1.5,2\n")
    files = ["x=floats.csv", "y=whole.json", "x=names.csv", "y=mixed.csv"]
    inter, item = imported(*files, "--max_malformed=0.2")
    assert set(inter["user_id"]) == {"7", "8"}
    assert {"x:12", "x:30", "y:12", "y:1.0", "y:1.5"} <= set(item["item_id"])
    assert item.set_index("item_id")["title"]["x:12"] == "1.0"  # a title stays as it is
    rows["user"] = [7.0, "7", 8, "u8", None]  # as pandas reads a long file
    assert set(imported_frames({"x": rows[:2], "y": rows[2:4]})[0]["user_id"]) == {"7", "8", "u8"}


def test_the_lines_of_pandas_that_the_docs_have():
    page = Path(__file__).resolve().parents[2] / "docs/data.md"
    (block,) = re.findall(r"```python\n(# join.py\n.*?)```", page.read_text("utf-8"), re.S)
    files = {
        "orders": "order_id,user_id,order_number\n1,u,2\n2,u,1\n",
        "lines": "order_id,product_id,event\n1,7,buy\n1,9,view\n2,8,cart\n",
        "products": "product_id,department,name\n7,x,Oak\n8,y,Fig\n9,x,Elm\n",
        "shown": "user,time,impressions\nu,2020-01-02,N7-1 N8-0\nu,2020-01-01,N9-0 N8-1\n",
        "properties": "item,property,value\nN7,section,x\nN8,section,x\nN8,section,y\n",
    }
    for name, text in files.items():
        Path(f"{name}.csv").write_text(text)
    exec(block, {})
    for name, ids in (("shop", ["8", "7"]), ("news", ["N8", "N7"])):
        inter, item = tables(name)
        assert inter["item_id"].tolist() == ids
        assert item["domain"].tolist() == ["x", "y"]


def test_bytes_of_dataframes_are_text():
    rows = [("u", "a", "2021-01-01", "Größe"), ("u", "b", "2021-01-02", "Fig")]
    frame = pd.DataFrame(rows, columns=["user", "item", "time", "title"]).map(str.encode)
    frame["tags"] = [[b"x", "y"], [b"z"]]
    frame["domain"] = [b"one", b"two"]
    inter, item = imported_frames(frame, frame[["item", "title", "tags"]])
    assert inter["user_id"].tolist() == ["u", "u"] and inter["timestamp"][0] == "1609459200"
    expected = [["a", "one", "Größe", "x | y"], ["b", "two", "Fig", "z"]]
    assert item.iloc[:, :4].to_numpy().tolist() == expected
    frame["tags"] = [{"a", "b"}, {"c"}]
    frame["image"] = [{"bytes": b"\x89PNG", "path": "x.png"}, None]  # which nothing needs
    items = frame[["item", "title", "tags", "image"]]
    made = recbole_edt.import_frames(frame, items, dataset="mine")
    assert tables()[1]["tags"].tolist() == ["a | b", "c"]
    assert made["prepared"]["notes"][-1].endswith("not one value per item): image")
    frame["title"] = "Größe".encode("latin-1")
    with pytest.raises(DataError, match=r"column title holds bytes that are not utf-8 .*: decode"):
        recbole_edt.import_frames(frame, dataset="mine")


def test_frames_of_other_libraries_are_made_ones_of_pandas():
    class Other:
        def to_pandas(self):
            return pd.DataFrame(columns, index=[3, 3])

    columns = {"user": ["u", "u"], "item": ["a", "b"], "time": [1, 2], "domain": ["x", "y"]}
    made = recbole_edt.import_frames(Other(), dataset="mine", embed=False)
    assert made["rows"] == 2
    for wrong in ([Other()], columns, "rows.csv", pd.Series([1])):
        with pytest.raises(DataError, match="must be one DataFrame of pandas, not "):
            recbole_edt.import_frames(wrong, dataset="mine")


def test_lists_of_arrow_are_text():
    arrow = pytest.importorskip("pyarrow")
    rows = {"user": ["u", "u"], "item": ["a", "b"], "time": [1, 2], "domain": ["x", "y"]}
    table = arrow.table(rows | {"tags": [["p", "q"], ["r"]]})
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    assert imported_frames(frame, frame.drop(columns="user"))[1]["tags"].tolist() == ["p | q", "r"]
    baskets = frame.assign(item=table["tags"].to_pandas(types_mapper=pd.ArrowDtype))
    assert imported_frames(baskets)[0]["item_id"].tolist() == ["p", "q", "r"]


def test_of_columns_of_one_name_those_that_nothing_needs_are_apart():
    names = pd.DataFrame([["a1", "Oak", "hard", "brown"]], columns=["id", "title", "note", "note"])
    rows = pd.read_csv(rows_file()).assign(domain=lambda rows: rows["item"].str[0])
    item = imported_frames(rows, names)[1].set_index("item_id").loc["a1"]
    assert item[["note", "note.1"]].tolist() == ["hard", "brown"]
    names = names.set_axis(["id", "original", "title", "a b"], axis=1).assign(a_b="dark")
    given = {"title": ["original"], "output_path": Path("dataset")}
    item = imported_frames(rows, names, **given)[1].set_index("item_id").loc["a1"]
    assert item[["title", "title.1", "a_b", "a_b.1"]].tolist() == ["Oak", "hard", "brown", "dark"]
    names = names.set_axis(["id", "title", "note", "note", "note.1"], axis=1)
    item = imported_frames(rows, names)[1].set_index("item_id").loc["a1"]
    assert item[["note", "note.1", "note.1.1"]].tolist() == ["hard", "brown", "dark"]


def test_floats_beyond_whole_numbers_are_attributes_and_no_ids():
    rows = pd.DataFrame({"user": 1, "item": [2.0, 3.0], "time": [1, 2], "domain": ["x", "y"]})
    items = pd.DataFrame({"item": [2, 3], "seen": [1e20, 2.0]})
    assert imported_frames(rows, items)[1]["seen"].astype(float).tolist() == [1e20, 2.0]
    with pytest.raises(DataError, match=r"rounded numbers in place of ids \(such as '1e\+20'\)"):
        recbole_edt.import_frames(rows.assign(item=[1e20, 3.0]), dataset="mine")


@pytest.mark.parametrize("way", ["mapping of numbers", "name", "columns", "index", "rows", "none"])
def test_dataframes_that_lack_or_repeat_something(way):
    frame = pd.DataFrame({"user": ["u"] * 6, "item": range(6), "time": range(10**9, 10**9 + 6)})
    if way == "mapping of numbers":
        given = {1: frame[:3], np.int64(2): frame[3:]}
        assert set(imported_frames(given, {1: frame[["item"]]})[1]["domain"]) == {"1", "2"}
        return
    given, words = {
        "name": ({"a\tb": frame, "c": frame}, r"domain has a tab or a line break: 'a\\tb'"),
        "columns": (pd.concat([frame, frame[["time"]]], axis=1), "has several columns 'time'"),
        "index": (frame.set_index("item", drop=False), "has several columns 'item'"),
        "rows": ({"a": frame, "b": frame[:0]}, "^interactions b has no rows"),
        "none": ({}, "^interactions has no rows"),
    }[way]
    with pytest.raises((ConfigError, DataError), match=words):
        recbole_edt.import_frames(given, dataset="mine")
    if way == "rows":  # those of further domains may have none
        assert len(imported_frames(given | {"c": frame})[0]) == 12


def test_files_may_be_packed_in_parts_in_another_encoding_or_without_a_header():
    Path("parts").mkdir()
    for part, line in enumerate(("u\ta1\t5\t10\nu\tb1\t4\t10", "v\tb1\t4\t7")):
        with lzma.open(f"parts/{part}.data.xz", "wt") as file:
            file.write(line)
    Path("parts/_SUCCESS").touch()
    Path("parts/note.md").touch()
    Path("parts/old.csv").mkdir()
    Path("u.item").write_bytes("id|title|domain\na1|Toyé|film\nb1|Hübsch|book\n".encode("latin-1"))
    columns, encoding = "--columns=user,item,rating,time", "--encoding=latin-1"
    inter, item = imported("parts", "u.item", columns, encoding)
    assert inter[["user_id", "item_id", "rating"]].to_numpy().tolist() == [
        ["u", "a1", "5"], ["u", "b1", "4"], ["v", "b1", "4"],
    ]  # fmt: skip
    assert item["title"].tolist() == ["Hübsch", "Toyé"]


@pytest.mark.parametrize("separator", ["\t", ",", ";", " "])
def test_atomic_files_may_have_another_field_separator(separator):
    rows = ["user_id:token|item_id:token|timestamp:float|price:float"]
    rows += [f"{user}|{item}|{n}|2.5" for n, (user, item, *_) in enumerate(ROWS, start=1)]
    Path("d").mkdir()
    Path("d/d.inter").write_text("\n".join(rows).replace("|", separator))
    items = "\n".join(["item_id:token|title:token_seq|domain:token", "a1|Oak|x", "b1|Fig|y"])
    Path("d/d.item").write_text(items.replace("|", separator))
    inter, item = imported("d")
    assert inter["user_id"].tolist() == ["u", "v", "v"]
    assert item["title"].tolist() == ["Oak", "Fig"] and item["domain"].tolist() == ["x", "y"]


ROWS = [("u", "a1", 1, "Oak"), ("v", "b1", 2, "Fig"), ("v", "a1", 3, "Oak")]  # in order
OBJECTS = [dict(zip(("user", "item", "time", "title"), row, strict=True)) for row in ROWS]


def lines_of(separator: str = ",", end: str = "\n", header: str = "user,item,time,title") -> str:
    rows = [header, *(",".join(map(str, row)) for row in ROWS)]
    return "".join(row.replace(",", separator) + end for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.tsv", lines_of("\t").replace("Oak", '"Oak')),  # marks that open values
        ("rows.csv", lines_of().replace("Oak", '"Oak')),
        ("rows.csv", lines_of().replace("u,a1", '"u",a1').replace("Oak", '"Oak')),
        ("rows.csv", lines_of().replace("Oak", '"Oak 5\\", brown"')),
        ("rows.csv", lines_of(", ").replace("Oak", '"Oak, brown"')),
        ("rows.csv", lines_of(", ")),
        ("rows.csv", lines_of().replace("Oak", '"Oak\nbrown, red, dark\nwood"')),
        ("rows.csv", "sep=;\n" + lines_of(";")),
        ("rows.csv", "# Sales, of 2023\n\n" + lines_of()),
        ("rows.csv", "Sales;;;\r\n" + lines_of(";", "\r\n")),
        ("rows.csv", lines_of(end=",\n").replace("title,", "title")),
        ("rows.csv", lines_of().encode("utf-16")),
        ("rows.csv", lines_of().encode("utf-16-le")),
        ("rows.csv", lines_of().replace("Oak", "Дуб").encode("utf-16-be")),
        ("rows.csv", lines_of("^")),
        ("rows.csv", lines_of("\x01")),
        ("rows.csv", lines_of("\x1f", "\r\n", header="user id,item,time,title")),
        ("rows.dat", lines_of("~").partition("\n")[2]),
        ("rows.csv", "sep=~\n" + lines_of("~").replace("Oak", '"Oak ~"')),
        ("rows.csv", gzip.compress(lines_of().encode(), mtime=0)),
        ("rows.csv.gz", lines_of()),
        ("rows.txt", lines_of(" ")),
        ("rows.dat", lines_of("::").partition("\n")[2]),
        ("rows.json", "\n  " + json.dumps(OBJECTS, indent=1)),
        ("rows.json", json.dumps({"data": OBJECTS, "pages": 1})),
        ("rows.json", json.dumps({"data": OBJECTS}, indent=1)),
        ("rows.json", "\n".join(json.dumps(row, indent=1) for row in OBJECTS)),
        *(("rows.json", pd.DataFrame(OBJECTS, [7, 0, 3]).to_json(orient=orient, indent=indent))
          for orient in ("columns", "index", "split", "table") for indent in (0, 1)),
        ("rows.json", json.dumps(pd.DataFrame(OBJECTS).to_dict("list"))),
        ("rows.json", pd.DataFrame(OBJECTS, [*"xyz"]).to_json()),
        ("rows.json", pd.DataFrame(OBJECTS, [*"xyz"]).to_json(orient="index")),
        ("rows.jsonl", ",\n".join(map(json.dumps, OBJECTS))),
        ("rows.jsonl.gz", "\n".join(map(str, OBJECTS))),  # Python literals, not packed
        ("rows.jsonl", "\n".join(json.dumps(row | {"time": {"$date": {"$numberLong": row["time"]}}})
                                 for row in OBJECTS)),
    ],
)  # fmt: skip
def test_a_file_is_read_by_what_it_holds(name, content):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    columns = ["--columns=user,item,time,title"] * (name == "rows.dat")
    import_files([name, domains_file(), MINE, "--embed=False", "--title=title", *columns])
    found = tables()[0][["user_id", "item_id", "timestamp"]].to_numpy().tolist()
    assert found == [[user, item, str(time)] for user, item, time, _ in ROWS]


def test_spaces_around_the_names_of_columns_do_not_count():
    rows_file()
    Path("x.csv").write_text("id, domain, price , kind\na1, x, 2, wood\na2, x, 2, wood\n")
    Path("y.csv").write_text("id,domain,price,kind\nb1,y,3,fruit\nb2,y,3,nut\n")
    import_files(["rows.csv", "x.csv", "y.csv", MINE, "--embed=False"])
    assert list(tables()[1]) == ["item_id", "domain", "kind", "price", "generated"]


def test_parquet_without_its_reader_says_how_to_get_it(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd, "read_parquet", missing)
    Path("x.parquet").touch()
    with pytest.raises(DependencyError, match=r"pip install 'recbole-edt\[parquet\]'"):
        import_files(["x.parquet", MINE])


# -- items ----------------------------------------------------------------------------------------


def test_attributes_of_items_are_text_numbers_or_nothing():
    rows = [
        {"id": "a1", "title": "1984", "price": "$1,200.50", "year": 1949, "details": {"Ink": "red"},
         "tags": ["x", ["y"]], "url": "https://x/1", "images": [{"large": "http://x/2"}],
         "body html": "<p>It&#39;s&nbsp;long " + "word " * 9 + "</p>", "domain": "x"},
        {"id": "b1", "title": "", "price": None, "year": 2001.5, "domain": "y", "empty": "",
         "vector": [0.5, -1e-7, 12.25]},
        {"id": "b1", "title": "a second line of b1", "domain": "y"},
        {"id": "c1", "title": "never bought", "domain": "y"},
    ]  # fmt: skip
    Path("items.json").write_text(json.dumps(rows))
    rows_file(text=",user,product,sku,time\n0,u,pen,a1,1\n1,u,cup,b1,2\n2,v,cup,b1,2\n")
    import_files(["rows.csv", "items.json", MINE, "--text_length=20"])
    header = (FOLDER / "mine.item").read_text().partition("\n")[0]
    assert header.split("\t") == [
        "item_id:token", "domain:token", "title:token_seq", "body_html:token_seq",
        "details:token_seq", "price:float", "tags:token_seq", "year:float", "generated:token",
    ]  # fmt: skip
    assert tables()[1].to_numpy().tolist() == [
        ["a1", "x", "1984", "It's long word word", "Ink: red", "1200.50", "x | y", "1949.0", "0"],
        ["b1", "y", "", "", "", "", "", "2001.5", "0"],
    ]


@pytest.mark.parametrize(
    ("header", "arguments"),
    [
        ("asin,product,id,domain", []),  # no asin is known; the product is a title
        ("isbn,name,uid,domain", ["--item=item,uid"]),  # elsewhere uid is a user
    ],
)
def test_a_table_of_items_is_joined_by_the_column_that_has_their_ids(header, arguments, capsys):
    lines = [",Oak,a1,x", "9,Elm,a2,x", "9,Fig,b1,y", ",Hip,b2,y"]
    Path("items.csv").write_text("\n".join([header, *lines]))
    import_files([rows_file(), "items.csv", MINE, *arguments])
    assert tables()[1]["title"].tolist() == ["Oak", "Elm", "Fig", "Hip"]
    for domain in ("x", "y"):
        Path(f"{domain}.csv").write_text("user,item,time\nu,0108,1\nu,0208,2\n")
    Path("items.csv").write_text("id,name\n108,Oak\n")
    assert "describes no item" not in capsys.readouterr().out
    import_files(["x=x.csv", "y=y.csv", "items.csv", MINE, "--embed=False"])
    out = capsys.readouterr().out
    assert "items.csv describes no item of the rows: its id has ids such as '108', the rows" in out


def test_items_without_rows_are_left_out_or_kept_where_a_table_says_their_domain(capsys):
    rows_file()
    Path("all.csv").write_text(
        "id,name,kind\na1,Oak,X\na2,Elm,x\nb1,Fig,y\nb2,Hip,y\na3,Ash,x\nb3,Bay,\n"
    )
    Path("y.csv").write_text("id,name\nb1,Fig\nb4,Box\n")
    rows = Path("rows.csv").read_text().splitlines()
    for domain, letter in (("x", "a"), ("y", "b")):
        own = [row for row in rows[1:] if f",{letter}" in row]
        Path(f"{domain}-rows.csv").write_text("\n".join([rows[0], *own]))
    files = ["x=x-rows.csv", "y=y-rows.csv", "all.csv", "y=y.csv", MINE]
    import_files(files)
    told = "items of the tables without rows: 3, left out (--keep_unsold keeps them)\n"
    assert told in capsys.readouterr().out
    assert tables()[1]["item_id"].tolist() == ["a1", "a2", "b1", "b2"]
    import_files([*files, "--keep_unsold", "--min_item_rows=2"])
    out = capsys.readouterr().out
    assert "without rows: 4, kept\nitems without rows whose domain no table says: 1, left" in out
    assert "x: 3 items, 2 rows" in out
    item = tables()[1]
    assert item["item_id"].tolist() == ["a1", "a2", "a3", "b1", "b2", "b4"]
    assert item["unsold"].tolist() == list("011101")
    assert item["title"].tolist() == ["Oak", "Elm", "Ash", "Fig", "Hip", "Box"]
    assert len(np.load(FOLDER / "mine.item_emb.npy")) == 6
    keep = ["--dataset=mine", "--output_path=augmented", "--min_ratio=0"]
    assert cli.execute("augment", keep) == 0
    assert set(read_table(Path("augmented/mine/mine.inter"))["item_id"]) == {"a1", "b2"}


def test_rows_and_items_that_augment_added_are_left_out(capsys):
    folder = Path(__file__).resolve().parents[2] / "dataset_atomic/cloth_sport"
    rows = read_table(folder / "cloth_sport.inter")
    items = read_table(folder / "cloth_sport.item")
    assert (rows["augmented"] == "1").any()
    inter, item = imported(str(folder), "--keep_unsold", "--repeated=all")
    raw = rows[rows["augmented"] == "0"]
    assert inter[["user_id", "item_id"]].to_numpy().tolist() == (
        raw[["user_id", "item_id"]].to_numpy().tolist()
    )
    assert set(item["item_id"]) == set(items.loc[items["generated"] == "0", "item_id"])
    assert (FOLDER / "SIMULATED").read_bytes() == (folder / "SIMULATED").read_bytes()
    told = f"{len(rows) - len(raw):,} rows that augment added are left out"
    assert told in capsys.readouterr().out


# -- domains and filters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "arguments", "domains"),
    [
        ("category", ["a.csv", "b.csv"], {"ac", "bc"}),
        ("kind", ["a.csv", "b.csv"], {"a", "b"}),
        ("category", ["x=a.csv", "y=b.csv", "z=rows.csv", "--domains=x,y"], {"x", "y"}),
    ],
)
def test_the_domain_is_named_or_in_a_column_or_the_name_of_a_file(column, arguments, domains):
    header, *rows = Path(rows_file()).read_text().splitlines()
    for domain in "ab":
        own = [f"{row},{domain}c" for row in rows if f",{domain}" in row]
        Path(f"{domain}.csv").write_text("\n".join([f"{header},{column}", *own]))
    inter, item = imported(*arguments)
    assert len(inter) == 6 and len(item) == 4 and set(item["domain"]) == domains


def test_files_of_two_days_are_no_domains(capsys):
    for day in ("monday", "today"):
        rows_file(f"{day}.csv")
    Path("items.csv").write_text("id,category\na1,x\na2,x\nb1,y\nb2,z\n")
    files = ["monday.csv", "today.csv", "items.csv", MINE, "--embed=False"]
    assert cli.execute("import", files) == 2
    assert "category has 3 values (x 6 rows, z 4 rows, y 2 rows): --domains=A,B chooses two, A" in (
        capsys.readouterr().err
    )
    import_files([*files, "--domains=x,z"])
    assert set(tables()[1]["item_id"]) == {"a1", "a2", "b2"}


def test_files_in_the_users_home(monkeypatch, tmp_path):
    rows_file()
    domains_file()
    monkeypatch.setenv("HOME", str(tmp_path))
    import_files(["~/rows.csv", "~/items.csv", MINE, "--embed=False", "--output_path=~/other"])
    assert Path("other/mine/mine.inter").is_file()
    import_files(["x=~/rows.csv", "y=~/rows.csv", MINE, "--embed=False"])


def test_a_table_that_describes_ids_of_both_domains_is_named(capsys):
    for shop in ("x", "y"):
        rows_file(f"{shop}.csv")
    Path("items.csv").write_text("id,name\na1,Oak\n")
    for given, told in (("items.csv", True), ("x=items.csv", False)):
        import_files(["x=x.csv", "y=y.csv", given, MINE, "--embed=False"])
        said = "items.csv describes items of both domains: DOMAIN=items.csv if it is of one"
        assert (said in capsys.readouterr().out) == told
        assert (tables()[1].set_index("item_id")["title"]["y:a1"] == "Oak") == told


def test_ids_that_both_domains_have_are_described_apart():
    """By a column of the rows, one of a table, and an earlier ``.item``, whose ids are longer."""
    lines = [f"u,{n},{n},{shop},{shop} {n}" for shop in ("x", "y") for n in (1, 2, 1)]
    Path("rows.csv").write_text("\n".join(["user,item,time,domain,title", *lines]))
    expected = {f"{shop}:{n}": f"{shop} {n}" for shop in ("x", "y") for n in (1, 2)}
    import_files(["rows.csv", MINE, "--repeated=all", "--embed=False"])
    assert dict(tables()[1][["item_id", "title"]].to_numpy()) == expected
    bare = [line.rsplit(",", 1)[0] for line in lines]
    Path("bare.csv").write_text("\n".join(["user,item,time,domain", *bare[:4]]))
    for shop, rows in (("x", bare[:3]), ("y", bare[3:4])):
        Path(f"{shop}.csv").write_text("\n".join(["user,item,time,domain", *rows]))
    names = [f"{n},{shop},{shop} {n}" for shop in ("x", "y") for n in (1, 2)]
    Path("names.csv").write_text("\n".join(["id,domain,title", *names]))
    Path("old").mkdir()
    Path("dataset/mine/mine.item").rename("old/mine.item")
    for rows in (["bare.csv"], ["x=x.csv", "y=y.csv"]):
        for table in ("names.csv", "old/mine.item"):
            import_files([*rows, table, MINE, "--keep_unsold", "--embed=False", "--output_path=o"])
            item = read_table(Path("o/mine/mine.item"))
            assert dict(item[["item_id", "title"]].to_numpy()) == expected
            assert item.loc[item["unsold"] == "1", "item_id"].tolist() == ["y:2"]


def test_two_of_many_domains_and_only_what_is_liked(capsys):
    items = "id,category\na1,x\na2,z\nb1,y\nb2,y\nc1,z\nc2,\nc3,x|z\n"
    Path("items.csv").write_text(items)
    rows_file()
    chosen = [MINE, "--domains=x,y", "--embed=False"]
    import_files(["x=rows.csv", "y=rows.csv", "z=rows.csv", "z=items.csv", *chosen])
    assert "items of the tables without rows" not in capsys.readouterr().out
    import_files(["rows.csv", "items.csv", *chosen, "--min_rating=3"])
    assert "items of the tables without rows: 2, left" in capsys.readouterr().out  # c2 and c3
    inter, item = tables()
    assert inter["item_id"].tolist() == ["a1", "b1", "b2", "a1"]
    assert set(item["domain"]) == {"x", "y"}
    steps = json.loads((FOLDER / "mine.statistics.json").read_text())["prepared"]["rows_after"]
    assert steps == {"read": 6, "rated 3 or more": 4, "filtered": 4}


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        (["x|z", "['z', 'y', 'x']", "x > z", "y"], True),
        (["x y", "y x", "x", "y"], True),
        (["x", "{'id': 1, 'name': 'y'}", "x", "y"], True),
        (["x", "y", "x", "y"], False),
    ],
)
def test_of_lists_the_domain_that_they_name_first_counts(lists, told, capsys):
    ids = ("a1", "a2", "b1", "b2", "c1", "c2")
    lists = [*lists, lists[0], "z"]  # of items without rows
    pd.DataFrame({"id": ids, "kind": lists}).to_csv("items.csv", index=False)
    chosen = [MINE, "--domain=kind", "--domains=x,y", "--embed=False"]
    import_files([rows_file(), "items.csv", *chosen])
    item = tables()[1].set_index("item_id")["domain"]
    assert item.to_dict() == {"a1": "x", "a2": "y", "b1": "x", "b2": "y"}
    assert ("; lists, such as '" in capsys.readouterr().out) == told


def test_rows_that_were_shown_and_not_taken_are_told(capsys):
    rows = "u,a1,1,1\nu,b1,2,0\nu,b2,3,1\nv,a2,4,0.0\nv,a1,5,1\n"
    rows_file(text=f"user,item,time,label\n{rows}")
    import_files(["rows.csv", domains_file(), MINE])
    assert (
        "2 rows have label 0 or less and count like the others (--rating=label --min_rating=1"
        in (capsys.readouterr().out)
    )
    import_files(["rows.csv", "items.csv", MINE, "--rating=label", "--min_rating=1"])
    assert "have label 0" not in capsys.readouterr().out
    assert tables()[0]["item_id"].tolist() == ["a1", "b2", "a1"]
    sold = "u,a1,1,6\nu,b1,2,-1\n"
    import_files([rows_file(text=f"user,item,time,Quantity\n{sold}"), "items.csv", MINE])
    assert "1 rows have Quantity 0 or less and count like the others" in capsys.readouterr().out
    seen = "u,a1,1,view\nu,b1,2,view\nu,b2,3,buy\n"
    import_files([rows_file(text=f"user,item,time,event_type\n{seen}"), "items.csv", MINE])
    assert "; rows of every event_type count alike (view 2 rows, buy 1 rows)" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("guest", ["0", "-1", "guest"])
def test_a_user_that_may_be_many_is_told(guest, capsys):
    rows = [f"{user},{letter}1,{n}" for user in range(100, 150) for n, letter in enumerate("ab")]
    rows_file(text="\n".join(["user,item,time", *rows]))
    import_files(["rows.csv", domains_file(), MINE])
    assert "such as guests" not in capsys.readouterr().out
    rows += [f"{guest},{letter}2,{n}" for n in range(50) for letter in "ab"]
    rows_file(text="\n".join(["user,item,time", *rows]))
    import_files(["rows.csv", domains_file(), MINE])
    assert f"user '{guest}' has 100 of 200 rows: if that stands" in capsys.readouterr().out


def test_repeated_rows_ties_and_rows_without_times():
    rows_file(text="user,item,time\nu,b1,5\nu,a1,5\nu,b1,5\nu,b2,1\nu,b1,9\n")
    expected = {
        "exact": ["b2", "b1", "a1", "b1"],  # ties in the order of the file
        "first": ["b2", "b1", "a1"],
        "all": ["b2", "b1", "a1", "b1", "b1"],
    }
    for repeated, items in expected.items():
        import_files(["rows.csv", domains_file(), MINE, f"--repeated={repeated}"])
        assert tables()[0]["item_id"].tolist() == items
    import_files(["rows.csv", "items.csv", MINE, "--time=none", "--repeated=first"])
    assert tables()[0]["item_id"].tolist() == ["b1", "a1", "b2"]


# -- what must not be lost ------------------------------------------------------------------------


def test_an_earlier_import_is_replaced_and_nothing_else(monkeypatch):
    files = [rows_file(), domains_file()]
    import_files([*files, MINE])
    before = {path.name: path.read_bytes() for path in FOLDER.iterdir()}

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("recbole_edt.io.datasets.files.write_text", killed)
        import_files([*files, MINE, "--repeated=first"])
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == before
    assert sorted(path.name for path in Path("dataset").iterdir()) == [".import", "mine"]
    import_files([*files, MINE, "--min_user_rows=3"])
    assert len(tables()[0]) == 4
    np.save(FOLDER / "mine.item_emb.npy", np.ones((3, 2)))
    with pytest.raises(DataError, match="was changed since it was made"):
        import_files([*files, MINE])
    Path("dataset/other").mkdir()
    Path("dataset/other/other.inter").write_text("mine")
    with pytest.raises(DataError, match="was not made by import"):
        import_files([*files, "--dataset=other"])


# -- mistakes -------------------------------------------------------------------------------------


FAULTY: dict[str, str | bytes] = {
    "notes.md": "",
    "items/x.item": "item_id:token\n1\n",
    "empty.csv": "",
    "header.csv": "user,item,time\n",
    "list.json": "[1]",
    "latin.csv": b"user,item,time\nu,\xe9,1\n",
    "damaged.csv.gz": b"\x1f\x8b\x08\x00",
    "damaged.jsonl": '{"user": 1}\n{"user"\n',
    "dates.jsonl": '{"id": "a1", "year": 1}',
    "ragged.csv": "user,item,time\nu,a,1\nu,b,2,3\n",
    "quotes.csv": 'user,item,time\nu,"a,1",1\nu,b,1\nu,"a"b,2\n',
    "hiding.csv": 'user,item,time,name\nu,a,1,"Oak\n'
    + "u,a,1,Oak\n" * 5
    + 'u,a,1,TV 9"\nu,"b,",1,x\n',
    "hiding.tsv": 'user\titem\ttime\nu\ta\t"1\nv\tb\nw\tc\t2"\n',
    "gaps.csv": "user,item,time\nu,a1,1\n,a1,2\nu,b1,3\n",
    "pointer.csv": "version https://git-lfs.github.com/spec/v1\nsize 12345\n",
    "visits.csv": "user,a,place_id,time\nu,b,p1,1\n",
    "places.csv": "a,place_id\nb,p1\n",
    "torn.csv": "user,item,time\n,a1,1\nu,,2\n",
    "late.csv": "user,item,time\nu,a1,1\nu,b1,\nv,b1,3\n",
    "rare.csv": "user,item,time,stars\nu,a1,1,0\nv,a1,2,0\nu,b1,3,0\n",
    "z.csv": "id,domain\nz1,x\n",
    "orders.csv": "customer,order\nu,1\n",
    "lines.csv": "order,item\n1,a1\n",
    "meta.csv": "item,name,date\na1,Oak,\n",
    "book.xlsx": "",
    "odd.csv": "Kunde,Ware\n1,2\n",
    "log.csv": "date,pages\n1,2\n1,3\n",
    "new.csv": "kunde,item,time\nu,b1,1\nu,b1,2\n",
    "wares.csv": "Ware,Farbe\n" + "1,2\n" * 9,
    "deals.jsonl": '{"buyer": {"id": 1, "town": "x"}, "n": 2}',
    "iso.csv": "user,item,date,stars\nu,b1,2014-05-13,good\n",
    "dates.csv": "user,item,date\nu,a1,13.05.2014\n",
    "us.csv": "user,item,date\nu,b1,05/13/2014\n",
    "order.csv": "user,item,date\nu,b1,7\n",
    "soon.csv": "user,item,time\nu,b1,soon\n",
    "unix.csv": "user,item,time\nu,a1,1600001000\nu,b1,1600001001\nv,b1,2020-09-13\n",
    "none.csv": "user,item,time\nNULL,b1,1\n,b2,2\n",
    "caret.csv": "Kunde^Ware\n1^2\n1^a b c\n",
    "kunde.json": '{"Kunde": {"0": 1, "1": 1}, "Ware": {"0": 2, "1": 3}}',
    "ware.json": '{"0": {"Kunde": 1, "Ware": 2}, "1": {"Kunde": 1, "Ware": 2}}',
    "uneven.json": '{"user": [1, 2], "item": [2]}',
    "long.jsonl": json.dumps({"user": 1, "item": 2, "time": "x" * 9000}),
    "url.csv": f"user,item,time\nu,{'h' * 1200},1\n",
    "sheet.csv": b"PK\x03\x04\x14",
    "twice.csv": "user,item, item,time\nu,a1,Oak,1\nu,b1,Fig,2\n",
    "excel.csv": "user,item,time\n7.65612E+16,a1,1\n7,b1,2\n",
    "excel-items.csv": "id,domain\na1,x\n1E+10,y\n",
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([MINE], "name the files to import"),
        (["rows.csv"], "--dataset is missing"),
        (["rows.csv", MINE, "--domian=x"], "unknown key 'domian', did you mean 'domain'"),
        (["rows.csv", "--dataset=../mine"], "dataset must be a name without slashes"),
        (["nowhere.csv", MINE], "nowhere.csv does not exist"),
        (["x=", "rows.csv", MINE], "x= does not exist (files are FILE or DOMAIN=FILE)"),
        (["notes.md", MINE], "notes.md is of no kind that can be read"),
        (["items", MINE], "items holds items, but no .inter"),
        (["folder", MINE], "folder holds no file of a kind that can be read"),
        (["empty.csv", MINE], "empty.csv is empty"),
        (["header.csv", MINE], "header.csv has no rows"),
        (["list.json", MINE], "list.json holds other JSON than objects"),
        (["latin.csv", MINE],
         "utf-8 text: name its encoding, such as --encoding=cp1252 (gb18030 for Chinese, cp932"),
        (["pointer.csv", MINE], "pointer.csv is a pointer to a file: `git lfs pull` fetches it"),
        (["sheet.csv", MINE], "sheet.csv is a spreadsheet or a zip archive: save the sheet as CSV"),
        (["rows.csv", MINE, "--encoding=klingon"], "encoding 'klingon' is not known"),
        (["damaged.csv.gz", MINE], "damaged.csv.gz is a damaged .gz file"),
        (["damaged.jsonl", MINE], "damaged.jsonl: line 2 is no whole JSON object"),
        (["ragged.csv", MINE], "ragged.csv: line 3 has 4 fields instead of 3: a value that"),
        (["quotes.csv", MINE], "quotes.csv: line 4: a quotation mark opens a value and does not"),
        (["hiding.csv", MINE], "hiding.csv: line 2: a quotation mark opens a value and does"),
        (["log.csv", MINE, "--columns=a,b,c"], "has 2 columns in its first line, and --c"),
        (["odd.csv", "wares.csv", MINE], "; wares.csv has no column that is known for the user,"),
        (["odd.csv", "wares.csv", MINE], "): name them by --user=COLUMN,COLUMN --item=COLUMN,C"),
        (["gaps.csv", MINE], "user in user (such as ''); --max_malformed=0.34 leaves"),
        (["rows.csv", MINE, "--item=itm"], "--item=itm, did you mean 'item'?"),
        (["hiding.tsv", MINE], "hiding.tsv: line 2: a quotation mark opens a value and does"),
        (["rows.csv", MINE, "--columns=a,b"], "--columns is for files without a header line"),
        (["dates.csv", "items.csv", MINE], "need --time_format, such as '%d.%m.%Y'"),
        (["dates.csv", "wares.csv", MINE, "--item=item"], "name it by --item=item,COLUMN"),
        (["deals.jsonl", MINE], "(it has: buyer.id, buyer.town, n): name it by --user=COLUMN"),
        (["rows.csv", "items.csv", MINE, "--title=nam"], "column 'nam' of the title, did you mean"),
        (["rows.csv", MINE], "the domains are unknown: no column names two: --domain=COLUMN"),
        (["rows.csv", MINE, "--domain=prise"], "column 'prise' of the domain, did you mean"),
        (["rows.csv", MINE, "--domain=price"], "column price has 4 values"),
        (["x=rows.csv", MINE], "1 domains (x 6 rows), and exactly two are needed: add another, DO"),
        (["rows.csv", "items.csv", MINE, "--min_rating=9"], "rated 9 or more: lower --min_rating"),
        (["x=rows.csv", "y=rare.csv", MINE, "--min_rating=1"], "FILE, or lower --min_rating"),
        (["x=rows.csv", "rows.csv", MINE], "name the domain of rows.csv, too"),
        (["x=rows.csv", "y=rows.csv", "items.csv", "dates.jsonl", MINE], "DOMAIN=dates.jsonl"),
        (["x=rows.csv", "new.csv", MINE, "--user=user"], "=user,COLUMN; if new.csv is a table"),
        (["rows.csv", "log.csv", MINE], "log.csv has no column that is known for the item (it has"),
        (["x=rows.csv", "y=wares.csv", MINE, "--item=item,Ware"], "; no other file has rows of y"),
        (["x=rows.csv", "y=iso.csv", MINE], "cannot be compared with those of iso.csv: name a"),
        (["x=dates.csv", "y=us.csv", MINE, "--time_format=%d.%m.%Y"],
         "such as '%m/%d/%Y'; if other files need %d.%m.%Y, write these as 2020-12-31 12:00; "),
        (["x=dates.csv", "y=order.csv", MINE, "--time_format=%d.%m.%Y"], "no readable time"),
        (["iso.csv", MINE, "--time_format=%H:%M"], "time_format '%H:%M' has no year"),
        (["unix.csv", MINE], "'2020-09-13'): the other rows hold seconds: write all of them alike"),
        (["x=rows.csv", "y=iso.csv", MINE, "--min_rating=1"], "(such as 'good'): --rating=COLUMN"),
        (["rows.csv", "items.csv", MINE, "--domains=x,z"], "no row is of the domain 'z'"),
        (["rows.csv", "items.csv", MINE, "--output_path=odd.csv"], "odd.csv takes no new file"),
        (["rows.csv", "items.csv", MINE, "--lsa_items=x.item"], "x.item: there is no such file"),
        (["rows.csv", "items.csv", MINE, "--lsa_items=latin.csv"], "is not of the form name:type"),
        (["rows.csv", "items.csv", MINE, "--lsa_items=items/x.item"], "no column domain:token"),
        (["rows.csv", "rows.csv", MINE, "--time=none"], "--time=none needs all rows"),
        (["rows.csv", "items.csv", MINE, "--text_columns=nme"], "no column 'nme'"),
        (["soon.csv", MINE], "%Y and %H:%M for day, month, year and time; --time=COLUMN names ano"),
        (["rows.csv", MINE, "--time=user"], "known for the user (it has: user, item, time"),
        (["torn.csv", MINE, "--max_malformed=0.9"], "no row of torn.csv has a user, an item and"),
        (["late.csv", MINE], "no readable time in time (such as ''); --max_malformed=0.34 leaves"),
        (["rows.csv", "z.csv", MINE], "domain says nothing of the items of the rows (such as 'a1'"),
        (["rows.csv", MINE], "names a column that holds it (such as price), A=FILE B=FILE"),
        (["rows.csv", "items.csv", MINE, "--domain=kind", "--domains=p,q"], "the domain 'p' (th"),
        (["rare.csv", "items.csv", MINE, "--min_item_rows=2"], "leave only domain x of 3 rows"),
        (["orders.csv", "lines.csv", MINE], "if order joins it to lines.csv, join the two first"),
        (["visits.csv", "places.csv", MINE], "is place_id, which several files have, the item"),
        (["orders.csv", "rows.csv", MINE], "if orders.csv describes users, leave it out"),
        (["x=rows.csv", "y=rows.csv", "x=meta.csv", MINE], "of items, say --time=time, as the row"),
        (["book.xlsx", MINE], "unpack archives, and give import_frames what pandas reads"),
        (["x=rows.csv", "y=none.csv", MINE], "(such as 'NULL'); --user=COLUMN names another col"),
        (["caret.csv", MINE], "column, 'Kunde^Ware', which is not known: if it holds more, write"),
        (["kunde.json", MINE], "(it has: Kunde, Ware): name it by --user=COLUMN --item=COLUMN"),
        (["ware.json", MINE], "(it has: Kunde, Ware): name it by --user=COLUMN --item=COLUMN"),
        (["uneven.json", MINE], "uneven.json has columns or rows of different lengths"),
        (["long.jsonl", MINE], f"(such as '{'x' * 80}...'); dates of another form"),
        (["x=rows.csv", "y=url.csv", MINE], "item_id has 1,200 characters, more than 1,000"),
        (["twice.csv", MINE], "twice.csv has several columns 'item': keep one of them"),
        (["excel.csv", MINE], "user holds rounded numbers in place of ids (such as '7.65612E+16')"),
        (["rows.csv", "excel-items.csv", MINE], "'1E+10'), as spreadsheets write long ones: ex"),
        (["a\tb=rows.csv", "y=rows.csv", MINE], "domain has a tab or a line break: 'a\\tb'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line_and_nothing_is_written(arguments, words, capsys):
    rows_file()
    domains_file()
    for folder in ("folder", "items"):
        Path(folder).mkdir()
    for name, content in FAULTY.items():
        if any(name.split("/")[0] in argument for argument in arguments):
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(Path().rglob("*"))
    assert cli.execute("import", arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert words in err
    assert sorted(Path().rglob("*")) == before


def test_ids_of_groups_do_not_join_a_table_whose_own_ids_are_there(capsys):
    others = "".join(f"x{n},a1,Old {n},x\n" for n in range(9))  # of the group a1
    Path("items.csv").write_text(
        f"item_id,asin,title,domain\na1,a1,Oak,x\na2,a1,Elm,x\nb1,b1,Fig,y\nb2,b1,Hip,y\n{others}"
    )
    assert imported(rows_file(), "items.csv")[1]["title"].tolist() == ["Oak", "Elm", "Fig", "Hip"]
    nothing = pd.DataFrame({"item_id": [], "title": []})
    rows = pd.read_csv("rows.csv").assign(domain=lambda row: row["item"].str[0])
    assert recbole_edt.import_frames(rows, nothing, dataset="mine", embed=False)["rows"] == 6


def test_a_row_is_no_header_whatever_its_text_says(capsys):
    Path("items.csv").write_text(
        'code,wood,description\nq,x,"Tags, name, date"\nr,y,"Tags, name, user, date"\n'
    )
    assert cli.execute("import", [rows_file(), "items.csv", MINE]) == 2
    assert "(it has: code, wood, description)" in capsys.readouterr().err
    Path("items.csv").write_text('id,domain,notes\na1,x,"Tags, name, item"\na2,x,\nb1,y,\nb2,y,\n')
    assert imported("rows.csv", "items.csv")[1]["item_id"].tolist() == ["a1", "a2", "b1", "b2"]
    lines = [f"u,{letter}{n},{n},{letter} {n},{letter}" for n in range(4) for letter in "ab"]
    Path("bare.csv").write_text("\n".join([*lines, "u,b9,9,Title; Date,b"]))
    columns = "--columns=user,item,time,title,domain"
    import_files(["bare.csv", MINE, columns, "--embed=False"])
    assert len(tables()[0]) == 9


def test_a_name_of_several_words_is_no_list_of_domains():
    kinds = ["Home", "Home Improvement", "Kitchen", "All Kitchen"]
    pd.DataFrame({"id": ["a1", "a2", "b1", "b2"], "kind": kinds}).to_csv("items.csv", index=False)
    chosen = ["--domain=kind", "--domains=Home,Kitchen"]
    assert imported(rows_file(), "items.csv", *chosen)[1]["item_id"].tolist() == ["a1", "b1"]


def test_files_that_number_their_own_items_are_domains():
    for domain, kinds in (("books", "xyz"), ("films", "pqr")):
        rows = [f"u{user},{n},{user},{kinds[n % 3]}" for user in range(3) for n in range(5)]
        Path(f"{domain}.csv").write_text("\n".join(["user,item,time,category", *rows]))
    import_files(["books.csv", "films.csv", MINE, "--embed=False"])
    assert set(tables()[1]["domain"]) == {"books", "films"}


def test_a_key_of_a_title_leaves_the_user_where_they_are():
    rows = "member,item,time,domain\nMay,a,1,x\nMay,b,2,y\n"
    import_files([rows_file(text=rows), MINE, "--title=member", "--embed=False"])
    assert set(tables()[0]["user_id"]) == {"May"}
