"""A probe whose entry module ends the process."""

from __future__ import annotations

import sys

from graftwork.api import BlockSpec, Plugin, hookimpl

sys.exit(3)

PLUGIN = Plugin(namespace="probe-system-exit", summary="Broken on purpose")


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-system-exit/number", target="graftwork.block:RegressionBlock", summary="One number")
