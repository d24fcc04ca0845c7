"""A probe whose entry module takes its time; it works, and costs every command."""

from __future__ import annotations

import time

from graftwork.api import BlockSpec, Plugin, hookimpl

time.sleep(0.3)

PLUGIN = Plugin(namespace="probe-slow-import", summary="Slow on purpose")


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-slow-import/number", target="graftwork.block:RegressionBlock", summary="One number")
