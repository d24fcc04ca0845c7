"""Baselines of pictures: golden values, and what they do with odd data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, OptionError, PlanError, RegressionBlock, get_host
from graftwork_vision import GreyLogistic, ImageDataLoaders, NearestMean
from graftwork_vision.data import image_data_block
from graftwork_vision.sources import HeadSplitter, Sample, idx_source, sample_x, sample_y

BASELINES = [NearestMean, GreyLogistic]


def loaders(train, valid, *, channels=1, size=None, bs=7, cache="none"):
    """Make loaders of (pixels, label) pairs with the given split."""
    samples = [Sample(np.asarray(x, np.uint8), y, f"#{i}") for i, (x, y) in enumerate([*train, *valid])]
    block = image_data_block(
        get_x=sample_x, get_y=sample_y, splitter=HeadSplitter(len(train)), channels=channels, native_size=size
    )
    return block.dataloaders(samples, bs=bs, workers=0, cache=cache)


def flat(value: int, shape=(3, 4)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


class TestNearestMean:
    """The class whose mean picture differs least."""

    def test_by_hand(self):
        train = [(flat(0), "a"), (flat(40), "a"), (flat(200), "b"), (flat(220), "b")]
        data = loaders(train, [(flat(110), "a"), (flat(120), "a"), (flat(255), "b")])
        baseline = NearestMean().fit(data)
        assert baseline.means is not None
        assert baseline.means.mean(1).tolist() == [20.0, 210.0]
        predicted = baseline.predict(data.valid)
        # Distances in percent of 255: 90 and 100, 100 and 90, 235 and 45 grey levels.
        gaps = torch.tensor([[90.0, 100.0], [100.0, 90.0], [235.0, 45.0]]) / 2.55
        assert torch.allclose(predicted, (-gaps).softmax(1), atol=1e-6)

    def test_it_is_the_mean_absolute_difference(self):
        """One pixel far off counts as much as many a little off: squares would tell otherwise."""
        spot = flat(0)
        spot[0, 0] = 60
        data = loaders([(flat(0), "black"), (flat(6), "grey")], [(spot, "black")])
        predicted = NearestMean().fit(data).predict(data.valid)
        assert predicted.argmax(1).tolist() == [0]  # 60/12 = 5 from black; (54 + 11 * 6)/12 = 10 from grey

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 9), st.integers(0, 99))
    def test_batches_make_no_difference(self, bs, seed):
        rng = np.random.default_rng(seed)
        train = [(rng.integers(0, 256, (4, 4)), int(i % 3)) for i in range(11)]
        valid = [(rng.integers(0, 256, (4, 4)), 0) for _ in range(5)]
        one, other = (loaders(train, valid, bs=n) for n in (bs, 64))
        first, second = (NearestMean().fit(d).predict(d.valid) for d in (one, other))
        assert torch.allclose(first, second, atol=1e-6)

    def test_a_class_that_training_lacks_is_never_predicted(self):
        from graftwork.api import CategoryBlock, DataBlock
        from graftwork_vision import ImageBlock

        samples = [Sample(flat(v), y, "") for v, y in ((0, "a"), (9, "b"), (250, "b"))]
        data = DataBlock(
            blocks=(ImageBlock(channels=1), CategoryBlock(("a", "b", "c"))),
            get_x=sample_x,
            get_y=sample_y,
            splitter=HeadSplitter(2),
        ).dataloaders(samples, workers=0)
        predicted = NearestMean().fit(data).predict(data.valid)
        assert predicted[0, 2] == 0
        assert predicted.sum() == pytest.approx(1)

    def test_large_pictures_are_averaged_down(self):
        rng = np.random.default_rng(0)
        data = loaders([(rng.integers(0, 256, (130, 20)), i % 2) for i in range(4)], [(flat(9, (130, 20)), 0)])
        means = NearestMean().fit(data).means
        assert means is not None
        assert means.shape == (2, 64 * 20)

    def test_mnist_threes_and_sevens_as_in_fastbook(self, real_data: Path):
        """Golden: 0.9168 of the threes, 0.9854 of the sevens, 0.9511 on average (chapter 4)."""
        samples = idx_source(real_data / "mnist")
        count = len(samples.splitter(samples.items).train)
        wanted = [(i, s) for i, s in enumerate(samples.items) if s.y in (3, 7)]
        train = [s for i, s in wanted if i < count]
        block = image_data_block(
            get_x=sample_x, get_y=sample_y, splitter=HeadSplitter(len(train)), channels=1, native_size=(28, 28)
        )
        data = block.dataloaders([s for _, s in wanted], workers=0, cache="memory")
        predicted = NearestMean().fit(data).predict(data.valid).argmax(1)
        truth = data.valid.columns["y"]
        assert (truth == 0).sum() == 1010
        assert (truth == 1).sum() == 1028
        threes, sevens = ((predicted == truth)[truth == c].double().mean().item() for c in (0, 1))
        assert threes == pytest.approx(0.9168, abs=1e-4)
        assert sevens == pytest.approx(0.9854, abs=1e-4)
        assert (threes + sevens) / 2 == pytest.approx(0.9511, abs=1e-4)

    def test_digits_of_scikit_learn(self):
        """The same on data that is everywhere: the mean picture of each digit, by numpy alone."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
        pairs = list(zip(pixels, digits.target.tolist(), strict=True))
        data = loaders(pairs[:1200], pairs[1200:], cache="memory", bs=64)
        predicted = NearestMean().fit(data).predict(data.valid).argmax(1).numpy()
        train, labels = pixels[:1200].reshape(1200, -1).astype(float), digits.target[:1200]
        means = np.stack([train[labels == c].mean(0) for c in range(10)])
        rest = pixels[1200:].reshape(597, -1).astype(float)
        expected = np.abs(rest[:, None] - means[None]).mean(2).argmin(1)
        assert np.array_equal(predicted, expected)
        assert (predicted == digits.target[1200:]).mean() > 0.8


class TestGreyLogistic:
    """A linear model of a few grey pixels."""

    def test_it_learns_what_a_line_can_tell(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, workers=0)
        predicted = GreyLogistic().fit(data).predict(data.valid)
        assert torch.equal(predicted.argmax(1), next(iter(data.valid)).y)

    def test_large_pictures_are_averaged_down(self):
        rng = np.random.default_rng(0)
        data = loaders([(rng.integers(0, 256, (70, 50, 3)), i % 2) for i in range(8)], [(flat(0, (70, 50, 3)), 0)])
        model = GreyLogistic().fit(data).model
        assert model.n_features_in_ == 256

    def test_the_global_generators_are_not_touched(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, workers=0)
        before = np.random.get_state()[1].tolist()  # noqa: NPY002 - the state that must stay
        first, second = (GreyLogistic().fit(data).predict(data.valid) for _ in range(2))
        assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
        assert torch.equal(first, second)


@pytest.mark.parametrize("baseline", BASELINES)
class TestBoth:
    """What every baseline owes the report."""

    def test_rows_are_probabilities_in_the_loaders_order(self, baseline, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, bs=3, workers=0)
        predicted = baseline().fit(data).predict(data.valid)
        assert predicted.shape == (4, 2)
        assert predicted.dtype == torch.float32
        assert torch.allclose(predicted.sum(1), torch.ones(4), atol=1e-5)

    def test_pictures_that_cannot_be_read_are_left_out_and_listed(self, baseline, two_classes):
        for name in ("dark", "light"):
            for i in range(4):
                (two_classes / name / f"broken_{i}.png").write_bytes(b"x")
        data = ImageDataLoaders.from_folder(two_classes, bs=3, workers=0)
        predicted = baseline().fit(data).predict(data.valid)
        assert len(predicted) == data.valid.num_items - len(data.valid.bad_items)
        assert len(data.bad_items) == 8

    def test_before_fitting(self, baseline, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, workers=0)
        with pytest.raises(OptionError, match=r"has not been fitted; call fit\(data\) first"):
            baseline().predict(data.valid)

    def test_nothing_to_fit_on(self, baseline, two_classes):
        for path in two_classes.rglob("*.png"):
            path.write_bytes(b"x")
        data = ImageDataLoaders.from_folder(two_classes, workers=0)
        with pytest.raises(DataError, match="none of the 16 training pictures can be read"):
            baseline().fit(data)

    def test_other_targets(self, baseline):
        from graftwork.api import DataBlock
        from graftwork_vision import ImageBlock

        samples = [Sample(flat(i), float(i), "") for i in range(6)]
        data = DataBlock(
            blocks=(ImageBlock(channels=1), RegressionBlock), get_x=sample_x, get_y=sample_y, splitter=HeadSplitter(4)
        ).dataloaders(samples, workers=0)
        with pytest.raises(PlanError, match="needs one picture and one class"):
            baseline().fit(data)

    def test_it_is_registered(self, baseline):
        baselines = get_host().baselines
        assert baselines.get(f"vision/{baseline.name}") is baseline
