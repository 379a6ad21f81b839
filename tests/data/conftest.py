"""A random shop, raw and augmented, in memory and as files."""

import pytest


@pytest.fixture(scope="package")
def shop(make_shop):
    return make_shop(seed=11)


@pytest.fixture(scope="package")
def more(shop, augmented_shop):
    """The shop with generated items and inserted rows."""
    return augmented_shop(shop)


@pytest.fixture(scope="package")
def raw(shop, write_dataset, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("raw"), shop)


@pytest.fixture(scope="package")
def augmented(more, write_dataset, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("augmented"), more)
