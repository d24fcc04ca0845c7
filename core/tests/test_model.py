from __future__ import annotations

import pytest
import torch
from torch import nn

from graftwork.block import ClassIndexBlock, RegressionBlock
from graftwork.datablock import DataLoaders
from graftwork.errors import FreezeError, OptionError
from graftwork.model import ModelContext, ModelParts, freeze_groups, model_context


def parts() -> ModelParts:
    stem, body, head = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), nn.Linear(8, 3)
    module = nn.Sequential(stem, body, head)
    return ModelParts(module=module, groups={"stem": (stem,), "body": (body,), "head": (head,)})


def learning(made: ModelParts) -> list[bool]:
    return [p.requires_grad for p in made.module.parameters()]


def test_groups_go_from_input_to_output_and_hold_every_parameter_once() -> None:
    made = parts()
    groups = made.parameter_groups()
    assert list(groups) == ["stem", "body", "head"]
    assert [id(p) for g in groups.values() for p in g] == [id(p) for p in made.module.parameters()]


def test_a_module_without_groups_is_one() -> None:
    assert list(ModelParts(module=nn.Linear(2, 2)).parameter_groups()) == ["model"]


def test_groups_that_leave_out_or_repeat_a_parameter_are_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(OptionError, match=r"leave out \['1.weight', '1.bias'\]"):
        ModelParts(module=module, groups={"a": (module[0],)}).parameter_groups()
    with pytest.raises(OptionError, match="twice"):
        ModelParts(module=module, groups={"a": (module,), "b": (module[1],)}).parameter_groups()


@pytest.mark.parametrize("first", [-1, 2, "head"])
def test_freezing_all_but_the_head_lets_norm_layers_learn(first: int | str) -> None:
    made = parts()
    freeze_groups(made, first)
    assert learning(made) == [False, False, False, False, True, True, True, True]
    freeze_groups(made, first, train_norm=False)
    assert learning(made) == [False] * 6 + [True, True]
    freeze_groups(made, 0)
    assert all(learning(made))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("stem", "would freeze nothing"),
        (-3, "would freeze nothing"),
        ("neck", "no parameter group 'neck'"),
        (3, "there are 3"),
    ],
)
def test_a_freeze_that_would_change_nothing_is_an_error(first: int | str, message: str) -> None:
    with pytest.raises(FreezeError, match=message):
        freeze_groups(parts(), first)


def test_one_group_cannot_be_frozen_silently() -> None:
    with pytest.raises(FreezeError, match="more groups"):
        freeze_groups(ModelParts(module=nn.Linear(2, 2)), -1)


def test_the_context_holds_the_blocks_the_model_sees(data: DataLoaders) -> None:
    context = model_context(data.plan)
    assert context.inputs == {"x": RegressionBlock(4)}
    assert context.targets == {"y": ClassIndexBlock(("ant", "bee", "cow"))}
    assert context.num_outputs == 3
    with pytest.raises(OptionError, match="one output"):
        _ = ModelContext(inputs={}, targets={}).num_outputs


def test_freezing_leaves_values_alone() -> None:
    made = parts()
    before = [p.clone() for p in made.module.parameters()]
    freeze_groups(made, -1)
    assert all(torch.equal(a, b) for a, b in zip(before, made.module.parameters(), strict=True))
