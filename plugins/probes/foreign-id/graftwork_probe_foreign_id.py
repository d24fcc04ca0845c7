"""A probe that registers under another plugin's namespace."""

from __future__ import annotations

from graftwork.api import BlockSpec, Plugin, hookimpl

PLUGIN = Plugin(namespace="probe-foreign-id", summary="Broken on purpose")


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-foreign-id/number", target="graftwork.block:RegressionBlock", summary="One number")
    yield BlockSpec(id="core/number", target="graftwork.block:RegressionBlock", summary="Not its own")
