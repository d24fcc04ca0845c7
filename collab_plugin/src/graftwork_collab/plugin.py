"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from graftwork.api import Plugin

PLUGIN = Plugin(namespace="collab", summary="Under construction")
