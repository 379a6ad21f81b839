"""What docs/serving.md shows: the recipes reproduce the exact recommendations."""

from __future__ import annotations

import re
from http.server import ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

import pandas as pd
import pytest

from recbole_edt import Recommender

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()


@pytest.fixture(scope="module")
def checkpoint(growing, train, tmp_path_factory):
    return train("LLMEDT", tmp_path_factory.mktemp("run"), growing.early, history_weight=0)


def test_the_first_example(checkpoint) -> None:
    (code,) = re.findall(r"```python\n(from recbole_edt.*?)```", PAGE, re.DOTALL)
    for name, ours in (
        ("saved/LLMEDT-cloth_sport-42-0123456789.pth", str(checkpoint)),
        ('"cloth"', '"art"'), ("c00001", "art1"), ("s00057", "bike2"),
        ("u00056", "u12"), ("u00057", "u13"), ("c00002", "art2"), ("s00001", "bike1"),
    ):  # fmt: skip
        assert name in code
        code = code.replace(name, ours)
    exec(code, {})


def test_the_service_answers_as_the_recommender(checkpoint, growing) -> None:
    (code,) = re.findall(r"```python\n(# service.py.*?)```", PAGE, re.DOTALL)
    for named, ours in (
        ("saved/LLMEDT-cloth_sport-....pth", str(checkpoint)),
        ("dataset/cloth_sport/cloth_sport", str(growing.early / "tiny" / "tiny")),
    ):
        assert named in code
        code = code.replace(named, ours)
    made: dict = {"__name__": "service"}
    exec(code, made)
    recommender = made["recommender"]
    mine = recommender.history("u12")
    with ThreadingHTTPServer(("127.0.0.1", 0), made["Service"]) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/"

        def asked(query: str) -> pd.DataFrame:
            return pd.read_json(StringIO(urlopen(place + query).read().decode()))

        for query, users, keys in (
            ("?user=u12", "u12", {}),
            ("?user=u12&fresh=bike2,none", None, {"history": [*mine, "bike2"]}),
            ("?user=nobody&fresh=art1,bike2", None, {"history": ["art1", "bike2"]}),
            ("?user=u12&exclude=art3,none,bike4", "u12", {"exclude": ["art3", "bike4"]}),
        ):
            found = recommender.recommend(users, k=5, **keys)
            assert asked(query)["item_id"].tolist() == found["item_id"].tolist()
        rows = pd.read_csv(growing.early / "tiny" / "tiny.inter", sep="\t")["item_id:token"]
        sold = rows.value_counts()
        for query in ("", "?user=u1x", "?user="):  # strangers: what sells best
            told = asked(query)
            assert told["domain"].value_counts().to_dict() == {"art": 5, "bike": 5}
            for domain, of_domain in told.groupby("domain"):
                most = sold[sold.index.str.startswith(domain)].nlargest(5)
                assert sold[of_domain["item_id"]].tolist() == most.tolist()
        server.shutdown()


@pytest.mark.parametrize(("package", "share"), [("faiss", 1.0), ("hnswlib", 0.98)])
def test_an_index_reproduces_the_exact_top_ten(checkpoint, growing, package, share) -> None:
    pytest.importorskip(package)
    recommender = Recommender.load(checkpoint, use_gpu=False)
    recommender.export("vectors")
    (code,) = re.findall(r"```python\n# faiss_recipe.py\n(.*?)```", PAGE, re.DOTALL)
    if package == "hnswlib":
        (lines,) = re.findall(r"```python\n# hnswlib_recipe.py\n(.*?)```", PAGE, re.DOTALL)
        code = re.sub(r"index = faiss.*?, k\)\n", lines, code, flags=re.DOTALL)
        code = code.replace("import faiss", "")
    inter = growing.early / "tiny" / "tiny.inter"
    for domain in ("art", "bike"):
        given = code.replace('"cloth", "dataset/cloth_sport/cloth_sport.inter"',
                             f'"{domain}", "{inter}"')  # fmt: skip
        assert given != code
        made: dict = {}
        exec(given, made)
        exact = recommender.recommend(k=10, domain=domain).groupby("user_id")["item_id"].agg(list)
        assert made["best"].keys() == set(exact.index)
        same = [found == exact[user] for user, found in made["best"].items()]
        assert sum(same) >= share * len(same)
