"""Optimizers: known paths, what is decayed, named groups, and a setter that costs next to nothing."""

from __future__ import annotations

import logging
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from graftwork.errors import OptionError, UnknownName
from graftwork.events import TrainState
from graftwork.optim import ParamGroup, hyper_setter, make_optimizer, optimizer_names
from graftwork.schedule import Schedule, constant, one_cycle

# Fused kernels for the CPU came with torch 2.4.
FUSED_ON_CPU = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)


def weights(*values: float) -> nn.Parameter:
    """A weight matrix of one row: it is decayed, where a vector is not."""
    return nn.Parameter(torch.tensor([values]))


def path(optimizer, steps: int = 3, **options) -> list[float]:
    p = weights(1.0, 2.0)
    made = make_optimizer(optimizer, [ParamGroup(name="all", params=[p])], lr=0.1, **options)
    for _ in range(steps):
        p.grad = torch.tensor([[0.1, 0.2]])
        made.step()
    return p.detach().flatten().tolist()


@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        ("sgd", {"wd": 0.01}, [0.94094, 1.88188]),
        ("adamw", {"wd": 0.01}, [0.69733, 1.69432]),
        ("Adam", {"wd": 0.01}, [0.69733, 1.69432]),
        ("AdamW", {"wd": 0.01, "fused": False}, [0.69733, 1.69432]),
        ("rmsprop", {"wd": 0.0}, [-1.28913, -0.28913]),
        ("RAdam", {"wd": 0.0, "eps": 1e-5, "betas": (0.9, 0.99)}, [0.97, 1.94]),
        ("RAdam", {"wd": 0.0}, [0.97, 1.94]),
    ],
)
def test_golden_paths(optimizer, options, expected):
    assert path(optimizer, **options) == pytest.approx(expected, abs=2e-5)


def test_decay_is_decoupled_whatever_the_optimizer():
    for name in ("sgd", "rmsprop", "nadam", "adagrad", "rprop"):
        decayed, plain = path(name, steps=1, wd=0.5), path(name, steps=1, wd=0.0)
        assert np.subtract(plain, decayed) == pytest.approx([0.05, 0.1], abs=1e-5), name


def test_sgd_by_hand():
    p, velocity = np.array([1.0, 2.0]), np.zeros(2)
    for _ in range(5):
        velocity = 0.9 * velocity + [0.1, 0.2]
        p = p * (1 - 0.1 * 0.3) - 0.1 * velocity
    assert path("sgd", steps=5, wd=0.3) == pytest.approx(p.tolist(), rel=1e-6)


def test_the_default_is_fused_and_every_name_is_made():
    made = make_optimizer("adamw", [ParamGroup(name="all", params=[weights(1.0)])], lr=0.1)
    assert made.param_groups[0].get("fused") is (True if FUSED_ON_CPU else None)
    assert {"adamw", "sgd", "rmsprop", "nadam"} <= set(optimizer_names())
    assert "lbfgs" not in optimizer_names()
    for name in optimizer_names():
        made = make_optimizer(name, [ParamGroup(name="all", params=[weights(1.0)])], lr=0.1)
        alias = {"adam": "adamw", "ranger": "lookahead"}.get(name, name.replace("(", "").replace(")", ""))
        assert type(made).__name__.lower() == alias


def test_what_has_no_fused_kernel_is_stepped_all_the_same():
    p = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    made = make_optimizer("adamw", [ParamGroup(name="all", params=[p])], lr=0.1)
    p.grad = torch.ones_like(p)
    made.step()
    assert not made.param_groups[0]["fused"]
    assert p.detach().real.max() < 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm((4, 6, 6)))
        self.head = nn.Linear(4, 2)


def groups_of(net: Net) -> list[ParamGroup]:
    return [
        ParamGroup(name="body", params=list(net.body.parameters())),
        ParamGroup(name="head", params=list(net.head.parameters())),
    ]


def test_biases_and_norms_are_not_decayed_and_groups_keep_their_names():
    net = Net()
    made = make_optimizer("adamw", groups_of(net), lr=0.1, wd=0.2, module=net)
    found = [(group["name"], group["weight_decay"], group["params"]) for group in made.param_groups]
    conv, batch, layer = net.body
    assert [(name, wd) for name, wd, _ in found] == [("body", 0.2), ("body", 0.0), ("head", 0.2), ("head", 0.0)]
    expected = [
        [conv.weight],
        [conv.bias, batch.weight, batch.bias, layer.weight, layer.bias],
        [net.head.weight],
        [net.head.bias],
    ]
    for (_, _, params), wanted in zip(found, expected, strict=True):
        assert [id(p) for p in params] == [id(p) for p in wanted]


def test_without_decay_a_name_has_one_torch_group():
    net = Net()
    made = make_optimizer("sgd", groups_of(net), lr=0.1, wd=0.0, module=net)
    assert [group["name"] for group in made.param_groups] == ["body", "head"]


def test_the_hook_spares_what_is_not_decayed_or_has_no_gradient():
    net = Net()
    made = make_optimizer("sgd", groups_of(net), lr=0.1, wd=0.5, module=net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net.head.weight.grad, net.head.bias.grad = torch.zeros_like(net.head.weight), torch.zeros_like(net.head.bias)
    made.step()
    for name, p in net.named_parameters():
        factor = 0.95 if name == "head.weight" else 1.0
        assert torch.allclose(p, before[name] * factor), name


def test_frozen_parameters_are_left_out():
    net = Net()
    net.body.requires_grad_(False)
    made = make_optimizer("adamw", groups_of(net), lr=0.1, module=net)
    assert {group["name"] for group in made.param_groups} == {"head"}
    net.head.requires_grad_(False)
    with pytest.raises(OptionError, match=r"none of the parameters in \['body', 'head'\]"):
        make_optimizer("adamw", groups_of(net), lr=0.1)


def test_a_function_has_its_own_idea_of_decay():
    made = path(partial(torch.optim.SGD, momentum=0.9), wd=0.01)
    assert made == pytest.approx([0.93834, 1.87668], abs=1e-5)
    assert path(torch.optim.AdamW, wd=0.01, betas=(0.9, 0.99), eps=1e-5) == pytest.approx([0.69733, 1.69432], abs=2e-5)


def test_a_function_must_hand_on_the_groups():
    group = ParamGroup(name="all", params=[weights(1.0)])

    def nameless(groups, lr):
        return torch.optim.SGD([p for g in groups for p in g["params"]], lr=lr)

    with pytest.raises(OptionError, match="with their names"):
        make_optimizer(nameless, [group], lr=0.1)
    with pytest.raises(OptionError, match="gave a NoneType, not an Optimizer"):
        make_optimizer(lambda groups, lr: None, [group], lr=0.1)


def test_names_and_options_are_checked():
    groups = [ParamGroup(name="all", params=[weights(1.0)])]
    make = partial(make_optimizer, groups=groups, lr=0.1)
    with pytest.raises(UnknownName, match="did you mean 'adamw'"):
        make("adamww")
    with pytest.raises(OptionError, match="LBFGS computes the loss several times within a step"):
        make("LBFGS")
    with pytest.raises(OptionError, match="SGD has no option 'momentun' here; did you mean 'momentum'"):
        make("sgd", momentun=0.9)
    with pytest.raises(OptionError, match="say wd="):
        make("sgd", weight_decay=0.9)
    with pytest.raises(OptionError, match="Invalid beta"):
        make("adamw", betas=(2.0, 0.9))
    with pytest.raises(OptionError, match="lr=0 must be above 0"):
        make_optimizer("sgd", groups, lr=0)
    with pytest.raises(OptionError, match="wd=-1"):
        make("sgd", wd=-1)
    with pytest.raises(OptionError, match="different names"):
        make_optimizer("sgd", groups * 2, lr=0.1)


def test_the_setter_writes_rates_by_name_and_momentum_into_betas():
    net = Net()
    made = make_optimizer("adamw", groups_of(net), lr=0.1, module=net)
    schedules = {"body": one_cycle(1e-3, 20), "head": one_cycle(1e-2, 20)}
    state = TrainState(model=net, optimizer=made, num_epochs=1, num_batches=20)
    set_hyper = hyper_setter(made, schedules, state)
    for step in (0, 5, 19):
        set_hyper(step)
        for group in made.param_groups:
            schedule = schedules[group["name"]]
            assert group["lr"] == schedule.lr[step]
            assert type(group["lr"]) is float
            assert group["betas"] == (schedule.mom[step], 0.99)
        assert state.learning_rate == schedules["head"].lr[step]


def test_the_setter_writes_sgds_momentum_and_leaves_none_alone(caplog):
    p = weights(1.0)
    groups = [ParamGroup(name="all", params=[p])]
    schedules = {"all": one_cycle(0.1, 4)}
    sgd = make_optimizer("sgd", groups, lr=0.1)
    with caplog.at_level(logging.WARNING):
        hyper_setter(sgd, schedules)(1)
        assert sgd.param_groups[0]["momentum"] == pytest.approx(0.85)
        assert caplog.records == []
        plain = make_optimizer("sgd", groups, lr=0.1, momentum=0.0)
        hyper_setter(plain, schedules)(1)
    assert plain.param_groups[0]["momentum"] == 0
    assert plain.param_groups[0]["lr"] == pytest.approx(0.1)
    assert "SGD has no momentum here" in caplog.text


def test_a_schedule_without_momentum_leaves_it():
    made = make_optimizer("adamw", [ParamGroup(name="all", params=[weights(1.0)])], lr=0.1)
    hyper_setter(made, {"all": constant(0.5, 3)})(2)
    assert (made.param_groups[0]["lr"], made.param_groups[0]["betas"]) == (0.5, (0.9, 0.99))


def test_a_group_without_a_schedule_is_refused_and_schedules_of_frozen_groups_are_not():
    net = Net()
    net.body.requires_grad_(False)
    made = make_optimizer("adamw", groups_of(net), lr=0.1, module=net)
    with pytest.raises(OptionError, match="'head'; there are"):
        hyper_setter(made, {"body": constant(0.1, 1)})
    hyper_setter(made, {"body": constant(0.1, 1), "head": constant(0.2, 1)})(0)
    assert {group["lr"] for group in made.param_groups} == {0.2}


def test_the_setter_costs_next_to_nothing():
    net = Net()
    made = make_optimizer("adamw", groups_of(net), lr=0.1, module=net)
    schedule = Schedule(np.full(1000, 0.1), np.full(1000, 0.9))
    set_hyper = hyper_setter(made, {"body": schedule, "head": schedule})

    def seconds() -> float:
        start = time.process_time()
        for step in range(1000):
            set_hyper(step)
        return time.process_time() - start

    assert min(seconds() for _ in range(20)) / 1000 / len(made.param_groups) < 2e-6


def test_the_setter_reaches_the_groups_of_a_state_loaded_later():
    p = weights(1.0)
    made = make_optimizer("sgd", [ParamGroup(name="all", params=[p])], lr=0.1)
    set_hyper = hyper_setter(made, {"all": one_cycle(0.1, 4)})
    made.load_state_dict(made.state_dict())
    set_hyper(1)
    assert made.param_groups[0]["lr"] == pytest.approx(0.1)
    assert made.param_groups[0]["momentum"] == pytest.approx(0.85)


def test_state_survives_a_round_trip_with_names_and_decay():
    p = weights(1.0, 2.0)
    groups = [ParamGroup(name="all", params=[p])]
    made = make_optimizer("sgd", groups, lr=0.1, wd=0.3)
    p.grad = torch.ones_like(p)
    made.step()
    again = make_optimizer("sgd", groups, lr=0.7, wd=0.0)
    again.load_state_dict(made.state_dict())
    assert again.param_groups[0]["name"] == "all"
    assert again.param_groups[0]["lr"] == 0.1
