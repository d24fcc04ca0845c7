"""A decoder-only Transformer: RoPE, RMSNorm, SwiGLU, torch's fused attention, and a cache of keys and values."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.api import DataError, ModelContext, ModelParts, OptionError
from graftwork_text.heads import ChunkedClassifier, classifier_parts
from graftwork_text.language import Encoder, LanguageModel, State, products_pay, share, tokens_block, vocabulary_target

__all__ = ["Transformer", "TransformerModel", "transformer_classifier", "transformer_lm"]

STD: Final = 0.02
EPS: Final = 1e-6
ROPE_BASE: Final = 10_000.0


@final
class RMSNorm(nn.Module):
    """Scale features to a mean square of 1 (B. Zhang and R. Sennrich, arXiv 1910.07467); torch has it from 2.4 on."""

    def __init__(self, width: int) -> None:
        """Start with scales of 1."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled features, computed in float32."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
        return (scaled * self.weight).to(x.dtype)


def angles(places: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines by which queries and keys at these places are turned: each (…, width / 2)."""
    rates = ROPE_BASE ** (-torch.arange(0, width, 2, device=places.device, dtype=torch.float32) / width)
    turned = places[..., None].float() * rates
    return turned.cos(), turned.sin()


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of features by their place's angle (J. Su et al., arXiv 2104.09864)."""
    left, right = x.float().chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x.dtype)


@final
class Layer(nn.Module):
    """Attend to what came before, then transform each place."""

    def __init__(self, width: int, n_heads: int, hidden: int, dropout: float, depth: int) -> None:
        """Start small, and smaller the more layers add up."""
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down, self.drop = nn.Linear(hidden, width, bias=False), nn.Dropout(dropout)
        for part in (self.qkv, self.gate, self.up):
            nn.init.normal_(part.weight, std=STD)
        for part in (self.out, self.down):
            nn.init.normal_(part.weight, std=STD / (2 * depth) ** 0.5)

    def heads(self, x_BLC: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, H, L, D), the first two turned by their places."""
        size, length, width = x_BLC.shape
        split = self.qkv(self.norm1(x_BLC)).view(size, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        return turn(q, cos, sin), turn(k, cos, sin), v

    def finish(self, x_BLC: Tensor, seen_BHLD: Tensor) -> Tensor:
        """Add what attention has seen, then transform each place."""
        x_BLC = x_BLC + self.drop(self.out(seen_BHLD.transpose(1, 2).flatten(2)))
        y_BLC = self.norm2(x_BLC)
        change: Tensor = self.drop(self.down(F.silu(self.gate(y_BLC)) * self.up(y_BLC)))
        return x_BLC + change

    def forward(self, x_BLC: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places after this layer, and their keys and values."""
        q, k, v = self.heads(x_BLC, cos, sin)
        share = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=share)
        return self.finish(x_BLC, seen), k, v


@final
class Transformer(Encoder):
    """Read up to `max_length` tokens at once, each seeing those before it; nothing is carried on."""

    def __init__(
        self,
        vocab_size: int,
        pad_id: int,
        *,
        width: int = 256,
        n_layers: int = 4,
        n_heads: int = 4,
        max_length: int = 256,
        dropout: float = 0.1,
    ) -> None:
        """Raise OptionError for sizes that do not fit together."""
        super().__init__()
        if min(width, n_layers, n_heads, max_length) < 1 or width % (2 * n_heads):
            raise OptionError(
                f"width={width} must be an even multiple of n_heads={n_heads}, n_layers={n_layers} and "
                f"max_length={max_length} at least 1"
            )
        self.width, self.window, self.n_heads = width, max_length, n_heads
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        nn.init.normal_(self.embedding.weight, std=STD)
        hidden = -(-8 * width // 3 // 32) * 32
        self.drop = nn.Dropout(share("dropout", dropout))
        self.layers = nn.ModuleList(Layer(width, n_heads, hidden, dropout, n_layers) for _ in range(n_layers))
        self.norm = RMSNorm(width)

    def forward(self, tokens_BL: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Return features (B, L, width) and no state; raise DataError for more than `max_length` tokens."""
        return self.from_vectors(self.embedding(tokens_BL), state)

    def from_vectors(self, vectors_BLE: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Do the same from the tokens' vectors."""
        return self.read(vectors_BLE)[0], ()

    def read(self, vectors_BLE: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return features, and the keys and values of each layer (B, H, L, D), one after the other."""
        length = vectors_BLE.size(1)
        if length > self.window:
            raise DataError(
                f"a text of {length} tokens is longer than the max_length={self.window} that is read at once; "
                f"make the data with seq_len or max_length of at most {self.window}, or the model with a larger one"
            )
        cos, sin = angles(torch.arange(length, device=vectors_BLE.device), self.width // self.n_heads)
        x_BLC, kept = self.drop(vectors_BLE), []
        for layer in self.layers:
            x_BLC, k, v = layer(x_BLC, cos, sin)
            kept += [k, v]
        return self.norm(x_BLC), kept

    def blocks(self) -> dict[str, list[nn.Module]]:
        """Return the words, then the layers; the last norm goes with the last of them."""
        parts: dict[str, list[nn.Module]] = {"words": [self.embedding]}
        parts.update({f"layer{i}": [layer] for i, layer in enumerate(self.layers, 1)})
        parts[f"layer{len(self.layers)}"].append(self.norm)
        return parts


@final
class TransformerModel(LanguageModel):
    """Tell the next token by the vectors words are read by.

    A state is a ring of the last `max_length` keys and values of all layers, (B, 2 layers, H, max_length, D), and the
    number of tokens read so far, (B,), on the CPU. What is older is forgotten, so the cost of a token has a bound.
    """

    def __init__(self, encoder: Transformer) -> None:
        """Share the words' vectors."""
        super().__init__()
        self.encoder: Transformer = encoder
        self.pad_id = int(encoder.embedding.padding_idx or 0)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return logits (B, L, V)."""
        return self._score(self.encoder(tokens_BL)[0])

    def _score(self, features: Tensor) -> Tensor:
        return F.linear(features, self.encoder.embedding.weight)

    def begin(self, tokens_BL: Tensor) -> tuple[Tensor, State]:
        """Read the beginnings of texts, or as much of their ends as the model sees at once."""
        tokens_BL = tokens_BL[:, -self.encoder.window :]
        size, length = tokens_BL.shape
        features, kept = self.encoder.read(self.encoder.embedding(tokens_BL))
        heads, width = kept[0].size(1), kept[0].size(3)
        ring = kept[0].new_zeros(size, len(kept), heads, self.encoder.window, width)
        ring[:, :, :, :length] = torch.stack(kept, 1)
        return self._score(features[:, -1]), (ring, torch.full((size,), length))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one more token of each text; the ring is written in place."""
        ring, count = state
        device, window = ring.device, self.encoder.window
        cos, sin = angles(count.to(device)[:, None, None], self.encoder.width // self.encoder.n_heads)
        rows, slots = torch.arange(len(count), device=device), (count % window).to(device)
        used = min(int(count.max()) + 1, window)
        there = (torch.arange(used)[None] <= count[:, None]).to(device)[:, None, None]
        x_BLC = self.encoder.embedding(tokens_B).unsqueeze(1)
        for number, layer in enumerate(self.encoder.layers):
            assert isinstance(layer, Layer)
            q, k, v = layer.heads(x_BLC, cos, sin)
            ring[rows, 2 * number, :, slots], ring[rows, 2 * number + 1, :, slots] = k.squeeze(2), v.squeeze(2)
            keys, values = ring[:, 2 * number, :, :used], ring[:, 2 * number + 1, :, :used]
            x_BLC = layer.finish(x_BLC, F.scaled_dot_product_attention(q, keys, values, attn_mask=there))
        return self._score(self.encoder.norm(x_BLC)[:, -1]), (ring, count + 1)

    @property
    def context(self) -> int | None:
        """The length of the ring."""
        return self.encoder.window


def transformer_lm(
    ctx: ModelContext,
    *,
    width: int = 256,
    n_layers: int = 4,
    n_heads: int = 4,
    max_length: int = 256,
    dropout: float = 0.1,
) -> ModelParts:
    """Build a language model; the groups are the layers, then the words."""
    block = vocabulary_target(ctx)
    module = TransformerModel(
        Transformer(
            block.vocab_size, block.pad_id, width=width, n_layers=n_layers, n_heads=n_heads, max_length=max_length,
            dropout=dropout,
        )
    )  # fmt: skip
    parts = module.encoder.blocks()
    words = parts.pop("words")
    return ModelParts(module=module, groups={**parts, "words": words}, products=products_pay(module))


def transformer_classifier(
    ctx: ModelContext,
    *,
    width: int = 256,
    n_layers: int = 4,
    n_heads: int = 4,
    max_length: int = 256,
    dropout: float = 0.1,
    max_len: int = 1440,
    lin_ftrs: tuple[int, ...] = (50,),
    output_p: float = 0.2,
) -> ModelParts:
    """Build a classifier that reads `max_length` tokens at a time; the groups go from words to head."""
    block = tokens_block(ctx)
    encoder = Transformer(
        block.vocab_size, block.pad_id, width=width, n_layers=n_layers, n_heads=n_heads, max_length=max_length,
        dropout=dropout,
    )  # fmt: skip
    module = ChunkedClassifier(
        encoder, ctx.num_outputs, pad_id=block.pad_id, seq_len=max_length, max_len=max(max_len, max_length),
        lin_ftrs=lin_ftrs, output_p=output_p,
    )  # fmt: skip
    return classifier_parts(module)
