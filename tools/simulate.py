"""A seeded simulator of a shop with two domains, clothing and sport.

Nothing in it comes from real data. Every user has a few *lifestyles* (hiking, golf, dancing, ...)
that both domains serve, an audience, a price level and favourite brands. They shop in sessions; the
next item follows a link of a recent one ("bought together"), or is drawn by taste and by what
complements the last item. Most users shop in one domain only, which is the paper's imbalance.

All randomness is uniform doubles from one PCG64 generator, the only draw whose stream does not
depend on NumPy's choice of algorithm: the same seed gives the same bytes.

Run ``python -m tools.simulate --output dataset_atomic/cloth_sport``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.random import PCG64, Generator

from recbole_edt.errors import ConfigError, EDTError
from recbole_edt.io.files import INTER_COLUMNS, ITEM_COLUMNS, atomic_write, write_table
from tools import shop_vocabulary as words

DOMAINS = ("cloth", "sport")
NOTE = (
    "simulated data: figures on it show that the code works, not how models compare; for Amazon "
    "data put atomic files into dataset/cloth_sport/, which is read instead (docs/data.md)\n"
)

MIN_USERS = 200  # below this the catalogue is smaller than the longest sequence
MIN_ITEM_ROWS = 3  # rarer items leave the shop, as the public data sets are filtered
ITEMS_PER_USER = (0.40, 0.31)
MAX_LENGTH = 60
SHORT_USERS = 0.01  # share with 1 or 2 rows, who can only train
SINGLE_DOMAIN_USERS = 0.74

APPEAL_SPREAD = 1.0  # of the log of an item's popularity
LIFESTYLE_WEIGHTS = (0.40, 0.25)  # a user's first and second lifestyle; the rest is even
AUDIENCE_SHARES = np.array([0.42, 0.50, 0.08])
FOLLOW = 0.35  # chance that the next item is a link of a recent one
LINK_SHARES = np.array([0.5, 0.3, 0.2])
STRAY_LINK = 0.15  # chance that a link ignores lifestyle, brand and kind: only co-purchase shows it
FOCUS = 4.0  # how much a session keeps to its lifestyle
COMPLEMENT = np.array([0.4, 4.0, 2.5, 1.0, 1.0])  # by (kind - last kind) mod 5, same domain
CROSS_COMPLEMENT = np.array([4.0, 2.0, 1.0, 1.0, 1.0])  # the same, other domain
KINDS = len(COMPLEMENT)

DAY = 86_400
OPENING = 1_293_840_000  # 2011-01-01
OPEN_DAYS = 900  # first purchases spread over this many days


@dataclass(frozen=True)
class SimulatedShop:
    """What the simulator makes.

    Attributes
    ----------
    items : DataFrame
        One row per item, columns as in ``ITEM_COLUMNS``.
    interactions : DataFrame
        One row per purchase, columns as in ``INTER_COLUMNS``, by user and position; positions
        run from 1 and timestamps (Unix seconds, whole days) never decrease within a user.
    """

    items: pd.DataFrame
    interactions: pd.DataFrame


class _Catalogue(NamedTuple):
    """Latent traits of the items, one array entry per item."""

    domain: np.ndarray
    lifestyle: np.ndarray
    kind: np.ndarray  # 0..KINDS-1 within lifestyle and domain
    brand: np.ndarray  # index into _brand_names()
    collection: np.ndarray  # index into COLLECTIONS
    audience: np.ndarray  # index into AUDIENCES
    appeal: np.ndarray  # popularity weight, long-tailed


class _Shopper(NamedTuple):
    """One user: how many rows, the chance of buying cloth, and a weight for each item."""

    length: int
    cloth_share: float
    lifestyle: np.ndarray  # [lifestyles], probabilities
    taste: np.ndarray  # [items], unnormalised


def simulate(n_users: int = 2000, seed: int = 2026) -> SimulatedShop:
    """Simulate a shop; the same arguments always give the same frames.

    Parameters
    ----------
    n_users : int
        Number of users, at least 200. The catalogue grows with it (about 0.7 items per user).
    seed : int
        Seed of the one random generator.

    Raises
    ------
    ConfigError
        If there are too few users or the seed is negative.
    """
    if n_users < MIN_USERS:
        raise ConfigError(f"the simulated shop needs at least {MIN_USERS} users, not {n_users}")
    if seed < 0:
        raise ConfigError(f"the seed must not be negative, but is {seed}")
    rng = Generator(PCG64(seed))
    catalogue = _draw_catalogue(rng, n_users)
    items = _describe(rng, catalogue)
    links = _draw_links(rng, catalogue)
    baskets = [_shop(rng, catalogue, links, _draw_shopper(rng, catalogue)) for _ in range(n_users)]
    return _keep_sold(items, baskets)


def write_atomic(shop: SimulatedShop, directory: str | Path, name: str) -> None:
    """Write ``<name>.item`` and ``<name>.inter`` of a shop into a folder.

    An older ``<name>.item_emb.npy`` is removed, since its rows belong to other items.
    """
    directory = Path(directory)
    (directory / f"{name}.item_emb.npy").unlink(missing_ok=True)
    write_table(shop.items, ITEM_COLUMNS, directory / f"{name}.item")
    write_table(shop.interactions, INTER_COLUMNS, directory / f"{name}.inter")
    with atomic_write(directory / "SIMULATED") as temporary:
        temporary.write_text(NOTE, encoding="utf-8")


def write_augmented(shop: SimulatedShop, directory: str | Path, name: str) -> None:
    """Write what ``recbole-edt augment`` makes of a shop with its defaults."""
    from recbole_edt.augment.pipeline import Pipeline
    from recbole_edt.augment.settings import AugmentSettings

    with TemporaryDirectory() as folder:
        raw, made = Path(folder) / "raw", Path(folder) / "augmented"
        write_atomic(shop, raw / name, name)
        Pipeline(name, raw, made, AugmentSettings(min_ratio=0.0)).run()
        for file in sorted((made / name).iterdir()):
            with atomic_write(Path(directory) / file.name) as temporary:
                shutil.copyfile(file, temporary)


# Draws use Generator.random only: NumPy may change its other distributions between versions.


def _pick(rng: Generator, weights: np.ndarray) -> int:
    """Index drawn in proportion to the weights."""
    cumulative = np.cumsum(weights)
    index = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return int(min(index, len(weights) - 1))


def _integers(rng: Generator, bound: int, size: int) -> np.ndarray:
    return (rng.random(size) * bound).astype(np.int64)


def _normal(rng: Generator, size: int) -> np.ndarray:
    """Draw standard normals (Box-Muller)."""
    radius = np.sqrt(-2.0 * np.log1p(-rng.random(size)))
    return radius * np.cos(2.0 * np.pi * rng.random(size))


# The catalogue.


def _brand_names() -> list[str]:
    """Every root with every ending; neighbours differ in both."""
    roots, endings = words.BRAND_ROOTS, words.BRAND_ENDINGS
    return [
        root + endings[(turn + place) % len(endings)]
        for turn in range(len(endings))
        for place, root in enumerate(roots)
    ]


def _draw_catalogue(rng: Generator, n_users: int) -> _Catalogue:
    counts = [round(share * n_users) for share in ITEMS_PER_USER]
    n_items = sum(counts)
    lifestyle = _integers(rng, len(words.LIFESTYLES), n_items)
    # The square skews a lifestyle's brands: the first ones carry more items.
    rank = (rng.random(n_items) ** 2 * words.BRANDS_PER_LIFESTYLE).astype(np.int64)
    brand = lifestyle * words.BRANDS_PER_LIFESTYLE + rank
    collections = _integers(rng, len(words.COLLECTIONS), 3 * len(_brand_names())).reshape(-1, 3)
    return _Catalogue(
        domain=np.repeat([0, 1], counts),
        lifestyle=lifestyle,
        kind=_integers(rng, KINDS, n_items),
        brand=brand,
        collection=collections[brand, _integers(rng, 3, n_items)],
        audience=_draw_audience(rng, lifestyle),
        appeal=np.exp(APPEAL_SPREAD * _normal(rng, n_items)),
    )


def _draw_audience(rng: Generator, lifestyle: np.ndarray) -> np.ndarray:
    """Men, women or kids; evening and yoga wear is for women, the playground is for kids."""
    shares = np.tile([0.45, 0.50, 0.05], (len(words.LIFESTYLES), 1))
    named = {style.department: row for row, style in enumerate(words.LIFESTYLES)}
    shares[[named["Yoga & Pilates"], named["Dance & Gymnastics"]]] = [0.0, 0.95, 0.05]
    shares[named["Golf"]] = [0.8, 0.2, 0.0]
    shares[named["Leisure & Games"]] = [0.0, 0.0, 1.0]
    return np.array([_pick(rng, shares[style]) for style in lifestyle])


def _draw_links(rng: Generator, catalogue: _Catalogue) -> np.ndarray:
    """Items bought after an item, strongest first: int array [items, domains, 3]."""
    n_items, n_links = len(catalogue.domain), len(LINK_SHARES)
    links = np.empty((n_items, len(DOMAINS), n_links), dtype=np.int64)
    for item in range(n_items):
        affinity = _affinity(catalogue, item)
        for domain in range(len(DOMAINS)):
            free = np.where(catalogue.domain == domain, np.sqrt(catalogue.appeal), 0.0)
            free[item] = 0.0
            for slot in range(n_links):
                weights = free if rng.random() < STRAY_LINK else free * affinity
                links[item, domain, slot] = chosen = _pick(rng, weights)
                free[chosen] = 0.0
    return links


def _affinity(catalogue: _Catalogue, item: int) -> np.ndarray:
    """How well each item goes with one item: lifestyle, complement, brand, collection, audience."""
    return (
        np.where(catalogue.lifestyle == catalogue.lifestyle[item], 60.0, 1.0)
        * _complements(catalogue, item)
        * np.where(catalogue.brand == catalogue.brand[item], 3.0, 1.0)
        * np.where(catalogue.collection == catalogue.collection[item], 3.0, 1.0)
        * np.where(catalogue.audience == catalogue.audience[item], 2.0, 1.0)
    )


def _complements(catalogue: _Catalogue, item: int) -> np.ndarray:
    """Weight of each item by its kind, given the last item; 1 outside that item's lifestyle."""
    step = (catalogue.kind - catalogue.kind[item]) % KINDS
    same_domain = catalogue.domain == catalogue.domain[item]
    weights = np.where(same_domain, COMPLEMENT[step], CROSS_COMPLEMENT[step])
    return np.where(catalogue.lifestyle == catalogue.lifestyle[item], weights, 1.0)


# The text of the items.


def _describe(rng: Generator, catalogue: _Catalogue) -> pd.DataFrame:
    brands = _brand_names()
    rows, titles = [], set[str]()
    for item in range(len(catalogue.domain)):
        kind = _kind(catalogue, item)
        adjective, title = _title(rng, catalogue, item)
        for _ in range(20):  # two items of one name would be one thing to a reader
            if title not in titles:
                break
            adjective, title = _title(rng, catalogue, item)
        titles.add(title)
        price = kind.price * np.exp(0.25 * _tier(catalogue.brand[item]) + 0.15 * _normal(rng, 1)[0])
        has_brand, has_description = rng.random() < 0.95, rng.random() < 0.9
        description = _description(rng, catalogue, item, adjective)
        rows.append(
            {
                "item_id": "",  # numbered once the unsold items are gone
                "domain": DOMAINS[catalogue.domain[item]],
                "title": title,
                "brand": brands[catalogue.brand[item]] if has_brand else "",
                "price": round(float(price), 2),
                "categories": _categories(catalogue, item),
                "description": description if has_description else "",
                "generated": "0",
            }
        )
    return pd.DataFrame(rows)


def _kind(catalogue: _Catalogue, item: int, step: int = 0, cross: bool = False) -> words.Kind:
    """Kind of the item, or the one ``step`` further, in its own or the other domain."""
    style = words.LIFESTYLES[catalogue.lifestyle[item]]
    kinds = style.sport if bool(catalogue.domain[item]) != cross else style.cloth
    return kinds[(catalogue.kind[item] + step) % KINDS]


def _tier(brand: np.ndarray | int) -> np.ndarray | int:
    """Price level of a brand: -1 budget, 0 usual, 1 premium."""
    return brand % 3 - 1


def _title(rng: Generator, catalogue: _Catalogue, item: int) -> tuple[str, str]:
    """Draw an adjective and an option (colour, size, ...); gives the adjective and the title."""
    style = words.LIFESTYLES[catalogue.lifestyle[item]]
    options = words.SPORT_OPTIONS if catalogue.domain[item] else words.COLOURS
    adjectives = style.sport_adjectives if catalogue.domain[item] else style.cloth_adjectives
    adjective = adjectives[_integers(rng, len(adjectives), 1)[0]]
    option = options[_integers(rng, len(options), 1)[0]]
    audience = catalogue.audience[item]
    # Gear is seldom made for an audience, except for kids.
    shows_audience = not catalogue.domain[item] or audience == 2
    parts = [
        _brand_names()[catalogue.brand[item]],
        words.COLLECTIONS[catalogue.collection[item]],
        words.AUDIENCES[audience] if shows_audience else "",
        adjective,
        _kind(catalogue, item).name,
    ]
    title = " ".join(part for part in parts if part)
    return adjective, f"{title}, {option}"


def _categories(catalogue: _Catalogue, item: int) -> str:
    kind = _kind(catalogue, item)
    if catalogue.domain[item]:
        department = words.LIFESTYLES[catalogue.lifestyle[item]].department
        path = ("Sports & Outdoors", department, kind.shelf, kind.name)
    else:
        aisle = words.AISLES[catalogue.audience[item]]
        path = ("Clothing, Shoes & Jewelry", aisle, kind.shelf, kind.name)
    return " | ".join(path)


def _description(rng: Generator, catalogue: _Catalogue, item: int, adjective: str) -> str:
    template = words.DESCRIPTIONS[_integers(rng, len(words.DESCRIPTIONS), 1)[0]]
    text = template.format(
        adjective=adjective.lower(),
        kind=_kind(catalogue, item).name.lower(),
        collection=words.COLLECTIONS[catalogue.collection[item]],
        purpose=words.LIFESTYLES[catalogue.lifestyle[item]].purpose,
        partner=_kind(catalogue, item, step=1).name.lower(),
        cross=_kind(catalogue, item, cross=True).name.lower(),
    )
    return text[0].upper() + text[1:]


# The users and their purchases.


def _draw_shopper(rng: Generator, catalogue: _Catalogue) -> _Shopper:
    n_styles = len(words.LIFESTYLES)
    following = 1.0 / np.arange(4, 4 + n_styles)
    lifestyle = np.full(n_styles, (1.0 - sum(LIFESTYLE_WEIGHTS)) / n_styles)
    for weight in LIFESTYLE_WEIGHTS:
        lifestyle[_pick(rng, following)] += weight
    audience = _pick(rng, AUDIENCE_SHARES)
    level = _normal(rng, 1)[0]
    loyalty = np.exp(0.6 * _normal(rng, len(_brand_names())))
    taste = (
        catalogue.appeal
        * lifestyle[catalogue.lifestyle]
        * loyalty[catalogue.brand]
        * np.exp(-0.35 * (_tier(catalogue.brand) - level) ** 2)
        * np.where(catalogue.audience == audience, 1.0, 0.35)
    )
    return _Shopper(_draw_length(rng), _draw_cloth_share(rng), lifestyle, taste)


def _draw_length(rng: Generator) -> int:
    if rng.random() < SHORT_USERS:
        return 1 + int(2 * rng.random())
    return min(5 + int(np.exp(1.2 + _normal(rng, 1)[0])), MAX_LENGTH)


def _draw_cloth_share(rng: Generator) -> float:
    if rng.random() < SINGLE_DOMAIN_USERS:
        return 1.0 if rng.random() < 0.55 else 0.0
    return 0.1 + 0.8 * rng.random()


def _shop(
    rng: Generator, catalogue: _Catalogue, links: np.ndarray, shopper: _Shopper
) -> list[tuple[int, int]]:
    """One user's purchases as (item, timestamp), in order; no item twice."""
    unseen = np.ones(len(catalogue.domain))
    basket: list[tuple[int, int]] = []
    day = int(OPEN_DAYS * rng.random())
    while len(basket) < shopper.length:
        style = _pick(rng, shopper.lifestyle)
        focus = np.where(catalogue.lifestyle == style, FOCUS, 1.0)
        size = min(1 + int(4 * rng.random()), shopper.length - len(basket))
        for _ in range(size):
            domain = 0 if rng.random() < shopper.cloth_share else 1
            open_items = np.where(catalogue.domain == domain, unseen, 0.0)
            weights = open_items * shopper.taste * focus
            item = _next_item(rng, catalogue, links[:, domain], basket, weights)
            unseen[item] = 0.0
            basket.append((item, OPENING + DAY * day))
        day += 1 + int(-45.0 * np.log1p(-rng.random()))
    return basket


def _next_item(
    rng: Generator,
    catalogue: _Catalogue,
    links: np.ndarray,
    basket: list[tuple[int, int]],
    weights: np.ndarray,
) -> int:
    """Follow a link [items, 3] of a recent item, else choose by weight and complement."""
    if not basket:
        return _pick(rng, weights)
    last = basket[-1][0]
    anchor = last if len(basket) == 1 or rng.random() < 0.7 else basket[-2][0]
    linked = links[anchor]
    shares = np.where(weights[linked] > 0.0, LINK_SHARES, 0.0)  # nothing is bought twice
    if rng.random() < FOLLOW and shares.any():
        return int(linked[_pick(rng, shares)])
    return _pick(rng, weights * _complements(catalogue, last))


def _keep_sold(items: pd.DataFrame, baskets: Sequence[list[tuple[int, int]]]) -> SimulatedShop:
    """Drop items with too few purchases, number what is left, and lay out the frames."""
    user = np.repeat(np.arange(len(baskets)), [len(basket) for basket in baskets])
    item, timestamp = np.array([row for basket in baskets for row in basket]).T
    sold = np.bincount(item, minlength=len(items)) >= MIN_ITEM_ROWS
    kept = sold[item]
    user, item, timestamp = user[kept], item[kept], timestamp[kept]

    items = items[sold].reset_index(drop=True)
    number = items.groupby("domain").cumcount() + 1
    items["item_id"] = [f"{d[0]}{n:05d}" for d, n in zip(items["domain"], number, strict=True)]
    user = np.unique(user, return_inverse=True)[1]  # numbered without gaps
    position = pd.Series(user).groupby(user).cumcount().to_numpy() + 1
    interactions = pd.DataFrame(
        {
            "user_id": [f"u{n + 1:05d}" for n in user],
            "item_id": items["item_id"].to_numpy()[(np.cumsum(sold) - 1)[item]],
            "timestamp": timestamp,
            "position": position,
        }
    )
    return SimulatedShop(items, interactions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.simulate",
        description="Write the simulated clothing and sport shop as RecBole atomic files.",
    )
    parser.add_argument("--output", required=True, help="folder that receives the files")
    parser.add_argument("--name", default="cloth_sport", help="name of the data set (%(default)s)")
    parser.add_argument("--seed", type=int, default=2026, help="random seed (%(default)s)")
    parser.add_argument("--users", type=int, default=2000, help="number of users (%(default)s)")
    parser.add_argument(
        "--raw", action="store_true", help="neither augment the data nor add vectors"
    )
    options = parser.parse_args(arguments)
    try:
        shop = simulate(options.users, options.seed)
        if options.raw:
            write_atomic(shop, options.output, options.name)
        else:
            write_augmented(shop, options.output, options.name)
    except (EDTError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.output}: simulated {shop.interactions['user_id'].nunique()} users, "
        f"{len(shop.items)} items, {len(shop.interactions)} purchases (seed {options.seed})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
