"""A probe that fails after its first hook has succeeded and its second has yielded."""

from __future__ import annotations

from graftwork.api import BlockSpec, MetricSpec, Plugin, hookimpl

PLUGIN = Plugin(namespace="probe-half-way", summary="Broken on purpose")


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-half-way/number", target="graftwork.block:RegressionBlock", summary="One number")


@hookimpl
def graftwork_register_metrics():
    yield MetricSpec(
        id="probe-half-way/metric",
        target="graftwork.metric:accuracy",
        summary="Registered before the failure",
        blocks=("core/class-index",),
        higher_is_better=True,
    )
    raise RuntimeError("half way through")
