"""Every network for tables: shapes, gradients, rows apart, few columns, learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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
from graftwork_tabular.ft_transformer import FTTransformer, ft_transformer
from graftwork_tabular.mlp import EmbeddingMLP, mlp
from graftwork_tabular.resnet import resnet
from graftwork_tabular.tabm import TabM, members_mean, tabm

Packed = Callable[..., DataLoaders]
BUILDERS: Final[Mapping[str, Callable[..., ModelParts]]] = {
    "ft-transformer": partial(ft_transformer, width=16, heads=2, blocks=2),
    "mlp": mlp,
    "resnet": partial(resnet, width=32, blocks=2),
    "tabm": partial(tabm, k=4, layers=(32, 16)),
}
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
        assert learn.history[-1]["valid_loss"] < 0.8 * before

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


class TestTabM:
    @pytest.fixture
    def net(self) -> TabM:
        module = seeded(lambda: tabm(context(), k=5, layers=(16, 8))).module
        assert isinstance(module, TabM)
        return module

    def test_gives_every_network_in_training_and_their_mean_otherwise(self, net: TabM):
        x = rows(6)
        assert net.train()(x).shape == (6, 5, 3)
        assert net.eval()(x).shape == (6, 3)

    def test_networks_differ(self, net: TabM):
        said = net.eval().members(rows(6))
        assert said.std(1).min() > 1e-3

    def test_probabilities_are_the_mean_of_the_networks(self, net: TabM):
        x = rows(6)
        expected = net.eval().members(x).softmax(2).mean(1)
        assert torch.allclose(net(x).softmax(1), expected, atol=1e-6)

    def test_labels_are_the_mean_of_the_networks(self):
        raw = torch.randn(6, 5, 2) * 4
        mean = members_mean(TARGETS["labels"], raw).sigmoid()
        assert torch.allclose(mean, raw.sigmoid().mean(1), atol=1e-6)

    def test_numbers_are_the_mean_of_the_networks(self):
        raw = torch.randn(6, 5, 3)
        assert torch.allclose(members_mean(TARGETS["numbers"], raw), raw.mean(1))

    def test_certain_networks_stay_finite(self):
        raw = torch.tensor([[[200.0, -200.0], [150.0, -300.0]]])
        for kind in ("classes", "labels"):
            assert members_mean(TARGETS[kind], raw).isfinite().all()

    @pytest.mark.parametrize("kind", sorted(TARGETS))
    def test_the_loss_is_the_mean_of_the_networks_losses(self, packed: Packed, kind: str):
        data = packed(kind)
        batch, target = data.one_batch(), data.plan.target
        parts = seeded(lambda: tabm(context(data.plan.fields["x"].final, target), k=5, layers=(16,)))
        objective = Learner(data, parts, progress=False).objective
        raw = parts.module.train()(batch.x)
        each = [objective.losses["y"](raw[:, i], batch.y) for i in range(5)]
        assert torch.allclose(objective.training(raw, batch.fields), torch.stack(each).mean())

    def test_rows_weigh_alike_in_every_network(self, packed: Packed):
        data = packed()
        batch = data.one_batch()
        parts = seeded(lambda: tabm(context(data.plan.fields["x"].final), k=5, layers=(16,)))
        objective = Learner(data, parts, progress=False).objective
        raw = parts.module.train()(batch.x)
        weight = torch.linspace(0, 1, len(batch.y))
        each = [(objective.losses["y"].per_item(raw[:, i], batch.y) * weight).sum() / weight.sum() for i in range(5)]
        assert torch.allclose(objective.training(raw, batch.fields, weight), torch.stack(each).mean())

    def test_few_rows_and_many_take_the_same_layer(self, net: TabM):
        """Above some rows the networks' weights are put into the layer's."""
        x = rows(100)
        with torch.no_grad():
            together = net.eval().members(x)
            apart = torch.cat([net.members(part) for part in x.split(10)])
        assert torch.allclose(together, apart, atol=1e-5)

    def test_both_ways_have_the_same_gradients(self, net: TabM):
        x = rows(100)
        net.eval()
        (net.members(x) ** 2).sum().backward()
        together = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        sum((net.members(part) ** 2).sum() for part in x.split(10)).backward()
        assert all(torch.allclose(a, p.grad, atol=1e-3) for a, p in zip(together, net.parameters(), strict=True))

    def test_dropout_drops_the_same_units_in_every_network(self):
        net = seeded(lambda: tabm(context(), k=3, ps=0.5)).module.train()
        dropped = net._drop(torch.ones(4, 3, 50)) == 0
        assert 0.3 < dropped.float().mean() < 0.7
        assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))

    def test_an_unseen_value_says_nothing(self):
        """It is zeros, whatever the weights are, as is the embedding of a column with many values."""
        block = PackedRowBlock(cat=("few", "many"), sizes=(4, 100))
        net = seeded(lambda: tabm(context(block))).module.eval()
        assert (net.encoder(torch.zeros(1, 2)) == 0).all()
        assert (net.encoder(torch.ones(1, 2)) != 0).sum() > 1

    def test_categories_are_encoded_one_column_per_code(self):
        block = PackedRowBlock(cat=("few", "other"), sizes=(3, 4))
        net = tabm(context(block)).module
        assert net.encoder(torch.tensor([[1.0, 3.0], [2.0, 0.0]])).tolist() == [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0]]

    def test_bins_are_an_option_by_column(self):
        given = {"n1": {"edges": [0.0, 1.0, 2.0], "means": [0.5, 0.5], "stds": [0.5, 0.5]}}
        assert tabm(context(), bins=given).module.encoder.numbers.width == 32 + 2

    @pytest.mark.parametrize("options", [{"k": 0}, {"layers": ()}, {"layers": (8, 0)}], ids=str)
    def test_impossible_options_are_refused(self, options: dict[str, Any]):
        with pytest.raises(OptionError, match="tabular/tabm needs"):
            tabm(context(), **options)

    def test_values_of_every_network_stay_in_their_range(self):
        net = tabm(context(target=TARGETS["numbers"]), y_range=((0, 0, 5), (1, 2, 6))).module
        said = net.members(rows(50))
        assert (said.amin((0, 1)) >= torch.tensor([0, 0, 5])).all()
        assert (said.amax((0, 1)) <= torch.tensor([1, 2, 6])).all()


class TestResNet:
    def test_has_as_many_blocks_as_asked_for(self):
        assert modules(resnet(context(), blocks=4).module).count("BatchNorm1d") == 4 + 1

    def test_a_block_adds_to_its_input(self):
        body = resnet(context(), width=8, blocks=1).module.body.eval()
        torch.nn.init.zeros_(body[1].layers[4].weight)
        torch.nn.init.zeros_(body[1].layers[4].bias)
        x = torch.randn(5, 8)
        assert torch.equal(body[1](x), x)

    def test_impossible_options_are_refused(self):
        with pytest.raises(OptionError, match="blocks=0"):
            resnet(context(), blocks=0)


class TestFTTransformer:
    def test_every_column_is_a_token(self):
        net = ft_transformer(context(), width=8, heads=2).module
        assert isinstance(net, FTTransformer)
        assert net.tokens(rows(4)).shape == (4, 1 + 3 + 2, 8)

    def test_the_last_block_keeps_the_first_token_alone(self):
        net = ft_transformer(context(), width=8, heads=2, blocks=3).module.eval()
        tokens = net.tokens(rows(4))
        assert net.blocks(tokens).shape == (4, 1, 8)

    def test_the_last_block_says_of_it_what_a_whole_block_would(self):
        net = ft_transformer(context(), width=8, heads=2, blocks=2).module.eval()
        first, last = net.blocks
        tokens = first(net.tokens(rows(4)))
        short = last(tokens)
        last.last = False
        assert torch.allclose(last(tokens)[:, :1], short, atol=1e-6)

    def test_attention_is_what_torch_computes_elsewhere(self):
        """torch's own module, given the same weights."""
        block = seeded(lambda: ft_transformer(context(), width=8, heads=2, blocks=2)).module.blocks[0].eval()
        theirs = nn.MultiheadAttention(8, 2, batch_first=True)
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
            theirs.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
            theirs.out_proj.load_state_dict(block.join.state_dict())
            x = torch.randn(3, 5, 8)
            assert torch.allclose(block._attend(x), theirs(x, x, x)[0], atol=1e-6)

    def test_a_width_that_heads_do_not_divide_is_refused(self):
        with pytest.raises(OptionError, match="multiple of heads=3"):
            ft_transformer(context(), width=8, heads=3)
