"""Language models: AWD-LSTM's training step beside a raw torch loop of the same model, and the cost of generating.

Embedding 200, LSTM 400 and 200, tied, 10,000 words, 32 streams of 72 tokens; AdamW, AR and TAR. The raw loop is torch's
own LSTM kernel with the same dropouts, written down once more, at the precision of the side it stands beside;
`graftwork, auto` is what `precision="auto"` takes. All of them use one thread, and its CPU time counts. Generation: the
milliseconds of a token when 50 and when 2,000 have been read.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Runner, Side, native_bf16, ratios

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork import DataLoaders

__all__ = ["SIDES", "measure"]

FULL: Final = {"words": 10_000, "emb": 200, "hidden": 400, "bs": 32, "seq": 72, "steps": 10, "tokens": [50, 2000]}
SMOKE: Final = {"words": 200, "emb": 16, "hidden": 24, "bs": 4, "seq": 12, "steps": 3, "tokens": [5, 40]}
ROUNDS: Final = 5
DROPS: Final = {"output_p": 0.1, "hidden_p": 0.15, "input_p": 0.25, "embed_p": 0.02, "weight_p": 0.2}
RATE: Final = 3e-3
CALLS: Final = 20


def stream(settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return inputs and next tokens of all batches, (steps * bs, seq), in the order they are read."""
    import torch

    count = settings["steps"] * settings["bs"] * settings["seq"] + 1
    tokens = torch.randint(9, settings["words"], (count,), generator=torch.Generator().manual_seed(0))
    shape = (settings["bs"], settings["steps"], settings["seq"])
    x, y = (part.view(shape).transpose(0, 1).flatten(0, 1).contiguous() for part in (tokens[:-1], tokens[1:]))
    return x, y


def loaders(settings: dict[str, Any]) -> DataLoaders:
    """Return the stream as batches that follow one another."""
    from collections.abc import Iterator
    from dataclasses import replace

    from graftwork import DataBlock, DataLoaders, RandomSplitter
    from graftwork.api import Batch, ColumnLoader, Part
    from graftwork_text import NextTextBlock, TextBlock

    class Stream(ColumnLoader):
        def at(self, epoch: int, batch: int = 0, part: Part = Part()) -> Iterator[Batch]:  # noqa: B008 - frozen
            for loaded in super().at(epoch, batch, part):
                yield replace(loaded, follows=loaded.number > 0)

    vocab = ("xxunk", "xxpad", *(f"w{i}" for i in range(settings["words"] - 2)))
    block = DataBlock(
        blocks=(TextBlock(vocab=vocab), NextTextBlock(vocab=vocab)),
        getters={"x": str, "y": str},
        splitter=RandomSplitter(0.5, seed=0),
    )
    plan = block.dataloaders(["w1 w2", "w3 w4"], bs=1, workers=0).plan
    x, y = stream(settings)
    train = Stream({"x": x, "y": y}, plan, bs=settings["bs"], training=True)
    return DataLoaders(train=train, valid=None)


def graftwork(precision: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the side that trains by the learner; its figure is that of the second epoch."""

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        from graftwork import Runtime
        from graftwork_text import language_model_learner

        learn = language_model_learner(
            loaders(settings),
            model_config={"emb_sz": settings["emb"], "n_hid": settings["hidden"], "n_layers": 2, **DROPS},
            lr=RATE,
            wd=0.01,
            runtime=Runtime(device="cpu", precision=precision),
            progress=False,
        )
        learn.fit(1)
        begin = process_time()
        learn.fit(1)
        seconds = process_time() - begin
        count = settings["steps"] * settings["bs"] * settings["seq"]
        return {"value": count / seconds, "loss": learn.recorder.losses[-1], "runs": learn.session.describe()}

    return run


def raw(bf16: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the side that is a loop of torch alone."""

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        import torch
        from torch import nn
        from torch.nn import functional as F

        def drop(x: Tensor, p: float) -> Tensor:
            return x * x.new_empty(x.size(0), 1, x.size(2)).bernoulli_(1 - p).div_(1 - p)

        torch.manual_seed(0)
        widths = (settings["emb"], settings["hidden"], settings["emb"])
        embedding = nn.Embedding(settings["words"], settings["emb"], padding_idx=1)
        nn.init.uniform_(embedding.weight, -0.1, 0.1)
        layers = [nn.LSTM(widths[i], widths[i + 1], batch_first=True) for i in range(2)]
        bias = nn.Parameter(torch.zeros(settings["words"]))
        parameters = [*embedding.parameters(), *(p for layer in layers for p in layer.parameters()), bias]
        optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.99), eps=1e-5, fused=True)
        x_all, y_all = stream(settings)

        def epoch() -> float:
            state: list[Any] = [None, None]
            loss = torch.zeros(())
            for x, y in zip(x_all.split(settings["bs"]), y_all.split(settings["bs"]), strict=True):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    kept = torch.empty(settings["words"]).bernoulli_(1 - DROPS["embed_p"]).div_(1 - DROPS["embed_p"])
                    h = drop(embedding(x) * kept[x].unsqueeze(-1), DROPS["input_p"])
                    for i, layer in enumerate(layers):
                        if i:
                            h = drop(h, DROPS["hidden_p"])
                        own = F.dropout(layer.weight_hh_l0, DROPS["weight_p"])
                        flat = [layer.weight_ih_l0, own, layer.bias_ih_l0, layer.bias_hh_l0]
                        start = state[i] or (x.new_zeros(1, len(x), layer.hidden_size, dtype=torch.float32),) * 2
                        h, *after = torch.lstm(h, start, flat, True, 1, 0.0, True, False, True)
                        state[i] = tuple(part.detach() for part in after)
                    dropped = drop(h, DROPS["output_p"])
                    logits = F.linear(dropped, embedding.weight, bias)
                loss = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
                cost = loss + 2.0 * dropped.float().square().mean() + h.float().diff(dim=1).square().mean()
                cost.backward()
                optimizer.step()
                optimizer.zero_grad()
            return float(loss.detach())

        epoch()
        begin = process_time()
        last = epoch()
        seconds = process_time() - begin
        return {"value": x_all.numel() / seconds, "loss": last, "runs": "bf16" if bf16 else "fp32"}

    return run


def generation(kind: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the side that measures a token's milliseconds early and late in a text."""

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        import torch

        from graftwork.api import ModelContext
        from graftwork_text.awd_lstm import awd_lstm_lm
        from graftwork_text.blocks import NextTokenBlock, TokensBlock
        from graftwork_text.language import LanguageModel
        from graftwork_text.transformer import transformer_lm

        words = settings["words"]
        ctx = ModelContext(inputs={"x": TokensBlock(words)}, targets={"y": NextTokenBlock(words)})
        early, late = settings["tokens"]
        build = transformer_lm if kind == "transformer" else awd_lstm_lm
        model = build(ctx).module.eval()
        assert isinstance(model, LanguageModel)
        found: list[float] = []
        with torch.inference_mode():
            _, state = model.begin(torch.full((1, 1), 9))
            token = torch.tensor([9])
            for _ in range(late + CALLS):
                begin = perf_counter()
                _, state = model.step(token, state)
                found.append((perf_counter() - begin) * 1e3)
        first, last = (statistics.median(found[at : at + CALLS]) for at in (early, late))
        return {"value": last, "early": first, "late": last}

    return run


SIDES: Final[tuple[Side, ...]] = (
    Side(name="raw", run=raw(False), threads=1),
    Side(name="graftwork", run=graftwork("fp32"), threads=1),
    Side(name="raw, bf16", run=raw(True), threads=1),
    Side(name="graftwork, auto", run=graftwork("auto"), threads=1),
    Side(name="generate, LSTM", run=generation("lstm"), threads=1),
    Side(name="generate, Transformer", run=generation("transformer"), threads=1),
)
BF16: Final = ("raw, bf16", "graftwork, auto")


def measure(options: Options) -> Report:
    """Run all sides in turn and compare them round by round."""
    runner = Runner(case="language", options=options)
    settings, rounds = (SMOKE, 1) if options.smoke else (FULL, ROUNDS)
    sides = SIDES if native_bf16() else tuple(side for side in SIDES if side.name not in BF16)
    if len(sides) < len(SIDES):
        runner.notes.append("this CPU has no bf16, and torch no LSTM for it there: those sides are left out")
    found = runner(sides, settings, rounds=rounds)
    report = Report(case="language", smoke=options.smoke, notes=runner.notes)
    for name, results in found.items():
        steps = not name.startswith("generate")
        base = {"graftwork": "raw", "graftwork, auto": "raw, bf16"}.get(name)
        report.add(name, [r["value"] for r in results], "tokens/s" if steps else "ms/token", base=base)
        if steps:
            report.notes.append(f"{name}: {results[0]['runs']}, last loss {results[0]['loss']:.3f}")
            continue
        growth = statistics.median(r["late"] / r["early"] for r in results)
        early, late = settings["tokens"]
        report.checks.append(Check(what=f"{name}: a token after {late} / after {early}", value=growth, target=1.5))
    for name, base in (("graftwork", "raw"), ("graftwork, auto", "raw, bf16")):
        if report.has(name, base):
            share = ratios(report.values(name), report.values(base)).median
            report.checks.append(Check(what=f"{name} / {base}, tokens/s", value=share, target=0.95, better="high"))
    if report.has("graftwork, auto", "graftwork"):
        gain = ratios(report.values("graftwork, auto"), report.values("graftwork")).median
        report.checks.append(Check(what="graftwork, auto / graftwork, tokens/s", value=gain, target=1.2, better="high"))
    return report
