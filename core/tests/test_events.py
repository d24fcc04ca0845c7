from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import OptionError
from graftwork.events import EVENTS, Callback, EventTable, TrainState


def state() -> TrainState:
    module = nn.Linear(1, 1)
    return TrainState(model=module, optimizer=torch.optim.SGD(module.parameters(), lr=1), num_epochs=1, num_batches=1)


class Listener(Callback):
    def __init__(self, name: str, order: int, heard: list[str]) -> None:
        self.name, self.order, self.heard = name, order, heard

    def batch_start(self, state: TrainState) -> None:
        self.heard.append(f"{self.name} start")

    def batch_end(self, state: TrainState) -> None:
        self.heard.append(f"{self.name} end")


def test_the_table_holds_only_what_is_overridden() -> None:
    table = EventTable.compile([Listener("a", 0, [])])
    assert [event for event in EVENTS if getattr(table, event)] == ["batch_start", "batch_end"]


def test_there_are_eleven_events_and_each_is_a_method_and_a_column() -> None:
    assert len(EVENTS) == 11
    assert all(callable(vars(Callback)[event]) for event in EVENTS)
    assert set(EventTable.__slots__) == set(EVENTS)


def test_starts_run_in_order_and_ends_in_reverse() -> None:
    heard: list[str] = []
    table = EventTable.compile([Listener("late", 5, heard), Listener("early", -5, heard)])
    for handler in (*table.batch_start, *table.batch_end):
        handler(state())
    assert heard == ["early start", "late start", "late end", "early end"]


def test_callbacks_of_one_order_keep_the_order_given() -> None:
    heard: list[str] = []
    table = EventTable.compile([Listener("first", 0, heard), Listener("second", 0, heard)])
    for handler in table.batch_start:
        handler(state())
    assert heard == ["first start", "second start"]


def test_a_method_inherited_from_another_callback_is_heard() -> None:
    class Child(Listener):
        pass

    assert len(EventTable.compile([Child("child", 0, [])]).batch_start) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("batch_ends", "batch_end"),
        ("lossend", "loss_end"),
        ("before_fit", "fit_start"),
        ("after_epoch", "epoch_end"),
        ("on_train_batch_end", "batch_end"),
    ],
)
def test_a_method_that_is_nearly_an_event_is_an_error(name: str, meant: str) -> None:
    typo: Any = type("Typo", (Callback,), {name: lambda self, state: None})
    with pytest.raises(OptionError, match=rf"Typo\.{name} looks like an event.*did you mean {meant}\?"):
        EventTable.compile([typo()])


def test_helpers_and_attributes_are_no_events() -> None:
    class Fine(Callback):
        batch_endings = 3

        def plot(self) -> None: ...

        def _batch_end_helper(self) -> None: ...

    assert EventTable.compile([Fine()]).batch_end == ()


def test_only_callbacks_are_taken() -> None:
    with pytest.raises(OptionError, match="is no Callback"):
        EventTable.compile([print])  # type: ignore[list-item]


def test_state_takes_no_names_it_does_not_have() -> None:
    with pytest.raises(AttributeError):
        state().learning_rte = 1.0  # type: ignore[attr-defined]


def test_stop_and_skip_are_written_into_the_state() -> None:
    now = state()
    now.stop("enough")
    now.skip_step()
    assert now.stopped == "enough"
    assert now.skipping
