"""A probe whose entry module imports a large library; it works, and costs every command."""

from __future__ import annotations

import torch  # noqa: F401

from graftwork.api import BlockSpec, Plugin, hookimpl

PLUGIN = Plugin(namespace="probe-heavy-import", summary="Heavy on purpose")


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-heavy-import/number", target="graftwork.block:RegressionBlock", summary="One number")
