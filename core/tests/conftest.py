"""Fixtures that every test of the core can use."""

from __future__ import annotations

import pytest

from graftwork.datablock import DataLoaders
from graftwork.plugins import Host
from graftwork.testing import toy_plugin
from graftwork.testing.toy import Item, make_items, recipe


@pytest.fixture
def items() -> list[Item]:
    return make_items()


@pytest.fixture
def data(items: list[Item]) -> DataLoaders:
    return recipe().dataloaders(items, bs=16, workers=0)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Put a host in place that has the core's components and the toy plugin's, and nothing installed."""
    host = Host(find=lambda: (), env={})
    assert host.register(toy_plugin).state == "ok"
    monkeypatch.setattr("graftwork.plugins.host._HOST", host)
    return host
