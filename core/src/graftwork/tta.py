"""Test-time augmentation: predict every item as training would see it, several times, and average what is said."""

from __future__ import annotations

from dataclasses import replace

import torch

from graftwork.dataloader import ItemLoader, Loader
from graftwork.errors import DataError, OptionError
from graftwork.loop import Feed, collect
from graftwork.objective import Objective
from graftwork.plan import Plan
from graftwork.prediction import Predictions

__all__ = ["tta"]


@torch.inference_mode()
def tta(
    feed: Feed, objective: Objective, loader: Loader, *, n: int = 4, beta: float = 0.25, use_max: bool = False
) -> Predictions:
    """Return the mean of `n` augmented passes, with the plain prediction at weight `beta`; see `Learner.tta`."""
    _check(feed.plan, n, beta)
    plain = collect(feed, objective, loader.in_order())
    augmented = _augmented(loader)
    # Epochs that training never has.
    passes = [collect(feed, objective, augmented, epoch=-1 - number) for number in range(n)]
    if any(not torch.equal(each.index, plain.index) for each in passes):
        raise DataError(
            "some items could be read in one pass and not in another, so their predictions cannot be averaged"
        )
    said = {name: torch.stack([each.by_target[name] for each in passes]) for name in plain.by_target}
    joined = {
        name: torch.cat([columns, plain.by_target[name][None]]).amax(0)
        if use_max
        else columns.mean(0).lerp(plain.by_target[name], beta)
        for name, columns in said.items()
    }
    return replace(plain, by_target=joined, losses=None)


def _check(plan: Plan, n: int, beta: float) -> None:
    if n < 1 or not 0 <= beta <= 1:
        raise OptionError(f"tta: n={n} passes must be at least 1, and beta={beta} between 0 and 1")
    random = [step for step in (*plan.item_steps, *plan.batch_steps) if step.random]
    if not random:
        raise OptionError(
            "tta averages over random transforms, and this data has none; give it some (item_tfms, batch_tfms), "
            "or use get_preds()"
        )
    for step in random:
        moved = [name for name, _ in step.targets if name in plan.targets]
        if moved:
            raise OptionError(
                f"{step.name} changes the target {moved[0]!r} along with the input, so predictions of several passes "
                "lie in different places and cannot be averaged; use get_preds()"
            )


def _augmented(loader: Loader) -> Loader:
    """Return a loader of the same items in their own order, whose random item transforms are on."""
    if not isinstance(loader, ItemLoader):
        return loader.in_order()
    return ItemLoader(
        loader.source,
        bs=loader.bs,
        seed=loader.seed,
        augment=True,
        workers=loader.workers,
        worker_type=loader.worker_type,
        on_bad_item=loader.on_bad_item,
        pin=loader.pin,
    )
