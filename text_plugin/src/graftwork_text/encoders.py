"""Encoders of Hugging Face's transformers as classifiers, in groups of layers. Needs graftwork-text[transformers]."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_text.heads import text_lengths
from graftwork_text.language import products_pay, share, tokens_block

__all__ = ["TrunkClassifier", "hugging_face"]

SMALL: Final = {
    "model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 512, "max_position_embeddings": 512,
}  # fmt: skip


def hugging_face(
    ctx: ModelContext,
    *,
    path: str | None = None,
    trunk: Mapping[str, Any] | None = None,
    dropout: float = 0.1,
) -> ModelParts:
    """Build a classifier over the mean of an encoder's features; the groups are embeddings, layers and head.

    `path` is a folder or a name that `AutoModel.from_pretrained` takes, weights and all; the text must be cut by the
    same model's tokenizer. `trunk` is a configuration instead (`config.to_dict()`), trained from nothing; without both
    it is a BERT of two layers. An artifact holds the configuration and the weights, not the path.

    Raises:
        OptionError: transformers is not installed, or a vocabulary that the encoder does not have.
    """
    block = tokens_block(ctx)
    module = _trunk(path, dict(trunk or SMALL | {"vocab_size": block.vocab_size, "pad_token_id": block.pad_id}))
    if module.config.vocab_size < block.vocab_size:
        raise OptionError(
            f"the encoder knows {module.config.vocab_size} tokens and the data has {block.vocab_size}; "
            "cut the text with the encoder's own tokenizer"
        )
    whole = TrunkClassifier(module, ctx.num_outputs, pad_id=block.pad_id, dropout=share("dropout", dropout))
    layers = _layers(module)
    groups: dict[str, list[nn.Module]] = {"embeddings": list(_besides(module, layers))}
    groups |= {f"layer{number}": [layer] for number, layer in enumerate(layers, 1)}
    return ModelParts(
        module=whole,
        groups={**groups, "head": [whole.head]},
        config={"trunk": json.loads(module.config.to_json_string(use_diff=False)), "dropout": dropout},
        products=products_pay(whole),
    )


def _trunk(path: str | None, config: dict[str, Any]) -> Any:
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise OptionError(
            f"this model needs the package transformers ({error}); pip install 'graftwork-text[transformers]'"
        ) from error
    if path is not None:
        module = AutoModel.from_pretrained(path)
    else:
        kind = config.pop("model_type", None)
        if kind is None:
            raise OptionError("trunk has no 'model_type'; give all of config.to_dict()")
        module = AutoModel.from_config(AutoConfig.for_model(kind, **config))
    if "pooler" in dict(module.named_children()):
        # It reads the first token only, and nothing here reads it.
        module.register_module("pooler", None)
    return module


def _layers(trunk: nn.Module) -> nn.ModuleList:
    """Return the list of layers, the one that holds the most."""
    lists = [part for part in trunk.modules() if isinstance(part, nn.ModuleList) and len(part)]
    if not lists:
        raise OptionError(f"{type(trunk).__name__} has no list of layers, so it cannot be split into groups")
    return max(lists, key=lambda part: sum(p.numel() for p in part.parameters()))


def _besides(part: nn.Module, layers: nn.ModuleList) -> Iterator[nn.Module]:
    """Iterate the largest modules that hold no layer."""
    for child in part.children():
        if child is layers:
            continue
        if any(inner is layers for inner in child.modules()):
            yield from _besides(child, layers)
        else:
            yield child


@final
class TrunkClassifier(nn.Module):
    """Classify by the mean of an encoder's features over the tokens that are there, at most the first `longest`."""

    def __init__(self, trunk: Any, num_outputs: int, *, pad_id: int, dropout: float) -> None:
        """Put a linear layer on top."""
        super().__init__()
        self.trunk, self.pad_id = trunk, pad_id
        self.longest: int | None = trunk.config.to_dict().get("max_position_embeddings")
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(trunk.config.hidden_size, num_outputs))

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return logits (B, outputs); of more tokens than the encoder has places the first ones are read."""
        tokens_BL = tokens_BL[:, : self.longest]
        places = torch.arange(tokens_BL.size(1), device=tokens_BL.device)
        lengths_B = text_lengths(tokens_BL, self.pad_id)
        there = places < lengths_B[:, None]
        found = self.trunk(input_ids=tokens_BL, attention_mask=there.long()).last_hidden_state
        mean = found.masked_fill(~there.unsqueeze(-1), 0.0).sum(1) / lengths_B[:, None]
        logits: Tensor = self.head(mean)
        return logits
