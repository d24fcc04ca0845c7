"""Every network for tables: shapes, gradients, rows apart, few columns, learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graftwork.api import (
    ClassIndexBlock,
    DataLoaders,
    Learner,
    ModelContext,
    ModelParts,
    MultiHotBlock,
    OptionError,
    RegressionBlock,
    TargetBlock,
)
from graftwork_tabular.blocks import PackedRowBlock
from graftwork_tabular.mlp import EmbeddingMLP, mlp

Packed = Callable[..., DataLoaders]
BUILDERS: Final[Mapping[str, Callable[..., ModelParts]]] = {"mlp": mlp}
TARGETS: Final[Mapping[str, TargetBlock]] = {
    "classes": ClassIndexBlock(("a", "b", "c")),
    "number": RegressionBlock(1),
    "numbers": RegressionBlock(3),
    "labels": MultiHotBlock(("a", "b")),
}
BLOCK = PackedRowBlock(cat=("colour", "shape", "place"), sizes=(5, 4, 7), cont=("n0", "n1"))


@pytest.fixture(params=sorted(BUILDERS))
def build(request: pytest.FixtureRequest) -> Callable[..., ModelParts]:
    return BUILDERS[request.param]


def context(block: PackedRowBlock = BLOCK, target: TargetBlock = TARGETS["classes"]) -> ModelContext:
    return ModelContext(inputs={"x": block}, targets={"y": target})


def rows(count: int, block: PackedRowBlock = BLOCK, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return block.collate([block.mock(rng) for _ in range(count)])


def seeded(build: Callable[[], ModelParts], seed: int = 0) -> ModelParts:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class TestEveryModel:
    @pytest.mark.parametrize("kind", sorted(TARGETS))
    def test_gives_what_the_target_needs(self, build: Callable[..., ModelParts], kind: str):
        block = TARGETS[kind]
        module = build(context(target=block)).module.eval()
        assert module(rows(6)).shape == (6, block.num_outputs)

    @pytest.mark.parametrize("columns", [("cat",), ("cont",)], ids=["only categories", "only numbers"])
    def test_works_with_one_kind_of_column(self, build: Callable[..., ModelParts], columns: tuple[str, ...]):
        whole = {"cat": {"cat": BLOCK.cat, "sizes": BLOCK.sizes}, "cont": {"cont": BLOCK.cont}}
        block = PackedRowBlock(**whole[columns[0]])  # type: ignore[arg-type]
        module = build(context(block)).module.eval()
        assert module(rows(6, block)).isfinite().all()

    def test_every_parameter_gets_a_gradient(self, build: Callable[..., ModelParts]):
        parts = seeded(lambda: build(context()))
        module = parts.module.train()
        out = module(rows(64))
        (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        without = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []

    def test_rows_are_independent_in_eval(self, build: Callable[..., ModelParts]):
        module = build(context()).module.eval()
        x = rows(9)
        with torch.no_grad():
            together, alone = module(x), torch.cat([module(x[i : i + 1]) for i in range(len(x))])
        assert torch.allclose(together, alone, atol=1e-5)

    def test_every_column_counts(self, build: Callable[..., ModelParts]):
        """Another value in any column changes what comes out."""
        module = seeded(lambda: build(context())).module.eval()
        x = rows(1)
        with torch.no_grad():
            before = module(x)
            for column in range(x.shape[1]):
                changed = x.clone()
                changed[0, column] = 1 if changed[0, column] != 1 else 2
                assert not torch.equal(module(changed), before), column

    def test_the_same_seed_gives_the_same_weights(self, build: Callable[..., ModelParts]):
        one, other = (seeded(lambda: build(context())).module.state_dict() for _ in range(2))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)

    @pytest.mark.parametrize("kind", sorted(TARGETS))
    def test_loss_falls(self, build: Callable[..., ModelParts], packed: Packed, kind: str):
        data = packed(kind)
        target = data.plan.target
        parts = seeded(lambda: build(context(PackedRowBlock(**vars(data.plan.fields["x"].final)), target)))
        learn = Learner(data, parts, lr=1e-2, progress=False)
        before = learn.validate()["valid_loss"]
        learn.fit_one_cycle(6)
        assert learn.history[-1]["valid_loss"] < 0.7 * before

    def test_another_input_is_refused(self, build: Callable[..., ModelParts]):
        with pytest.raises(OptionError, match="takes one row of a table"):
            build(ModelContext(inputs={"x": RegressionBlock()}, targets={"y": RegressionBlock()}))

    def test_several_targets_get_an_output_each(self, build: Callable[..., ModelParts]):
        ctx = ModelContext(inputs={"x": BLOCK}, targets={"y1": TARGETS["classes"], "y2": TARGETS["numbers"]})
        first, second = build(ctx).module.eval()(rows(4))
        assert (first.shape, second.shape) == ((4, 3), (4, 3))


def modules(module: nn.Module) -> list[str]:
    return [type(m).__name__ for m in module.modules() if not list(m.children())]


class TestMLP:
    def test_is_built_as_fastai_builds_it(self):
        body = mlp(context(), layers=(20, 10), ps=0.3).module.body
        stage = ["Linear", "ReLU", "BatchNorm1d", "Dropout"]
        assert modules(body) == [*stage, *stage, "Linear"]

    def test_has_fastais_number_of_parameters(self):
        """Embeddings of 4, 3 and 6 values are 3, 3 and 4 wide; two numbers are normalised; no bias before a norm."""
        count = sum(p.numel() for p in mlp(context()).module.parameters())
        embeddings, numbers = 5 * 3 + 4 * 3 + 7 * 4, 2 * 2
        assert count == embeddings + numbers + (12 * 200 + 400) + (200 * 100 + 200) + (100 * 3 + 3)

    def test_final_norm_stands_last_and_takes_the_bias(self):
        output = mlp(context(), bn_final=True).module.body.output
        assert modules(output) == ["Linear", "BatchNorm1d"]
        assert output[0].bias is None

    def test_can_do_without_norms(self):
        module = mlp(context(), use_bn=False, bn_cont=False).module
        assert "BatchNorm1d" not in modules(module)

    def test_without_layers_it_is_linear(self):
        assert modules(mlp(context(), layers=()).module.body) == ["Linear"]

    def test_layers_can_drop_different_shares(self):
        body = mlp(context(), layers=(8, 8), ps=(0.0, 0.4)).module.body
        assert [m.p for m in body.modules() if isinstance(m, nn.Dropout)] == [0.4]

    def test_embeddings_drop_in_training_alone(self):
        module = seeded(lambda: mlp(context(), embed_p=0.9)).module
        assert isinstance(module, EmbeddingMLP)
        x = rows(200)
        seen: list[Tensor] = []
        module.body.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        module.train()(x)
        module.eval()(x)
        dropped, kept = ((out[:, : module.embeddings.width] == 0).float().mean() for out in seen)
        assert dropped > 0.8
        assert kept == 0

    def test_values_stay_in_their_range(self):
        module = mlp(context(target=TARGETS["number"]), y_range=(-1, 2)).module.eval()
        x = rows(50)
        x[:, BLOCK.n_cat :] *= 1000
        out = module(x)
        assert out.min() >= -1
        assert out.max() <= 2

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"ps": (0.1,)}, "1 shares to drop for 2 layers"),
            ({"ps": 1.5}, "ps=1.5"),
            ({"embed_p": 1.0}, "embed_p=1.0"),
            ({"layers": (0,)}, "at least one unit"),
            ({"y_range": (2, 1)}, "low below high"),
        ],
        ids=lambda v: str(v) if isinstance(v, str) else next(iter(v)),
    )
    def test_impossible_options_are_refused(self, options: dict[str, Any], told: str):
        with pytest.raises(OptionError, match=told):
            mlp(context(), **options)
