"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graftwork.api import (
    BlockSpec,
    Plugin,
    TransformSpec,
    hookimpl,
)

PLUGIN = Plugin(namespace="collab", summary="Ratings and recommendations: factor models, rankers, top-k, metrics")

ID, CODE = "collab/id", "collab/id-code"

_BLOCKS = (
    (ID, "IdBlock", "A user's or an item's id: a string or a whole number"),
    (CODE, "IdCodeBlock", "The code of an id in a fitted vocabulary, 0 if it is unknown"),
)


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return ids and their codes."""
    for name, attribute, summary in _BLOCKS:
        yield BlockSpec(id=name, target=f"graftwork_collab.blocks:{attribute}", summary=summary)


@hookimpl
def graftwork_register_transforms() -> Iterable[TransformSpec]:
    """Return the way from ids to codes."""
    return (
        TransformSpec(
            id="collab/identify",
            target="graftwork_collab.blocks:Identify",
            summary="Encode an id by its value; unknown ones have a slot",
            accepts=(ID,),
            gives=CODE,
            invertible=True,
        ),
    )
