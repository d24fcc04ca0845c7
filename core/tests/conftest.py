"""Fixtures that every test of the core can use."""

from __future__ import annotations

import pytest

from graftwork.datablock import DataLoaders
from graftwork.testing.toy import Item, make_items, recipe


@pytest.fixture
def items() -> list[Item]:
    return make_items()


@pytest.fixture
def data(items: list[Item]) -> DataLoaders:
    return recipe().dataloaders(items, bs=16, workers=0)
