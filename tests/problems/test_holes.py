"""Holes, fixed and moving: what the bridge sees of them, the problem on MNIST, and the scores inside the hole."""

import json

import pytest
import torch

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.errors import CSBError
from csb.evaluation.pictures import as_images
from csb.metrics.calibration import sbc_ranks, tarp
from csb.metrics.ensemble import EnsembleScores, spread_skill
from csb.problems import Hole, InpaintBox, MnistInpaintAnywhere, MovingHole, PixelRange, build_problem, build_transform
from csb.process import seeded

pytest_plugins = ["tests.problems.digit_files"]

SHAPE = (2, 6, 9)


def observed(hole=3):
    """Images and holes in every position: each pair (top, left) that fits."""
    t = MovingHole(SHAPE, hole)
    places = [(i, j) for i in range(7 - hole) for j in range(10 - hole)]
    x = torch.rand(len(places), *SHAPE, generator=seeded(0))
    top, left = torch.tensor(places).T
    return t, x, t.observe(x, top, left), places


def check_decode(t, x, y, unknown):
    """Known pixels come back exactly, the others in range; y itself is left as it was."""
    before = y.clone()
    torch.testing.assert_close(t.decode(t.encode_x(x, y), y), x)
    far = t.decode(torch.full((len(x), *t.z_shape), 9.0), y)
    assert torch.equal(far[~unknown], x[~unknown])
    assert bool((far[unknown] == 1).all())
    assert torch.equal(y, before)
    again = build_transform(json.loads(json.dumps(t.spec())))
    assert torch.equal(again.encode_y(y), t.encode_y(y))
    assert torch.equal(again.encode_x(x, y), t.encode_x(x, y))


def test_pixels():
    t = PixelRange((1, 4, 4), (1, 2, 2))
    x, y = torch.rand(3, 1, 4, 4, generator=seeded(0)), torch.rand(3, 1, 2, 2, generator=seeded(1))
    assert torch.equal(t.encode_x(x), 2 * x - 1)
    assert torch.equal(t.encode_y(y), 2 * y - 1)
    torch.testing.assert_close(t.decode(t.encode_x(x), y), x)
    beyond = torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert t.decode(beyond, y[:2]).flatten(1).unique(dim=1).tolist() == [[0.0], [1.0]]


def test_a_fixed_hole():
    box, x = (1, 2, 3, 5), torch.rand(4, *SHAPE, generator=seeded(0))
    t, A = Hole(SHAPE, box), InpaintBox(SHAPE, box)
    y = A(x)
    z, c = t.encode_x(x), t.encode_y(y)
    assert torch.equal(z, 2 * x[:, :, 1:4, 2:7] - 1)
    assert bool((c[:, :, 1:4, 2:7] == 0).all())
    known = A.mask.bool()
    assert torch.equal(c[:, known], 2 * y[:, known] - 1)
    assert torch.equal(t.unknown(y), ~known.expand_as(x))
    check_decode(t, x, y, ~known.expand_as(x))
    with pytest.raises(CSBError, match="does not lie"):
        Hole(SHAPE, (0, 9, 4, 4))


class TestMovingHole:
    def test_is_seen_from_its_own_place(self):
        t, x, y, places = observed()
        z, c = t.encode_x(x, y), t.encode_y(y)
        assert z.shape == (28, *t.z_shape) == (28, 2, 3, 3)
        assert c.shape == (28, *t.c_shape) == (28, 2, 9, 15)
        for i, (top, left) in enumerate(places):
            assert torch.equal(z[i], 2 * x[i, :, top : top + 3, left : left + 3] - 1)
            expected = torch.zeros(t.c_shape)
            image = 2 * x[i] - 1
            image[:, top : top + 3, left : left + 3] = 0
            expected[:, 3 - top : 9 - top, 6 - left : 15 - left] = image
            assert torch.equal(c[i], expected)
        assert bool((c[:, :, 3:6, 6:9] == 0).all())  # the hole stands in the middle of the canvas
        unknown = t.unknown(y)
        assert unknown.sum((1, 2, 3)).tolist() == [18] * 28
        check_decode(t, x, y, unknown)

    def test_in_the_middle_it_sees_what_a_fixed_hole_sees(self):
        t, fixed = MovingHole((1, 8, 8), 4), Hole((1, 8, 8), (2, 2, 4, 4))
        x = torch.rand(3, 1, 8, 8, generator=seeded(1))
        y = t.observe(x, torch.full((3,), 2), torch.full((3,), 2))
        assert torch.equal(t.encode_y(y)[:, :, 2:10, 2:10], fixed.encode_y(x * fixed.known))
        assert torch.equal(t.encode_x(x, y), fixed.encode_x(x))
        assert torch.equal(t.unknown(y), fixed.unknown(x))

    @pytest.mark.parametrize(
        ("rows", "columns", "value"),
        [([], [], 0), ([4, 5], [7, 8], 0), ([0, 1, 2], [4, 4, 4], 1), ([1], [5], 0.5), ([5, 5, 5], [0, 1, 8], 0)],
        ids=["none", "two", "short", "half", "wrapped"],
    )
    def test_observations_without_exactly_one_hole(self, rows, columns, value):
        t, x, y, _ = observed()
        if not rows or len(set(columns)) == 3:
            y[4, -1] = 1
        y[4, -1, rows, columns] = value
        for call in (lambda: t.encode_y(y), lambda: t.encode_x(x, y), lambda: t.decode(torch.zeros(28, 2, 3, 3), y)):
            with pytest.raises(CSBError, match="observation 4 does not show one hole of 3×3 pixels"):
                call()

    def test_a_hole_that_fills_the_image(self):
        with pytest.raises(CSBError, match="hole=6 does not move"):
            MovingHole(SHAPE, 6)


class TestProblem:
    def test_positions_are_frozen_and_cover_the_image(self, root):
        problem = MnistInpaintAnywhere(root=str(root))
        pairs = problem.pairs("val")
        top, left = problem.new_transform().corners(pairs.y)
        for corner in (top, left):
            counts = torch.bincount(corner, minlength=15)
            assert len(counts) == 15
            assert float((counts / 5000 - 1 / 15).abs().max()) < 0.02
        assert abs(float(torch.corrcoef(torch.stack([top, left]).double())[0, 1])) < 0.05
        assert torch.equal(MnistInpaintAnywhere(root=str(root)).pairs("val", 7).y, pairs.y[:7])
        assert not torch.equal(MnistInpaintAnywhere(root=str(root), seed=1).pairs("val").y, pairs.y)

    def test_what_is_observed_imposed_and_kept_by_samples(self, root):
        problem = build_problem({"name": "mnist_inpaint_anywhere", "root": str(root), "hole": 10})
        pairs = problem.pairs("test", 5)
        transform = problem.make_transform(pairs)
        unknown = transform.unknown(pairs.y)
        assert torch.equal(pairs.y[:, :1] * ~unknown, pairs.x * ~unknown)
        assert bool((pairs.y[:, :1][unknown] == 0).all())
        imposed = problem.impose(torch.full_like(pairs.x, 3.0), pairs.y)
        assert torch.equal(imposed, torch.where(unknown, 1.0, pairs.x))
        assert torch.equal(as_images(problem, pairs.x, pairs.y).observation, pairs.y[:, :1])
        network = {"name": "unet", "channels": 8, "multipliers": [1, 1], "attention": False}
        part = KernelSpec(network, "x0", "low_rank", rank=4)
        bridge = build_bridge(BridgeSpec([1.0, 0.5, 0.1], transform.spec(), part, part), seed=0)
        x = bridge.sample(pairs.y, 3, generator=seeded(0)).x
        mask = bridge.transform.unknown(pairs.y)
        assert torch.equal(mask, unknown)
        outside = ~unknown[:, None].expand_as(x)
        assert torch.equal(x[outside], pairs.x[:, None].expand_as(x)[outside])
        assert float(x[~outside].std()) > 0.05
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1


class TestScores:
    def test_with_a_mask_for_each_observation(self):
        samples = torch.randn(6, 9, 1, 4, 5, generator=seeded(1))
        truth = torch.randn(6, 1, 4, 5, generator=seeded(2))
        order = torch.rand(6, 20, generator=seeded(3)).argsort(1) < 7
        mask = order.view(6, 1, 4, 5)
        picked = torch.stack([s[:, m] for s, m in zip(samples, mask)]), torch.stack([t[m] for t, m in zip(truth, mask)])
        assert spread_skill(samples, truth, mask) == spread_skill(*picked)
        ours, plain = EnsembleScores(), EnsembleScores()
        for part in (slice(0, 2), slice(2, 6)):
            ours.update(samples[part], truth[part], mask=mask[part])
        plain.update(*picked)
        inside = ("spread", "skill", "spread_skill", "spread_skill_fair", "crps", "energy_score", "std_error_pearson")
        assert {k: ours.compute()[k] for k in inside} == pytest.approx({k: plain.compute()[k] for k in inside})
        assert torch.equal(sbc_ranks(samples, truth, seeded(0), mask), sbc_ranks(*picked, seeded(0)))
        assert torch.equal(tarp(samples, truth, seeded(0), mask=mask).coverage, tarp(*picked, seeded(0)).coverage)

    def test_masks_that_do_not_fit(self):
        samples, truth = torch.zeros(2, 3, 4), torch.zeros(2, 4)
        uneven = torch.tensor([[True, True, False, False], [True, False, False, False]])
        for mask, message in (
            (uneven, "mask selects 1 to 2 coordinates"),
            (uneven[:1], r"expected torch\.bool of shape"),
            (uneven & torch.tensor([[True], [False]]), "selects no coordinate"),
        ):
            with pytest.raises(CSBError, match=message):
                spread_skill(samples, truth, mask)
