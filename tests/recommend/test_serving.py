"""What docs/serving.md shows: the recipes reproduce the exact recommendations."""

from __future__ import annotations

import re
from http.server import ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import urlopen

import pandas as pd
import pytest

from recbole_edt import Recommender

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()


@pytest.fixture(scope="module")
def checkpoint(growing, train, tmp_path_factory):
    return train("LLMEDT", tmp_path_factory.mktemp("run"), growing.early, history_weight=0)


def test_the_first_example(checkpoint, growing) -> None:
    (code,) = re.findall(r"```python\n(from recbole_edt.*?)```", PAGE, re.DOTALL)
    for name, ours in (
        ("saved/LLMEDT-cloth_sport-42-0123456789.pth", str(checkpoint)),
        ('"cloth"', '"art"'), ("c00001", "art1"), ("s00057", "bike2"),
        ("u00056", "u12"), ("u00057", "u13"),
    ):  # fmt: skip
        assert name in code
        code = code.replace(name, ours)
    exec(code, {})


def test_the_service_answers_as_the_recommender(checkpoint) -> None:
    (code,) = re.findall(r"```python\n(# service.py.*?)```", PAGE, re.DOTALL)
    named = "saved/LLMEDT-cloth_sport-....pth"
    assert named in code
    made: dict = {"__name__": "service"}
    exec(code.replace(named, str(checkpoint)), made)
    recommender = made["recommender"]
    with ThreadingHTTPServer(("127.0.0.1", 0), made["Service"]) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/"
        for query, users, history in (
            ("?user=u12", "u12", None),
            ("?history=art1,bike2", None, ["art1", "bike2"]),
        ):
            told = pd.read_json(StringIO(urlopen(place + query).read().decode()))
            found = recommender.recommend(users, k=5, history=history)
            assert told["item_id"].tolist() == found["item_id"].tolist()
        for query, said in (
            ("?user=u1x", "u1"),
            ("", "no user"),
            ("?history=", "history is empty"),
        ):
            with pytest.raises(HTTPError) as refused:
                urlopen(place + query)
            assert refused.value.headers["Content-Type"].startswith("text/plain")
            assert refused.value.code == 404 and said in refused.value.read().decode()
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
