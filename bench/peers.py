"""The peers' sides: they run in an interpreter of their own, where graftwork need not be installed.

Each does as little beside the steps as it can be told to: no logger, no checkpoints. fastai shows its bar and three
metrics, as graftwork does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from bench.photos import BS as BATCH
from bench.photos import SIZE
from bench.tiny import BS, LR, WD, Run, clock, columns, mlp, ready_batches

__all__ = ["OVERHEAD"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"


def fastai(*, fused: bool = False) -> Run:
    """Return fastai's fit with its own optimizer, or with torch's fused AdamW."""

    def run(steps: int, device: str) -> tuple[float, float]:
        import torch
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner
        from fastai.metrics import accuracy, error_rate, top_k_accuracy
        from fastai.optimizer import Adam, OptimWrapper

        data = DataLoaders(ready_batches(steps, device), ready_batches(4, device), device=torch.device(device))
        own = partial(OptimWrapper, opt=partial(torch.optim.AdamW, fused=True))
        learn = Learner(
            data,
            mlp(device),
            loss_func=torch.nn.functional.cross_entropy,
            opt_func=own if fused else Adam,
            lr=LR,
            wd=WD,
            metrics=[accuracy, error_rate, partial(top_k_accuracy, k=2)],
        )
        begin = clock(device)
        learn.fit(1)
        seconds = clock(device) - begin
        assert len(learn.recorder.losses) == steps
        return seconds, float(learn.recorder.losses[-1])

    return run


def skorch(steps: int, device: str) -> tuple[float, float]:
    """Fit with skorch and the fused AdamW."""
    import torch
    from skorch import NeuralNet

    batches, (x, y) = ready_batches(steps, device), columns(steps, device)

    def feed(dataset: object, **options: object) -> list[Any]:
        return batches

    net = NeuralNet(
        mlp(device),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=partial(torch.optim.AdamW, fused=True),
        lr=LR,
        max_epochs=1,
        batch_size=BS,
        iterator_train=feed,
        train_split=None,
        device=device,
    )
    begin = clock(device)
    net.fit(x, y)
    return clock(device) - begin, float(net.history[-1, "batches", -1, "train_loss"])


def lightning(steps: int, device: str) -> tuple[float, float]:
    """Fit with Lightning and the fused AdamW, without logger, checkpoints and bar."""
    import torch
    from lightning import LightningModule, Trainer
    from torch.nn.functional import cross_entropy

    class Tiny(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(device)
            self.loss = torch.zeros(())

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            self.loss = cross_entropy(self.net(batch[0]), batch[1])
            return self.loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=LR, weight_decay=WD, fused=True)

    class Feed:
        def __init__(self) -> None:
            self.batches = ready_batches(steps, device)

        def __len__(self) -> int:
            return steps

        def __iter__(self) -> Iterator[Any]:
            return iter(self.batches)

    model, batches = Tiny(), Feed()  # a list would be taken for a list of loaders
    trainer = Trainer(
        max_epochs=1,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    begin = clock(device)
    trainer.fit(model, batches)
    return clock(device) - begin, float(model.loss.detach())


OVERHEAD: Final[Mapping[str, Run]] = {
    "fastai": fastai(),
    "fastai, fused AdamW": fastai(fused=True),
    "skorch": skorch,
    "lightning": lightning,
}


def fastai_vision(settings: dict[str, Any], *, augmented: bool = False) -> dict[str, Any]:
    """Train the same ResNet-18 from the same photos as fastai's book does, reading in this process: its fastest way."""
    from fastai.callback.core import Callback, CancelFitException
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, error_rate, resnet18, vision_learner

    from bench.cases.vision import Window

    window = Window(settings)

    class Watch(Callback):  # type: ignore[misc]
        def after_batch(self) -> None:
            if self.training and window.add():
                raise CancelFitException

    data = ImageDataLoaders.from_folder(
        settings["folder"], valid_pct=0.2, seed=42, item_tfms=Resize(SIZE), bs=BATCH, num_workers=0,
        batch_tfms=aug_transforms() if augmented else None,
    )  # fmt: skip
    learn = vision_learner(data, resnet18, pretrained=False, metrics=error_rate)
    learn.fit(1, LR, cbs=[Watch()])
    return {"value": window.rate, "batches": window.done}


VISION: Final[Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "fastai": fastai_vision,
    "fastai, augmented": partial(fastai_vision, augmented=True),
}
