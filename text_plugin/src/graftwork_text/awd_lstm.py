"""AWD-LSTM: an LSTM with dropout everywhere (S. Merity et al., arXiv 1708.02182), to tell next words and classes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_text.heads import ChunkedClassifier, classifier_parts
from graftwork_text.language import Encoder, LanguageModel, State, products_pay, share, tokens_block, vocabulary_target
from graftwork_text.regularize import ActivationPenalty, Trained

__all__ = ["AWD_LSTM", "AWDLSTMModel", "awd_lstm_classifier", "awd_lstm_lm"]

INIT_RANGE: Final = 0.1
WINDOW: Final = 72


def same_for_all_tokens(x_BLC: Tensor, p: float, training: bool) -> Tensor:
    """Drop the same features at all tokens of a text (Y. Gal and Z. Ghahramani, arXiv 1512.05287)."""
    if not training or p == 0:
        return x_BLC
    kept = x_BLC.new_empty(x_BLC.size(0), 1, x_BLC.size(2)).bernoulli_(1 - p)
    return x_BLC * kept.div_(1 - p)


@final
class DroppedLSTM(nn.Module):
    """One LSTM layer that drops weights from state to state, once for all tokens of a batch (DropConnect)."""

    def __init__(self, width_in: int, width: int, weight_p: float) -> None:
        """Start with torch's own initialisation of an LSTM."""
        super().__init__()
        self.width, self.weight_p = width, weight_p
        self.weight_ih = nn.Parameter(torch.empty(4 * width, width_in))
        self.weight_hh = nn.Parameter(torch.empty(4 * width, width))
        self.bias_ih = nn.Parameter(torch.empty(4 * width))
        self.bias_hh = nn.Parameter(torch.empty(4 * width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, x_BLC: Tensor, h_BC: Tensor, c_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of all tokens, and the state after the last."""
        if x_BLC.size(1) == 1 and not self.training:
            # One token costs a third of what the kernel for many takes, which lays all weights out anew.
            after = torch.lstm_cell(
                x_BLC[:, 0], (h_BC, c_BC), self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
            )
            return after[0].unsqueeze(1), after[0], after[1]
        kept = F.dropout(self.weight_hh, self.weight_p, self.training)
        weights = [self.weight_ih, kept, self.bias_ih, self.bias_hh]
        start = (h_BC.unsqueeze(0), c_BC.unsqueeze(0))
        with warnings.catch_warnings():
            # cuDNN wants all weights in one piece of memory, which a weight that is made anew in each step cannot be.
            if x_BLC.is_cuda:
                warnings.filterwarnings("ignore", message="RNN module weights are not part")
            out, h, c = torch.lstm(x_BLC, start, weights, True, 1, 0.0, self.training, False, True)
        return out, h.squeeze(0), c.squeeze(0)


@final
class AWD_LSTM(Encoder):  # noqa: N801 - fastai's name
    """Read tokens one after the other, with a state that is carried on: two tensors a layer, (B, width).

    All but the last layer have `n_hid` features, the last has as many as an embedding.
    """

    def __init__(
        self,
        vocab_size: int,
        pad_id: int,
        *,
        emb_sz: int = 400,
        n_hid: int = 1152,
        n_layers: int = 3,
        hidden_p: float = 0.2,
        input_p: float = 0.6,
        embed_p: float = 0.1,
        weight_p: float = 0.5,
    ) -> None:
        """Raise OptionError for widths below 1 and shares of dropout that are none."""
        super().__init__()
        if min(emb_sz, n_hid, n_layers) < 1:
            raise OptionError(f"emb_sz={emb_sz}, n_hid={n_hid}, n_layers={n_layers} must all be at least 1")
        self.width, self.window = emb_sz, WINDOW
        self.hidden_p, self.input_p = share("hidden_p", hidden_p), share("input_p", input_p)
        self.embed_p, weight_p = share("embed_p", embed_p), share("weight_p", weight_p)
        self.embedding = nn.Embedding(vocab_size, emb_sz, padding_idx=pad_id)
        nn.init.uniform_(self.embedding.weight, -INIT_RANGE, INIT_RANGE)
        widths = [emb_sz, *[n_hid] * (n_layers - 1), emb_sz]
        self.layers = nn.ModuleList(
            DroppedLSTM(before, after, weight_p) for before, after in itertools.pairwise(widths)
        )

    def forward(self, tokens_BL: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Return features (B, L, emb_sz) and the last state; without a state of as many rows, from zeros."""
        vectors = self.embedding(tokens_BL)
        if self.training and self.embed_p:
            # A word is dropped at all its places.
            kept = vectors.new_empty(self.embedding.num_embeddings).bernoulli_(1 - self.embed_p)
            vectors = vectors * kept.div_(1 - self.embed_p)[tokens_BL].unsqueeze(-1)
        return self.from_vectors(vectors, state)

    def from_vectors(self, vectors_BLE: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Do the same from the tokens' vectors."""
        x_BLC = same_for_all_tokens(vectors_BLE, self.input_p, self.training)
        if not state or state[0].size(0) != len(x_BLC):
            state = self._zeros(x_BLC)
        after: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            if number:
                x_BLC = same_for_all_tokens(x_BLC, self.hidden_p, self.training)
            x_BLC, h_BC, c_BC = layer(x_BLC, state[2 * number], state[2 * number + 1])
            after += [h_BC, c_BC]
        return x_BLC, tuple(after)

    def _zeros(self, like: Tensor) -> State:
        widths = [layer.width for layer in self.layers for _ in range(2) if isinstance(layer, DroppedLSTM)]
        return tuple(like.new_zeros(len(like), width) for width in widths)

    def blocks(self) -> dict[str, list[nn.Module]]:
        """Return the words, then the layers."""
        return {"words": [self.embedding], **{f"rnn{i}": [layer] for i, layer in enumerate(self.layers, 1)}}


@final
class AWDLSTMModel(LanguageModel):
    """Tell the next token from an LSTM's features; `tied` words are told by the vectors they are read by."""

    def __init__(self, encoder: AWD_LSTM, *, output_p: float, tied: bool, penalised: bool) -> None:
        """Start the words' biases at 0."""
        super().__init__()
        self.encoder, self.output_p, self.penalised = encoder, share("output_p", output_p), penalised
        self.pad_id = int(encoder.embedding.padding_idx or 0)
        self.decoder = _Decoder(encoder.embedding.num_embeddings, None if tied else encoder.width)

    def forward(self, tokens_BL: Tensor) -> Tensor | Trained:
        """Return logits (B, L, V); in training with the features that are penalised."""
        features, state = self.encoder(tokens_BL, self.take())
        self.leave(*state)
        dropped = same_for_all_tokens(features, self.output_p, self.training)
        logits = self.decoder(dropped, self.encoder.embedding.weight)
        return Trained(logits, features, dropped) if self.training and self.penalised else logits

    def begin(self, tokens_BL: Tensor) -> tuple[Tensor, State]:
        """Read the beginnings of texts."""
        return self._last(tokens_BL, ())

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one more token of each text."""
        return self._last(tokens_B.unsqueeze(1), state)

    def _last(self, tokens_BL: Tensor, state: State) -> tuple[Tensor, State]:
        features, state = self.encoder(tokens_BL, state)
        return self.decoder(features[:, -1], self.encoder.embedding.weight), state

    @property
    def context(self) -> int | None:
        """No limit: what was read is in the state."""
        return None


@final
class _Decoder(nn.Module):
    """Score all words."""

    def __init__(self, vocab_size: int, width: int | None) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.weight = None if width is None else nn.Parameter(torch.empty(vocab_size, width))
        if self.weight is not None:
            nn.init.uniform_(self.weight, -INIT_RANGE, INIT_RANGE)

    def forward(self, features: Tensor, words_VE: Tensor) -> Tensor:
        return F.linear(features, words_VE if self.weight is None else self.weight, self.bias)


def awd_lstm_lm(
    ctx: ModelContext,
    *,
    emb_sz: int = 400,
    n_hid: int = 1152,
    n_layers: int = 3,
    output_p: float = 0.1,
    hidden_p: float = 0.15,
    input_p: float = 0.25,
    embed_p: float = 0.02,
    weight_p: float = 0.2,
    drop_mult: float = 1.0,
    tied: bool = True,
    alpha: float = 2.0,
    beta: float = 1.0,
) -> ModelParts:
    """Build a language model with fastai's sizes and dropouts, each times `drop_mult`.

    The groups are the layers, then the words: frozen, only words are learned, as a new vocabulary needs it.
    """
    block = vocabulary_target(ctx)
    encoder = AWD_LSTM(
        block.vocab_size, block.pad_id, emb_sz=emb_sz, n_hid=n_hid, n_layers=n_layers,
        hidden_p=hidden_p * drop_mult, input_p=input_p * drop_mult, embed_p=embed_p * drop_mult,
        weight_p=weight_p * drop_mult,
    )  # fmt: skip
    penalty = ActivationPenalty(alpha=alpha, beta=beta)
    module = AWDLSTMModel(encoder, output_p=output_p * drop_mult, tied=tied, penalised=bool(penalty))
    parts = encoder.blocks()
    words = [*parts.pop("words"), module.decoder]
    return ModelParts(
        module=module, groups={**parts, "words": words}, train_loss=penalty, products=products_pay(module)
    )


def awd_lstm_classifier(
    ctx: ModelContext,
    *,
    emb_sz: int = 400,
    n_hid: int = 1152,
    n_layers: int = 3,
    output_p: float = 0.4,
    hidden_p: float = 0.3,
    input_p: float = 0.4,
    embed_p: float = 0.05,
    weight_p: float = 0.5,
    drop_mult: float = 0.5,
    seq_len: int = WINDOW,
    max_len: int = 20 * WINDOW,
    lin_ftrs: Sequence[int] = (50,),
    alpha: float = 2.0,
    beta: float = 1.0,
) -> ModelParts:
    """Build a classifier with fastai's sizes and dropouts, each times `drop_mult`; the groups go from words to head."""
    block = tokens_block(ctx)
    encoder = AWD_LSTM(
        block.vocab_size, block.pad_id, emb_sz=emb_sz, n_hid=n_hid, n_layers=n_layers,
        hidden_p=hidden_p * drop_mult, input_p=input_p * drop_mult, embed_p=embed_p * drop_mult,
        weight_p=weight_p * drop_mult,
    )  # fmt: skip
    module = ChunkedClassifier(
        encoder, ctx.num_outputs, pad_id=block.pad_id, seq_len=seq_len, max_len=max_len, lin_ftrs=lin_ftrs,
        output_p=output_p * drop_mult, alpha=alpha, beta=beta,
    )  # fmt: skip
    return classifier_parts(module)
