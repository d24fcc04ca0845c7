"""Seeds and generators are derived from one seed and a place, and from nothing else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from graftwork.seeds import derive_rng, derive_seed


def test_they_are_the_same_on_every_machine() -> None:
    assert derive_seed(42, "item", 3, 7) == 2724238577390038207
    assert derive_rng(42, "item", 3, 7).integers(0, 1000, 4).tolist() == [762, 590, 551, 75]


@pytest.mark.parametrize("other", [(43, "item", 3, 7), (42, "order", 3, 7), (42, "item", 37), (42, "item", 7, 3)])
def test_every_part_of_a_place_counts(other: tuple[int, ...]) -> None:
    assert derive_seed(*other) != derive_seed(42, "item", 3, 7)
    assert derive_rng(*other).random() != derive_rng(42, "item", 3, 7).random()


def test_numbers_of_neighbouring_places_have_nothing_to_do_with_each_other() -> None:
    first = np.array([derive_rng(0, "item", 0, place).random(2) for place in range(4000)])
    assert abs(first.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]) < 0.06
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.06


def test_a_generator_can_be_sent_to_another_process() -> None:
    rng = derive_rng(1, "item")
    rng.random(3)
    assert pickle.loads(pickle.dumps(rng)).random() == rng.random()
