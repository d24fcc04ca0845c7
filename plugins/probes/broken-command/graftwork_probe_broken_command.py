"""A probe whose command cannot be imported; the plugin itself works."""

from __future__ import annotations

from graftwork.api import BlockSpec, CommandSpec, Plugin, hookimpl

PLUGIN = Plugin(namespace="probe-broken-command", summary="Broken on purpose")


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-broken-command/number", target="graftwork.block:RegressionBlock", summary="One number")


@hookimpl
def graftwork_register_commands():
    yield CommandSpec(
        id="probe-broken-command/break",
        name="break",
        target="graftwork_probe_of_nothing:command",
        summary="Cannot be imported",
    )
