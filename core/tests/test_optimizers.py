"""Our optimizers: fastai's paths and the papers' equations, state without pickle, and what they refuse."""

from __future__ import annotations

import json
import logging
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from graftwork.datablock import DataLoaders
from graftwork.errors import OptionError, TrainingError, UnknownName
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.model import ModelParts
from graftwork.optim import ParamGroup, companions, hyper_setter, make_optimizer
from graftwork.optimizers.joined import Lookahead
from graftwork.optimizers.moments import Lion
from graftwork.optimizers.muon import MatrixMuon, Muon, orthogonalized
from graftwork.optimizers.schedule_free import ScheduleFreeSGD, WeightSwitch
from graftwork.optimizers.trust import Lamb, Larc
from graftwork.schedule import combine, constant, one_cycle, wsd

OURS = ["lamb", "larc", "lion", "muon", "qhadam", "ranger", "lookahead(adamw)", "lookahead(muon)"]
SCHEDULE_FREE = ["schedulefree(adamw)", "schedulefree(sgd)"]


def gradient(step: int, steady: bool) -> torch.Tensor:
    """The constant gradient of the golden paths, or one that changes its length and sign."""
    steady_one = torch.tensor([[0.1, 0.2]])
    if steady:
        return steady_one
    return steady_one * (1.0 if step % 3 else -2.0) * (1 + step) + torch.tensor([[0.05 * step, -0.3]])


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([values]))


def made_for(optimizer, *params: nn.Parameter, lr: float = 0.1, **options):
    return make_optimizer(optimizer, [ParamGroup(name="all", params=params)], lr=lr, **options)


def path(optimizer, steps: int = 3, steady: bool = True, **options) -> list[float]:
    p = parameter(1.0, 2.0)
    made = made_for(optimizer, p, **options)
    for step in range(steps):
        p.grad = gradient(step, steady)
        made.step()
    return p.detach().flatten().tolist()


FASTAI = {"betas": (0.9, 0.99), "eps": 1e-5}


@pytest.mark.parametrize(
    ("optimizer", "options", "three_steps", "fourteen_uneven"),
    [
        ("sgd", {"wd": 0.01}, [0.94094, 1.88188], [-0.65582, 4.22577]),
        ("adam", {"wd": 0.01}, [0.69733, 1.69432], [0.74518, 2.37413]),
        ("rmsprop", {"wd": 0.0}, [-1.28913, -0.28913], [-0.88582, 3.26488]),
        ("rmsprop", {"wd": 0.1}, [-1.29184, -0.32154], [-0.92649, 2.86874]),
        ("radam", {"wd": 0.0, **FASTAI}, [0.97, 1.94], [0.95512, 2.21426]),
        ("lamb", {"wd": 0.0}, [0.56882, 1.5688], [-1.47394, 4.26734]),
        ("lamb", {"wd": 0.1}, [0.55192, 1.5222], [-1.3729, 3.77028]),
        ("larc", {"wd": 0.01}, [0.98686, 1.97372], [0.95192, 2.01792]),
        ("larc", {"wd": 0.01, "clip": False}, [0.98686, 1.97372], [0.95192, 2.01792]),
        ("qhadam", {"wd": 0.0}, [0.7, 1.7], [0.69428, 2.35235]),
        ("qhadam", {"wd": 0.1, "nus": (0.7, 0.8), **FASTAI}, [0.67332, 1.6436], [0.57929, 1.97292]),
        ("ranger", {"wd": 0.01}, [0.96703, 1.93407], [0.96763, 2.09467]),
        ("lookahead(sgd)", {"wd": 0.0, "sync_period": 3}, [0.97195, 1.9439], [-0.05015, 3.49811]),
    ],
)
def test_paths_are_fastais(optimizer, options, three_steps, fourteen_uneven):
    assert path(optimizer, **options) == pytest.approx(three_steps, abs=2e-5)
    # Torch's RAdam adds eps at another place: 1e-5 is to be seen in the fourth digit.
    assert path(optimizer, 14, steady=False, **options) == pytest.approx(fourteen_uneven, abs=2e-4)


def test_clip_keeps_larc_below_the_rate():
    def one_step(clip: bool) -> float:
        p = parameter(30.0, 40.0)
        made = made_for("larc", p, wd=0.0, trust=0.5, momentum=0.0, clip=clip)
        p.grad = torch.tensor([[3.0, 4.0]])
        made.step()
        return p[0, 0].item()

    assert one_step(clip=True) == pytest.approx(30 - 0.1 * 3)
    assert one_step(clip=False) == pytest.approx(30 - 0.1 * 5 * 3)


@pytest.mark.parametrize("name", ["lamb", "larc"])
def test_weights_that_start_at_zero_learn(name):
    p = nn.Parameter(torch.zeros(3))
    made = made_for(name, p)
    p.grad = torch.ones(3)
    made.step()
    assert p.tolist() == pytest.approx([-0.1] * 3, rel=1e-4)


def test_lion_by_hand():
    p, mean = np.array([1.0, 2.0]), np.zeros(2)
    for step in range(5):
        grad = gradient(step, steady=False).numpy()[0]
        p = p * (1 - 0.1 * 0.3) - 0.1 * np.sign(0.9 * mean + 0.1 * grad)
        mean = 0.99 * mean + 0.01 * grad
    assert path("lion", 5, steady=False, wd=0.3) == pytest.approx(p.tolist(), rel=1e-5)


# -- schedule-free ---------------------------------------------------------------------------------------------------


def schedule_free_by_hand(steps: int, *, adam: bool, wd: float, rates: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Keep x, y and z as the paper writes them; return y and x."""
    x = z = y = np.array([1.0, 2.0])
    square, total = np.zeros(2), 0.0
    for step in range(steps):
        grad = gradient(step, steady=False).numpy()[0].astype(float)
        if adam:
            square = 0.999 * square + 0.001 * grad**2
            grad = grad / (np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8)
        z = z - rates[step] * (grad + wd * y)
        weight = max(rates[: step + 1]) ** 2
        total += weight
        x = x + (z - x) * weight / total
        y = 0.1 * z + 0.9 * x
    return y, x


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_is_the_papers_three_points(name):
    rates = [0.02, 0.05, 0.1, 0.1, 0.08, 0.1]
    p = parameter(1.0, 2.0)
    made = made_for(name, p, wd=0.2)
    for step, rate in enumerate(rates):
        made.param_groups[0]["lr"] = rate
        p.grad = gradient(step, steady=False)
        made.step()
    y, x = schedule_free_by_hand(len(rates), adam="adamw" in name, wd=0.2, rates=rates)
    assert p[0].tolist() == pytest.approx(y.tolist(), rel=1e-4)
    for _ in range(2):
        made.to_mean()
        assert p[0].tolist() == pytest.approx(x.tolist(), rel=1e-4)
    with pytest.raises(OptionError, match="call the optimizer's to_gradient"):
        made.step()
    for _ in range(2):
        made.to_gradient()
        assert p[0].tolist() == pytest.approx(y.tolist(), rel=1e-4)


def test_the_switch_follows_the_phases():
    p = parameter(1.0, 2.0)
    made = made_for("schedulefree(sgd)", p)
    (switch,) = companions(made)
    assert isinstance(switch, WeightSwitch)
    assert companions(made_for("sgd", p)) == []
    state = TrainState(model=nn.Identity(), optimizer=made, num_epochs=1, num_batches=1)

    def at_gradient() -> bool:
        return made.param_groups[0]["at_gradient"]

    switch.phase_start(state)
    assert at_gradient()
    switch.phase_end(state)
    assert not at_gradient()
    state.phase = "valid"
    switch.phase_start(state)
    switch.phase_end(state)
    assert not at_gradient()
    state.phase = "train"
    switch.phase_start(state)
    assert at_gradient()
    switch.fit_end(state)
    assert not at_gradient()


def test_schedule_free_has_no_momentum_to_move_and_says_what_batch_norm_does(caplog):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    groups = [ParamGroup(name="all", params=list(net.parameters()))]
    with caplog.at_level(logging.WARNING):
        made = make_optimizer("schedulefree(adamw)", groups, lr=0.1, module=net)
        assert "batch norm's statistics" in caplog.text
        hyper_setter(made, {"all": one_cycle(0.1, 4)})(1)
    assert "no momentum here" in caplog.text
    assert made.param_groups[0]["interpolation"] == 0.9


# -- lookahead -------------------------------------------------------------------------------------------------------


def test_lookahead_is_its_loop():
    p = parameter(1.0, 2.0)
    made = made_for("lookahead(adamw)", p, wd=0.1, sync_period=2, slow_step=0.25, betas=(0.8, 0.9))
    q = parameter(1.0, 2.0)
    fast = made_for("adamw", q, wd=0.1, betas=(0.8, 0.9))
    slow = q.detach().clone()
    for step in range(7):
        p.grad, q.grad = gradient(step, False), gradient(step, False)
        made.step()
        fast.step()
        if step % 2:
            slow += 0.25 * (q.detach() - slow)
            q.data.copy_(slow)
        assert torch.equal(p, q)


def test_a_parameter_may_get_its_first_gradient_late():
    p, q = parameter(1.0), parameter(1.0)
    made = made_for("lookahead(adamw)", p, q, sync_period=2)
    for step in range(4):
        p.grad = torch.ones(1, 1)
        q.grad = torch.ones(1, 1) if step == 2 else None
        made.step()
    assert made.state[q]["slow"].item() == pytest.approx((1 + q.item()) / 2, abs=0.1)
    assert 0.9 < q.item() < 1


@pytest.mark.parametrize("name", ["lookahead(ranger)", "lookahead(lookahead(sgd))", "lookahead(schedulefree(sgd))"])
def test_two_means_of_weights_are_refused(name):
    with pytest.raises(OptionError, match="use it by itself"):
        made_for(name, parameter(1.0))


# -- muon ------------------------------------------------------------------------------------------------------------


def net_and_groups() -> tuple[nn.Module, list[ParamGroup]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3, bias=False))
    body = [p for layer in net[:3] for p in layer.parameters()]
    return net, [ParamGroup(name="body", params=body), ParamGroup(name="head", params=[net[3].weight])]


def test_muon_steps_matrices_and_adamw_the_rest():
    net, groups = net_and_groups()
    made = make_optimizer("muon", groups, lr=0.1, wd=0.2, module=net)
    by_muon = [g for g in made.param_groups if "ns_steps" in g]
    assert [(g["name"], g["weight_decay"]) for g in by_muon] == [("body", 0.2), ("head", 0.2)]
    assert [id(p) for g in by_muon for p in g["params"]] == [id(net[1].weight), id(net[3].weight)]
    others = [g for g in made.param_groups if "betas" in g]
    assert [(g["name"], g["weight_decay"], len(g["params"])) for g in others] == [("body", 0.2, 1), ("body", 0.0, 3)]
    schedules = {"body": one_cycle(0.01, 4), "head": one_cycle(0.1, 4)}
    state = TrainState(model=net, optimizer=made, num_epochs=1, num_batches=4)
    hyper_setter(made, schedules, state)(1)
    assert {g["momentum"] for g in by_muon} == {schedules["head"].mom[1]}
    assert {g["betas"] for g in others} == {(schedules["body"].mom[1], 0.99)}
    # The last torch group is one of the body's here; the rate shown is the last named group's.
    assert state.learning_rate == schedules["head"].lr[1]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_a_step_is_orthogonal_and_torchs(shape):
    grads = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    values = torch.linalg.svdvals(orthogonalized(grads[0], 5).float())
    assert 0.6 < values.min() < values.max() < 1.3
    torchs = vars(torch.optim).get("Muon")
    if torchs is None:
        return  # it came with torch 2.9
    p, q = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
    options = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    ours, theirs = MatrixMuon([p], **options), torchs([q], **options)
    for grad in grads:
        p.grad, q.grad = grad.clone(), grad.clone()
        ours.step()
        theirs.step()
    assert torch.allclose(p, q, atol=1e-2)
    assert not torch.allclose(p, torch.ones(shape), atol=0.05)


def test_muon_without_a_matrix_is_adamw():
    assert len(made_for("muon", nn.Parameter(torch.ones(3))).parts) == 1
    with pytest.raises(OptionError, match=r"found a parameter of shape \(3,\)"):
        MatrixMuon([nn.Parameter(torch.ones(3))])


# -- all of them -----------------------------------------------------------------------------------------------------


def trained(name: str, steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    net, groups = net_and_groups()
    made = make_optimizer(name, groups, lr=0.02, module=net)
    train(net, made, range(steps))
    return net, made


def train(net: nn.Module, made: torch.optim.Optimizer, steps: range) -> float:
    for step in steps:
        tokens = torch.arange(10).reshape(2, 5).add(step) % 5
        loss = nn.functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten() % 3)
        loss.backward()
        made.step()
        made.zero_grad()
    return loss.item()


@pytest.mark.parametrize("name", OURS + SCHEDULE_FREE)
def test_state_is_tensors_and_json_and_training_goes_on_to_the_same_bits(name):
    net, made = trained(name, 7)
    saved = made.state_dict()
    tensors = {
        (i, key): v.clone()
        for i, kept in saved["state"].items()
        for key, v in kept.items()
        if isinstance(v, torch.Tensor)
    }
    numbers = {
        i: {key: v for key, v in kept.items() if not isinstance(v, torch.Tensor)} for i, kept in saved["state"].items()
    }
    said = json.loads(json.dumps({"numbers": numbers, "groups": saved["param_groups"]}))
    weights = {key: v.clone() for key, v in net.state_dict().items()}
    train(net, made, range(7, 14))

    again, groups = net_and_groups()
    again.load_state_dict(weights)
    resumed = make_optimizer(name, groups, lr=0.5, module=again)
    state = {int(i): dict(values) for i, values in said["numbers"].items()}
    for (i, key), value in tensors.items():
        state[i][key] = value
    resumed.load_state_dict({"state": state, "param_groups": said["groups"]})
    train(again, resumed, range(7, 14))
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("name", OURS + SCHEDULE_FREE)
def test_a_model_learns(name):
    net, made = trained(name, 1)
    first = train(net, made, range(1))
    assert train(net, made, range(40)) < 0.8 * first


class NoReads(TorchDispatchMode):
    """Fail where a number would be read from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket is not torch.ops.aten._local_scalar_dense, "the step waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["lamb", "larc", "lion", "muon", "qhadam", *SCHEDULE_FREE])
def test_no_step_reads_from_the_device(name):
    net, made = trained(name, 1)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    # AdamW keeps its count on the host, where reading is free; with it the check would be of torch.
    for part in getattr(made, "parts", [made]):
        if not isinstance(part, torch.optim.AdamW):
            with NoReads():
                part.step()


def test_types_are_stepped_apart_and_what_has_no_gradient_stays():
    p, q, idle = (nn.Parameter(torch.ones(2, 2, dtype=t)) for t in (torch.float32, torch.float64, torch.float32))
    made = made_for("lamb", p, q, idle)
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    made.step()
    assert q.dtype is torch.float64
    assert q.flatten().tolist() == pytest.approx(p.flatten().tolist(), rel=1e-6)
    assert idle.flatten().tolist() == [1.0] * 4
    assert idle not in made.state


def test_a_loss_scaler_unscales_and_skips():
    for name in ("lamb", "lookahead(adamw)", "schedulefree(sgd)"):
        p = parameter(1.0, 2.0)
        made, plain = made_for(name, p), path(name, steps=1)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale(torch.zeros(()))
        for grad in (torch.tensor([[float("inf"), 0.0]]), torch.tensor([[0.1, 0.2]])):
            p.grad = grad * scaler.get_scale()
            scaler.step(made)
            scaler.update()
        assert p[0].tolist() == pytest.approx(plain, rel=1e-5), name


def test_a_closure_is_asked_once():
    p = parameter(1.0)
    p.grad = torch.ones(1, 1)
    for made in (Lamb([p], lr=0.1), Lookahead(Lion([p], lr=0.1)), Muon([{"params": [p]}], lr=0.1)):
        assert made.step(lambda: 3.5) == 3.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lamb", {"betas": (1.0, 0.9)}, "betas=.* must lie between 0 and 1"),
        ("lamb", {"max_ratio": 0}, "max_ratio=0 must be above 0"),
        ("lamb", {"eps2": 1}, "Lamb has no option 'eps2' here; did you mean 'eps'"),
        ("larc", {"trust": -1}, "trust=-1 must be above 0"),
        ("larc", {"momentum": 1}, "momentum=1 must lie"),
        ("lion", {"betas": (0.9, -0.1)}, "betas="),
        ("qhadam", {"nus": (2, 0)}, "nus="),
        ("lookahead(sgd)", {"sync_period": 0}, "sync_period=0 must be 1 or more"),
        ("lookahead(sgd)", {"slow_step": 1.5}, "slow_step=1.5"),
        ("lookahead(sgd)", {"betas": 3}, "SGD has no option 'betas'"),
        ("muon", {"momentum": -1.0}, "momentum=-1.0"),
        ("schedulefree(sgd)", {"interpolation": 1}, "interpolation=1 must lie"),
        ("schedulefree(adamw)", {"beta2": 1}, "beta2=1 must lie"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(OptionError, match=message):
        made_for(name, parameter(1.0), **options)


def test_unknown_insides_are_named():
    with pytest.raises(UnknownName, match="unknown optimizer 'adamww'; did you mean 'adamw'"):
        made_for("lookahead(adamww)", parameter(1.0))
    with pytest.raises(UnknownName, match=r"schedulefree\(adamw\)"):
        made_for("schedulefree(radam)", parameter(1.0))


def test_what_wants_the_loss_again_is_refused():
    for given in (torch.optim.LBFGS, partial(torch.optim.LBFGS, max_iter=3), "lbfgs", "lookahead(lbfgs)"):
        with pytest.raises(OptionError, match="LBFGS computes the loss several times"):
            made_for(given, parameter(1.0))
    with pytest.raises(OptionError, match="LBFGS computes"):
        made_for(lambda groups, lr: torch.optim.LBFGS([p for g in groups for p in g["params"]]), parameter(1.0))


def test_sparse_and_complex_are_refused():
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(OptionError, match="Lion has no sparse steps"):
        Lion([p]).step()
    z = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    with pytest.raises(OptionError, match="Larc steps real numbers"):
        Larc([z]).step()


def test_groups_that_come_later_and_negative_rates_are_refused():
    with pytest.raises(OptionError, match="takes no more groups"):
        made_for("lookahead(sgd)", parameter(1.0)).add_param_group({"params": [parameter(1.0)]})
    with pytest.raises(OptionError, match="must not be below 0"):
        ScheduleFreeSGD([parameter(1.0)], lr=-1)


# -- in the learner --------------------------------------------------------------------------------------------------


def learner(data: DataLoaders, **options) -> Learner:
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU()), nn.Linear(16, 3)
    parts = ModelParts(module=nn.Sequential(body, head), groups={"body": (body,), "head": (head,)})
    return Learner(data, parts, progress=False, **options)


class Watch(Callback):
    """Keep the first weight as it is in training, in validation and at the end of an epoch."""

    def __init__(self):
        self.seen: dict[str, float] = {}

    def _see(self, state: TrainState, moment: str) -> None:
        self.seen[moment] = state.model[0][0].weight[0, 0].item()

    def batch_end(self, state: TrainState) -> None:
        self._see(state, state.phase)

    def epoch_end(self, state: TrainState) -> None:
        self._see(state, "epoch")


@pytest.mark.parametrize("name", ["muon", "ranger", "lookahead(sgd)", "lion", *SCHEDULE_FREE])
def test_a_learner_learns_by_name(data: DataLoaders, name: str):
    learn = learner(data, optimizer=name, lr=1.0 if "sgd" in name else 0.03)
    before = learn.validate()["valid_loss"]
    watch = Watch()
    learn.fit(3, callbacks=[watch])
    assert learn.history[-1]["valid_loss"] < 0.9 * before
    assert learn.validate()["valid_loss"] == pytest.approx(learn.history[-1]["valid_loss"], rel=1e-6)
    after = learn.module[0][0].weight[0, 0].item()
    assert watch.seen["epoch"] == watch.seen["valid"] == after
    assert (watch.seen["train"] == after) is (name not in SCHEDULE_FREE)


def test_a_mean_of_weights_is_left_behind_when_training_breaks_off(data: DataLoaders):
    class Break(Callback):
        def batch_end(self, state: TrainState) -> None:
            if state.step == 7:
                self.optimizer = state.optimizer
                raise TrainingError("enough")

    learn, breaks = learner(data, optimizer="schedulefree(sgd)", lr=0.5), Break()
    with pytest.raises(TrainingError, match="enough"):
        learn.fit(2, callbacks=[breaks])
    assert [group["at_gradient"] for group in breaks.optimizer.param_groups] == [False] * len(
        breaks.optimizer.param_groups
    )


def test_sgdr_has_seven_epochs_and_starts_anew(data: DataLoaders):
    learn = learner(data).fit_sgdr(3, 1, 0.01)
    assert len(learn.history) == 7
    per_epoch = len(data.train)
    rates = np.array(learn.recorder.learning_rates)
    assert np.flatnonzero(rates == 0.01).tolist() == [0, per_epoch, 3 * per_epoch]
    assert len(learner(data).fit_sgdr(2, 1, 0.01, cycle_mult=1).history) == 2
    with pytest.raises(OptionError, match="cycle_mult=0"):
        learn.fit_sgdr(3, 1, cycle_mult=0)


def test_fit_takes_schedules(data: DataLoaders):
    steps = 2 * len(data.train)
    named = learner(data).fit(2, 0.01, schedule="wsd")
    assert named.recorder.learning_rates == pytest.approx(wsd(0.01, steps).lr)
    made = learner(data).fit(2, slice(0.001, 0.01), schedule=combine([0.5, 0.5], [one_cycle, one_cycle]))
    assert made.recorder.learning_rates == pytest.approx(np.tile(one_cycle(0.01, steps // 2).lr, 2))
    assert learner(data).fit(1, 0.02).recorder.learning_rates == constant(0.02, steps // 2).lr.tolist()
    with pytest.raises(UnknownName, match="unknown schedule 'cosine'"):
        learner(data).fit(1, schedule="cosine")
