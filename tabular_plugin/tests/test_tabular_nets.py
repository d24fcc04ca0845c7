"""The parts: widths of embeddings, the flat table against ordinary embeddings, ranges, targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graftwork.api import ClassIndexBlock, ModelContext, OptionError, RegressionBlock, TargetBlock, UnknownName
from graftwork_tabular.blocks import PackedRowBlock
from graftwork_tabular.nets import (
    Embeddings,
    Outputs,
    SigmoidRange,
    TokenEmbeddings,
    check_share,
    embedding_width,
    embedding_widths,
    output_sizes,
    row_block,
    value_range,
)


def context(block: object, **targets: TargetBlock) -> ModelContext:
    return ModelContext(inputs={"x": block}, targets=targets or {"y": RegressionBlock()})  # type: ignore[dict-item]


BLOCK = PackedRowBlock(cat=("colour", "shape"), sizes=(5, 12), cont=("n",))


class TestWidths:
    def test_are_fastais(self):
        sizes = (2, 3, 5, 10, 50, 100, 1000, 10000, 100000)
        assert [embedding_width(n) for n in sizes] == [2, 3, 4, 6, 14, 21, 77, 278, 600]

    def test_missing_values_and_unseen_ones_count_as_one_value_together(self):
        assert embedding_widths(BLOCK) == (embedding_width(4), embedding_width(11))

    def test_can_be_set_by_column(self):
        assert embedding_widths(BLOCK, {"shape": 9}) == (embedding_width(4), 9)

    def test_of_an_unknown_column_are_refused(self):
        with pytest.raises(UnknownName, match="did you mean 'shape'"):
            embedding_widths(BLOCK, {"shap": 9})

    def test_of_nothing_are_refused(self):
        with pytest.raises(OptionError, match="'shape' the width 0"):
            embedding_widths(BLOCK, {"shape": 0})


class TestEmbeddings:
    @given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=6), st.integers(0, 9))
    def test_look_up_what_separate_tables_would(self, columns: list[tuple[int, int]], seed: int):
        sizes, widths = zip(*columns, strict=True)
        flat = Embeddings(sizes, widths)
        with torch.no_grad():
            flat.table.copy_(torch.arange(len(flat.table), dtype=torch.float32)[:, None])
        codes = torch.from_numpy(np.random.default_rng(seed).integers(0, sizes, (7, len(sizes)), dtype=np.int32))
        separate = [nn.functional.embedding(codes[:, j], flat.matrix(j)) for j in range(len(sizes))]
        assert torch.equal(flat(codes), torch.cat(separate, 1))

    def test_gradients_are_those_of_separate_tables(self):
        flat = Embeddings((5, 12), (3, 4), std=1.0)
        separate = [flat.matrix(j).detach().clone().requires_grad_() for j in range(2)]
        codes, weight = torch.tensor([[0, 11], [4, 11], [4, 0]], dtype=torch.int32), torch.randn(3, 7)
        (flat(codes) * weight).sum().backward()
        rows = [nn.functional.embedding(codes[:, j], separate[j]) for j in range(2)]
        (torch.cat(rows, 1) * weight).sum().backward()
        assert torch.allclose(flat.table.grad[:, 0], torch.cat([s.grad.flatten() for s in separate]))

    def test_start_small_and_truncated(self):
        table = Embeddings((1000,), (50,)).table
        assert table.abs().max() <= 0.02
        assert table.std().item() == pytest.approx(0.0088, rel=0.02)

    def test_decay_as_matrices_do(self):
        """The optimizer spares parameters of one dimension."""
        assert Embeddings((5,), (3,)).table.ndim == 2

    def test_without_columns_there_is_nothing(self):
        assert Embeddings((), ()).width == 0

    def test_take_codes_of_any_integer_type(self):
        flat = Embeddings((5, 12), (3, 4))
        codes = torch.tensor([[1, 2]])
        assert torch.equal(flat(codes.int()), flat(codes.long()))


class TestTokens:
    def test_look_up_what_separate_tables_would(self):
        tokens = TokenEmbeddings((5, 12), 4, bound=0.5)
        codes = torch.tensor([[0, 11], [4, 3]], dtype=torch.int32)
        expected = torch.stack([tokens.matrix(j)[codes[:, j].long()] for j in range(2)], 1)
        assert torch.equal(tokens(codes), expected)
        assert tokens.table.abs().max() <= 0.5


class TestRanges:
    def test_outputs_lie_between(self):
        squeezed = SigmoidRange(2.0, 5.0)(torch.tensor([-100.0, 0.0, 100.0]))
        assert torch.allclose(squeezed, torch.tensor([2.0, 3.5, 5.0]))

    def test_each_output_can_have_its_own(self):
        made = value_range(([0, 10], [1, 20]), 2)
        assert made is not None
        assert torch.allclose(made(torch.tensor([[0.0, 100.0]])), torch.tensor([[0.5, 20.0]]))

    def test_one_range_serves_all_outputs(self):
        made = value_range((0, 8), 3)
        assert made is not None
        assert made(torch.zeros(2, 3)).tolist() == [[4.0] * 3] * 2

    def test_none_is_none(self):
        assert value_range(None, 3) is None

    @pytest.mark.parametrize("given", [(1,), (5, 2), (1, 1), ([0, 1], [1, 2, 3]), ([0], [1])])
    def test_what_is_no_range_is_refused(self, given: tuple[object, ...]):
        with pytest.raises(OptionError, match="y_range"):
            value_range(given, 2)


class TestContext:
    def test_the_row_is_found(self):
        assert row_block(context(BLOCK), "tabular/mlp") is BLOCK

    def test_another_input_is_refused(self):
        with pytest.raises(OptionError, match="tabular/mlp takes one row"):
            row_block(context(RegressionBlock()), "tabular/mlp")

    def test_a_row_without_columns_is_refused(self):
        with pytest.raises(OptionError, match="neither category nor number"):
            row_block(context(PackedRowBlock()), "tabular/mlp")

    def test_outputs_are_counted_by_target(self):
        assert output_sizes(context(BLOCK, a=ClassIndexBlock(("x", "y", "z")), b=RegressionBlock(2))) == (3, 2)

    def test_a_target_without_classes_is_refused(self):
        with pytest.raises(OptionError, match="target 'y'"):
            output_sizes(context(BLOCK, y=ClassIndexBlock(())))

    def test_one_target_gets_everything_as_it_is(self):
        raw = torch.randn(2, 5)
        assert Outputs((5,))(raw) is raw

    def test_several_targets_get_their_parts_of_the_last_dimension(self):
        raw = torch.randn(2, 4, 5)
        first, second = Outputs((3, 2))(raw)
        assert torch.equal(torch.cat([first, second], 2), raw)
        assert first.shape == (2, 4, 3)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2])
def test_a_share_to_drop_is_below_one(share: float):
    with pytest.raises(OptionError, match=f"ps={share}"):
        check_share("ps", share)
