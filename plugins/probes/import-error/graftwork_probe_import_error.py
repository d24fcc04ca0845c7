"""A probe whose entry module imports what is not installed."""

from __future__ import annotations

import graftwork_probe_of_nothing  # noqa: F401

from graftwork.api import BlockSpec, Plugin, hookimpl

PLUGIN = Plugin(namespace="probe-import-error", summary="Broken on purpose")


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-import-error/number", target="graftwork.block:RegressionBlock", summary="One number")
