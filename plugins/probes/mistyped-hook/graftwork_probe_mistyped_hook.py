"""A probe with a hook whose name is mistyped."""

from __future__ import annotations

from graftwork.api import BlockSpec, Plugin, hookimpl

PLUGIN = Plugin(namespace="probe-mistyped-hook", summary="Broken on purpose")


@hookimpl
def graftwork_regsiter_blocks():
    yield BlockSpec(id="probe-mistyped-hook/number", target="graftwork.block:RegressionBlock", summary="One number")
