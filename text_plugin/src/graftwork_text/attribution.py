"""Which words made a classifier say so: integrated gradients, or occlusion, drawn as coloured text."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

import torch
from torch import Tensor, nn

from graftwork.api import ClassIndexBlock, OptionError, Plan, unknown
from graftwork_text.heads import ChunkedClassifier
from graftwork_text.transforms import text_field, text_steps

if TYPE_CHECKING:
    from graftwork import Predictor
    from graftwork.api import Learner

__all__ = ["Attribution", "Piece", "attribute"]

Method = Literal["auto", "integrated-gradients", "occlusion"]
METHODS: Final = ("auto", "integrated-gradients", "occlusion")
FOR, AGAINST = (38, 139, 70), (203, 56, 56)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Hold a token, where it stands in the text, and how many nats it adds to the class's log-probability."""

    token: str
    start: int
    end: int
    score: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Say what each token of a text contributed to a class; print it, or show it in a notebook, for coloured text.

    Green speaks for the class, red against it. `gap` is what integrated gradients leave unexplained, in nats: more
    steps make it smaller. `left_out` counts the tokens the model did not read.
    """

    text: str
    pieces: tuple[Piece, ...]
    label: str
    probability: float
    method: str
    gap: float | None = None
    left_out: int = 0

    def top(self, count: int = 10) -> list[Piece]:
        """Return the pieces that matter most, for or against."""
        return sorted(self.pieces, key=lambda piece: -abs(piece.score))[:count]

    def _parts(self) -> Iterator[tuple[str, float]]:
        """Iterate the text in parts, each with its share of the largest score, from -1 to 1."""
        largest = max((abs(piece.score) for piece in self.pieces), default=0.0) or 1.0
        at = 0
        for piece in self.pieces:
            if piece.start < at or piece.start == piece.end:
                continue  # a mark such as xxmaj, which stands for nothing in the text
            if piece.start > at:
                yield self.text[at : piece.start], 0.0
            yield self.text[piece.start : piece.end], piece.score / largest
            at = piece.end
        if at < len(self.text):
            yield self.text[at:], 0.0

    def to_html(self) -> str:
        """Return the text as HTML."""
        spans = []
        for part, strength in self._parts():
            red, green, blue = FOR if strength > 0 else AGAINST
            style = f' style="background:rgba({red},{green},{blue},{abs(strength):.2f})"' if strength else ""
            spans.append(f"<span{style}>{html.escape(part)}</span>")
        return f"<p><b>{html.escape(self._title())}</b></p><p>{''.join(spans)}</p>"

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_terminal(self) -> str:
        """Return the text with ANSI colours."""
        drawn = []
        for part, strength in self._parts():
            shade = [int(30 + abs(strength) * (full - 30)) for full in (FOR if strength > 0 else AGAINST)]
            colour = f"\x1b[38;2;255;255;255;48;2;{shade[0]};{shade[1]};{shade[2]}m"
            drawn.append(f"{colour}{part}\x1b[0m" if abs(strength) >= 0.05 else part)
        return f"{self._title()}\n{''.join(drawn)}"

    def __str__(self) -> str:
        """Return the coloured text of a terminal."""
        return self.to_terminal()

    def _title(self) -> str:
        rest = f"; {self.left_out} tokens were not read" * (self.left_out > 0)
        return f"{self.label} ({self.probability:.1%}), by {self.method}{rest}"


def attribute(
    source: Learner | Predictor,
    text: str,
    *,
    label: str | None = None,
    method: Method = "auto",
    steps: int = 32,
    bs: int = 32,
) -> Attribution:
    """Return what each token of a text adds to the log-probability of a class, the predicted one if none is named.

    Integrated gradients (M. Sundararajan et al., arXiv 1703.01365) go in `steps` from vectors of 0 to the text's own;
    they need a model that can be given vectors, as those with an encoder. Occlusion works with every classifier: each
    token in turn becomes an unknown word, which costs a forward pass a token. "auto" takes the first that works.

    Raises:
        OptionError: no classifier of one text, or a method that does not go with it.
        UnknownName: no such class.
    """
    from graftwork.api import Learner

    plan = source.data.plan if isinstance(source, Learner) else source.plan
    model = source.module
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if steps < 1 or bs < 1:
        raise OptionError(f"steps={steps} and bs={bs} must be at least 1")
    block = _classes(plan)
    tokenize, lookup = text_steps(plan)
    words, spans = tokenize.made.tokens(text), tokenize.made.spans(text)
    ids: Tensor = plan.encode({text_field(plan): text})[text_field(plan)]
    device = next(model.parameters()).device
    with _frozen(model):
        shares = _log_shares(model, ids[None].to(device))[0]
        chosen = int(shares.argmax()) if label is None else _named(block, label)
        gap = None
        if method == "integrated-gradients" or (method == "auto" and isinstance(model, ChunkedClassifier)):
            scores, gap = _integrated(model, ids.to(device), chosen, steps, bs)
        else:
            scores = _occluded(model, ids.to(device), chosen, lookup.unk_id, bs)
    pieces = tuple(
        Piece(token=word, start=start, end=end, score=score)
        for word, (start, end), score in zip(words, spans, scores.tolist(), strict=False)
    )
    return Attribution(
        text=text,
        pieces=pieces,
        label=str(block.vocab[chosen]),
        probability=float(shares[chosen].exp()),
        method="occlusion" if gap is None else "integrated gradients",
        gap=gap,
        left_out=max(0, len(words) - len(ids)),
    )


def _classes(plan: Plan) -> ClassIndexBlock:
    block = plan.target_block(plan.targets[0]) if len(plan.targets) == 1 and len(plan.inputs) == 1 else None
    if not isinstance(block, ClassIndexBlock):
        raise OptionError(
            f"attribution explains a model that tells one class from one text; this one has the inputs {plan.inputs} "
            f"and the targets {plan.targets}"
        )
    return block


def _named(block: ClassIndexBlock, label: str) -> int:
    names = [str(name) for name in block.vocab]
    if str(label) not in names:
        raise unknown("class", str(label), names)
    return names.index(str(label))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, its parameters out of the gradient's way; afterwards all is as it was."""
    training = [part for part in model.modules() if part.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part in training:
            part.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


@torch.no_grad()
def _log_shares(model: nn.Module, tokens_BL: Tensor) -> Tensor:
    raw: Tensor = model(tokens_BL)
    return raw.float().log_softmax(1)


def _integrated(model: nn.Module, ids: Tensor, chosen: int, steps: int, bs: int) -> tuple[Tensor, float]:
    """Return a score a token, and by how much their sum misses what there is to explain."""
    if not isinstance(model, ChunkedClassifier):
        raise OptionError(f"{type(model).__name__} cannot be given vectors, so there are no gradients; use occlusion")
    vectors = model.encoder.embedding(ids).detach()
    total = torch.zeros_like(vectors)
    # Midpoints: the error falls with the square of their number.
    for part in ((torch.arange(steps, device=ids.device) + 0.5) / steps).split(bs):
        inputs = (part[:, None, None] * vectors).requires_grad_()
        shares = _of_vectors(model, inputs)[:, chosen]
        total += torch.autograd.grad(shares.sum(), inputs)[0].sum(0)
    scores = (total / steps * vectors).sum(1)
    with torch.no_grad():
        ends = _of_vectors(model, torch.stack([torch.zeros_like(vectors), vectors]))[:, chosen]
    return scores.cpu(), float(ends[1] - ends[0] - scores.sum())


def _of_vectors(model: ChunkedClassifier, vectors_BLE: Tensor) -> Tensor:
    lengths = torch.full((len(vectors_BLE),), vectors_BLE.size(1), device=vectors_BLE.device)
    return model.from_vectors(vectors_BLE, lengths).float().log_softmax(1)


def _occluded(model: nn.Module, ids: Tensor, chosen: int, unknown_id: int, bs: int) -> Tensor:
    """Return how much of the log-probability is lost where a token becomes an unknown word."""
    whole = _log_shares(model, ids[None])[0, chosen]
    scores = []
    for places in torch.arange(len(ids), device=ids.device).split(bs):
        changed = ids.repeat(len(places), 1)
        changed[torch.arange(len(places), device=ids.device), places] = unknown_id
        scores.append(whole - _log_shares(model, changed)[:, chosen])
    return torch.cat(scores).cpu()
