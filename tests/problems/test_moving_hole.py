"""A hole that may be anywhere: the transform, the problem on MNIST, and the scores inside the hole."""

import json

import pytest
import torch
from test_problem_mnist import fetch, files, root, splits  # noqa: F401  (fixtures: small fabricated files)

from csb.bridge import BridgeSpec, KernelSpec, build_bridge
from csb.errors import CSBError
from csb.evaluation.calibration import sbc_ranks, tarp
from csb.evaluation.metrics import EnsembleScores, spread_skill
from csb.evaluation.scores import hole_mask
from csb.evaluation.shown import as_images
from csb.problems import Hole, MnistInpaintAnywhere, MovingHole, build_problem, build_transform
from csb.process import seeded

SHAPE = (2, 6, 9)


def observed(hole=3, B=28):
    """Images and holes in every corner position: each pair (top, left) that fits."""
    t = MovingHole(SHAPE, hole)
    x = torch.rand(B, *SHAPE, generator=seeded(0))
    places = [(i, j) for i in range(7 - hole) for j in range(10 - hole)][:B]
    top, left = torch.tensor(places).T
    return t, x, t.observe(x, top, left), places


class TestTransform:
    def test_the_hole_is_seen_from_its_own_place(self):
        t, x, y, places = observed()
        assert len(places) == 28 == len(x)
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
            assert bool((c[i, :, 3:6, 6:9] == 0).all())  # the hole stands in the middle of the canvas

    def test_decode_keeps_the_known_pixels_exactly_and_the_others_in_range(self):
        t, x, y, _ = observed()
        before = y.clone()
        torch.testing.assert_close(t.decode(t.encode_x(x, y), y), x)
        unknown = t.unknown(y)
        assert unknown.shape == x.shape
        assert unknown.sum((1, 2, 3)).tolist() == [18] * 28
        far = t.decode(torch.full((28, 2, 3, 3), 9.0), y)
        assert torch.equal(far[~unknown], x[~unknown])
        assert bool((far[unknown] == 1).all())
        assert torch.equal(y, before)

    def test_in_the_middle_it_sees_what_a_fixed_hole_sees(self):
        t, fixed = MovingHole((1, 8, 8), 4), Hole((1, 8, 8), (2, 2, 4, 4))
        x = torch.rand(3, 1, 8, 8, generator=seeded(1))
        y = t.observe(x, torch.full((3,), 2), torch.full((3,), 2))
        assert torch.equal(t.encode_y(y)[:, :, 2:10, 2:10], fixed.encode_y(x * fixed.known))
        assert torch.equal(t.encode_x(x, y), fixed.encode_x(x))
        assert torch.equal(t.unknown(y), fixed.unknown(x))

    def test_spec_builds_the_same(self):
        t, x, y, _ = observed()
        again = build_transform(json.loads(json.dumps(t.spec())))
        assert torch.equal(again.encode_y(y), t.encode_y(y))
        assert torch.equal(again.encode_x(x, y), t.encode_x(x, y))

    @pytest.mark.parametrize("spoil", ["none", "two", "short", "half", "wrapped"])
    def test_observations_without_exactly_one_hole(self, spoil):
        t, x, y, _ = observed()
        mask = y[4, -1]
        if spoil == "none":
            mask.fill_(1)
        elif spoil == "two":
            mask[3:6, 6:9] = 0
        elif spoil == "short":
            mask[0:3, 4] = 1
        elif spoil == "half":
            mask[mask == 0] = 0.5
        else:
            mask.fill_(1)
            mask[3:6, [0, 1, 8]] = 0
        for call in (lambda: t.encode_y(y), lambda: t.encode_x(x, y), lambda: t.decode(torch.zeros(28, 2, 3, 3), y)):
            with pytest.raises(CSBError, match="observation 4 does not show one hole of 3×3 pixels") as error:
                call()
            assert "\n" not in str(error.value)

    def test_errors(self):
        t, x, _, _ = observed()
        with pytest.raises(CSBError, match="pass the observations"):
            t.encode_x(x)
        with pytest.raises(CSBError, match="hole=6 does not move"):
            MovingHole(SHAPE, 6)


class TestProblem:
    def test_positions_are_frozen_and_cover_the_image(self, root):  # noqa: F811
        problem = MnistInpaintAnywhere(root=str(root))
        pairs = problem.pairs("val")
        top, left = problem.new_transform().corners(pairs.y)
        assert pairs.y.shape == (5000, 2, 28, 28)
        for corner in (top, left):
            counts = torch.bincount(corner, minlength=15)
            assert len(counts) == 15
            assert float((counts / 5000 - 1 / 15).abs().max()) < 0.02
        assert abs(float(torch.corrcoef(torch.stack([top, left]).double())[0, 1])) < 0.05
        again = MnistInpaintAnywhere(root=str(root))
        assert torch.equal(again.pairs("val").y, pairs.y)
        assert torch.equal(again.pairs("val", 7).y, pairs.y[:7])
        assert not torch.equal(MnistInpaintAnywhere(root=str(root), seed=1).pairs("val").y, pairs.y)

    def test_what_is_observed_and_what_is_imposed(self, root):  # noqa: F811
        problem = build_problem({"name": "mnist_inpaint_anywhere", "root": str(root), "hole": 10})
        pairs = problem.pairs("test")
        transform = problem.make_transform(pairs)
        unknown = transform.unknown(pairs.y)
        assert torch.equal(pairs.y[:, :1] * ~unknown, pairs.x * ~unknown)
        assert bool((pairs.y[:, :1][unknown] == 0).all())
        assert torch.equal(pairs.y[:, 1:] == 0, unknown)
        torch.testing.assert_close(
            transform.decode(transform.encode_x(pairs.x, pairs.y), pairs.y), pairs.x, rtol=0, atol=1e-7
        )
        imposed = problem.impose(torch.full_like(pairs.x, 3.0), pairs.y)
        assert torch.equal(imposed, torch.where(unknown, 1.0, pairs.x))
        assert torch.equal(as_images(problem, pairs.x, pairs.y).observation, pairs.y[:, :1])

    @pytest.mark.parametrize("hole", [0, 7, 28])
    def test_a_hole_that_cannot_be(self, hole):
        with pytest.raises(CSBError, match=f"hole={hole} is not possible; give a multiple of 2 in 2..26"):
            MnistInpaintAnywhere(hole=hole)


class TestSamplesAndScores:
    def test_samples_keep_what_is_known(self, root):  # noqa: F811
        problem = MnistInpaintAnywhere(root=str(root))
        pairs = problem.pairs("test", 5)
        network = {"name": "unet", "channels": 8, "multipliers": [1, 1], "attention": False}
        part = KernelSpec(network, "x0", "low_rank", rank=4)
        bridge = build_bridge(BridgeSpec([1.0, 0.5, 0.1], problem.new_transform().spec(), part, part), seed=0)
        x = bridge.sample(pairs.y, 3, generator=seeded(0)).x
        unknown = hole_mask(bridge, pairs.y)
        assert unknown is not None
        outside = ~unknown[:, None].expand_as(x)
        assert torch.equal(x[outside], pairs.x[:, None].expand_as(x)[outside])
        assert float(x[~outside].std()) > 0.05
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1

    def test_scores_with_a_mask_for_each_observation(self):
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
        with pytest.raises(CSBError, match="mask selects 1 to 2 coordinates"):
            spread_skill(samples, truth, uneven)
        with pytest.raises(CSBError, match=r"expected torch\.bool of shape"):
            spread_skill(samples, truth, uneven[:1])
        with pytest.raises(CSBError, match="selects no coordinate"):
            spread_skill(samples, truth, uneven & torch.tensor([[True], [False]]))
