"""What graftwork's conformance kit cannot guess: small texts, the shape of a language model's output, small models."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from graftwork.api import TargetBlock
from graftwork.testing import Examples, TaskExample
from graftwork_text.blocks import IGNORED, NextTokenBlock, TokensBlock
from graftwork_text.transforms import NextToken

__all__ = ["EXAMPLES"]

LSTM: Final[dict[str, Any]] = {"emb_sz": 16, "n_hid": 24, "n_layers": 2}
TRANSFORMER: Final[dict[str, Any]] = {"width": 32, "n_layers": 2, "n_heads": 2, "max_length": 128}
_LIKED, _HATED = ("good", "great", "fine"), ("bad", "awful", "boring")
_ENDS: Final = ("I liked it .", "Never again !")


def _texts() -> list[str]:
    """Invent 120 reviews, liked and hated in turn; their words tell which, and what comes next."""
    rng = np.random.default_rng(0)
    seen = [" and ".join((_LIKED, _HATED)[i % 2][int(word)] for word in rng.integers(0, 3, 3)) for i in range(120)]
    return [f"This film was {words} . {_ENDS[i % 2]}" for i, words in enumerate(seen)]


def write_reviews(folder: Path) -> Path:
    """Write a table of texts and labels."""
    path = folder / "reviews.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([text, "neg" if i % 2 else "pos"] for i, text in enumerate(_texts()))
    return path


def write_lines(folder: Path) -> Path:
    """Write a text a line."""
    path = folder / "texts.txt"
    path.write_text("\n".join(_texts()), encoding="utf-8")
    return path


def _next_tokens() -> tuple[Tensor, Tensor]:
    target = torch.randint(0, 40, (6, 5))
    target[:, -1] = IGNORED
    return torch.randn(6, 5, 40), target


def _logits(block: TargetBlock, targets: Tensor) -> tuple[int, ...]:
    return (*targets.shape, block.num_outputs)


EXAMPLES: Final = Examples(
    tasks=(
        TaskExample(task="text/classification", write=write_reviews, inputs=lambda source: [str(source), "so good"]),
        TaskExample(
            task="text/language-model",
            write=write_lines,
            inputs=lambda source: ["This film was", "Never"],
            options={"seq_len": 16, "width": 16, "hidden": 24},
        ),
    ),
    blocks={"text/tokens": (TokensBlock(40), TokensBlock(40, 0, 6)), "text/next-token": (NextTokenBlock(40),)},
    transforms={"text/next-token": ((NextToken(), TokensBlock(40)),)},
    raw_shapes={"text/next-token": _logits},
    losses={"text/next-token": _next_tokens},
    models={
        "text/awd-lstm-lm": LSTM,
        "text/awd-lstm-classifier": LSTM,
        "text/transformer-lm": TRANSFORMER,
        "text/transformer-classifier": TRANSFORMER,
    },
)
