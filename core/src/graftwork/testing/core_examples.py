"""Examples for the core's own components."""

from __future__ import annotations

from typing import Final

from graftwork.block import CategoryBlock, ClassIndexBlock, MultiCategoryBlock, MultiHotBlock, RegressionBlock
from graftwork.callbacks.activations import ActivationStats
from graftwork.callbacks.stopping import TimeLimit
from graftwork.testing.examples import Examples
from graftwork.transform import Categorize, MultiCategorize

__all__ = ["EXAMPLES"]

_CLASSES: Final = ("ant", "bee", "cow")

EXAMPLES: Final = Examples(
    blocks={
        "core/category": (CategoryBlock(), CategoryBlock(_CLASSES)),
        "core/class-index": (ClassIndexBlock(tuple("abcdefg")), ClassIndexBlock(_CLASSES)),
        "core/multi-category": (MultiCategoryBlock(_CLASSES),),
        "core/multi-hot": (MultiHotBlock(_CLASSES),),
        "core/regression": (RegressionBlock(4), RegressionBlock()),
    },
    transforms={
        "core/categorize": ((Categorize(), CategoryBlock(_CLASSES)),),
        "core/multi-categorize": ((MultiCategorize(_CLASSES), MultiCategoryBlock(_CLASSES)),),
    },
    callbacks={
        "core/activation-stats": lambda: ActivationStats(every=1),
        "core/time-limit": lambda: TimeLimit(minutes=5),
    },
    left_out={
        "callback-run[core/mlflow]": "it speaks to a server; core/tests/test_tracking.py runs it on files",
        "callback-run[core/wandb]": "it speaks to a server; core/tests/test_tracking.py runs it offline",
    },
    expected_failures={
        "callback-run[core/cutmix]": "it cuts boxes out of pictures, and the kit's items are four numbers",
    },
)
