"""A probe that needs a newer minor version of the plugin interface."""

from __future__ import annotations

from graftwork.api import BlockSpec, Plugin, hookimpl

PLUGIN = Plugin(namespace="probe-too-new-api", requires_api=(1, 99), summary="Broken on purpose")


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-too-new-api/number", target="graftwork.block:RegressionBlock", summary="One number")
