"""A probe with nothing wrong: what an outside author would publish."""

from __future__ import annotations

from graftwork.api import BlockSpec, CommandSpec, DocLink, Plugin, TransformSpec, hookimpl

PLUGIN = Plugin(namespace="probe-good", summary="Numbers above zero", docs="README.md")

MODULE = "graftwork_probe_good_parts"


@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="probe-good/positive", target=f"{MODULE}:PositiveBlock", summary="A number above zero")


@hookimpl
def graftwork_register_transforms():
    yield TransformSpec(
        id="probe-good/log",
        target=f"{MODULE}:Log",
        summary="Take the logarithm",
        accepts=("probe-good/positive",),
        gives="core/regression",
        invertible=True,
    )


@hookimpl
def graftwork_register_commands():
    yield CommandSpec(
        id="probe-good/greet", name="greet", target="graftwork_probe_good_command:greet", summary="Say hello"
    )


@hookimpl
def graftwork_register_docs():
    yield DocLink(id="probe-good/readme", title="README", url_or_path="README.md", about=("probe-good/positive",))
