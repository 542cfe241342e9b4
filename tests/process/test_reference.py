"""The laws of the reference process against one another, for every schedule and step; steps of the reverse process."""

import pytest
import torch

from csb.process import SCHEDULES, Grid, Pinned, Power, Reference, ddim, euler_maruyama, expand, mix, seeded

CASES = [(name, T) for name in SCHEDULES for T in (1, 2, 100)]
TOLERANCE = {"rtol": 1e-6, "atol": 1e-9}  # the power schedule's first of 100 steps has β = 1e-8: 8 digits are lost


@pytest.fixture(params=CASES, ids=lambda c: f"{c[0]}-{c[1]}")
def reference(request):
    name, T = request.param
    return Reference(Grid.from_schedule(SCHEDULES[name](alpha_bar_end=0.1), T))


def all_steps(reference):
    return torch.arange(1, reference.grid.T + 1)


def close(a, b):
    torch.testing.assert_close(tuple(a), tuple(b), **TOLERANCE)


def bayes(prior_scale, prior_var, scale, var):
    """x ~ N(prior_scale·p, prior_var), z | x ~ N(scale·x, var): the law of x given p and z, var and prior_var > 0."""
    precision = 1 / prior_var + scale**2 / var
    return Pinned(near=prior_scale / prior_var / precision, far=scale / var / precision, var=1 / precision)


def test_steps_compose_to_the_marginal(reference):
    scale, var = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for k in range(1, reference.grid.T + 1):
        step = reference.step(k)
        scale, var = step.scale * scale, step.scale**2 * var + step.var
        close((scale, var), reference.marginal(k))
    assert tuple(map(float, reference.marginal(0))) == (1, 0)  # the data


def test_pinned_start_is_bayes_rule(reference):
    k = all_steps(reference)[1:]
    prior, step, law = reference.marginal(k - 1), reference.step(k), reference.pinned_start(k)
    close((law.far, law.near, law.var), bayes(*prior, *step))  # the prior's argument is x_0, the pinned end
    first = reference.pinned_start(1)  # X_0 itself
    assert (float(first.near), float(first.far), float(first.var)) == pytest.approx((0, 1, 0))


def test_pinned_end_is_bayes_rule(reference):
    k = all_steps(reference)[:-1]
    step, law = reference.step(k), reference.pinned_end(k)
    r = reference.grid.alpha_bar[-1] / reference.grid.alpha_bar[k]
    close(law, bayes(*step, r.sqrt(), 1 - r))
    last = reference.pinned_end(reference.grid.T)  # X_T itself
    assert (float(last.near), float(last.far), float(last.var)) == pytest.approx((0, 1, 0))


def test_pinned_both_is_bayes_rule(reference):
    k = all_steps(reference)[:-1]
    prior, law = reference.marginal(k), reference.pinned_both(k)
    r = reference.grid.alpha_bar[-1] / reference.grid.alpha_bar[k]
    close(law, bayes(*prior, r.sqrt(), 1 - r))
    T = reference.grid.T
    for k_end, weights in ((0, (1, 0, 0)), (T, (0, 1, 0))):
        assert tuple(map(float, reference.pinned_both(k_end))) == pytest.approx(weights, abs=1e-12)


def test_pinned_steps_compose_to_pinned_both(reference):
    T, ends = reference.grid.T, reference.pinned_both
    up, down = ends(0), ends(T)
    for k in range(1, T + 1):
        step = reference.pinned_end(k)
        up = Pinned(step.near * up.near, step.near * up.far + step.far, step.near**2 * up.var + step.var)
        close(up, ends(k))
        step = reference.pinned_start(T - k + 1)
        down = Pinned(step.near * down.near + step.far, step.near * down.far, step.near**2 * down.var + step.var)
        close(down, ends(T - k))


def test_reversible_in_stationarity(reference):
    # Under X_0 ~ N(0, 1), X_0 | X_k ~ N(√ᾱ_k x_k, 1 − ᾱ_k): X_{k−1} | X_k must be the forward step again.
    k = all_steps(reference)
    law, step, marginal = reference.pinned_start(k), reference.step(k), reference.marginal(k)
    close((law.near + law.far * marginal.scale, law.var + law.far**2 * marginal.var), step)


def test_pinned_end_is_pinned_start_of_the_mirror(reference):
    k = all_steps(reference)
    mirrored = Reference(reference.grid.mirror()).pinned_start(reference.grid.T - k + 1)
    close(reference.pinned_end(k), mirrored)
    for law in (reference.pinned_start(k), reference.pinned_end(k), reference.pinned_both(k)):
        assert bool((law.var >= 0).all())


@pytest.mark.parametrize("name", ["step", "marginal", "pinned_start", "pinned_end", "pinned_both"])
def test_integer_and_tensor_steps_agree(name):
    law, k = getattr(Reference(Grid.from_schedule(Power(0.3), 5)), name), torch.tensor([1, 3, 5])
    for i, one in enumerate(k.tolist()):
        assert all(a[i] == b for a, b in zip(law(k), law(one)))


def test_draws_follow_their_laws():
    """A draw less its mean, over its standard deviation, is N(0, 1) and knows nothing of the states it was drawn at."""
    n, generator = 100_000, seeded(1)
    reference = Reference(Grid.from_schedule(Power(0.2), 5))
    near, far = torch.rand(2, n, generator=generator, dtype=torch.float64) * 3 - 0.5
    pinned, step = reference.pinned_both(torch.randint(1, 5, (n,), generator=seeded(2))), reference.step(3)
    for white in (
        (pinned.draw(near, far, generator) - pinned.near * near - pinned.far * far) / pinned.var.sqrt(),
        (step.draw(near, generator) - step.scale * near) / step.var.sqrt(),
    ):
        assert abs(float(white.mean())) < 5 / n**0.5
        assert abs(float(white.var()) - 1) < 5 * (2 / n) ** 0.5
        for state in (near, far):
            assert abs(float(torch.corrcoef(torch.stack([white, state]))[0, 1])) < 5 / n**0.5


def test_expand_and_mix_follow_the_states():
    near, far = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    law = Pinned(*(torch.arange(3, dtype=torch.float64) + i for i in range(3)))
    assert expand(law.near, near).shape == (3, 1, 1)
    assert expand(law.near[0], near).shape == ()
    mean = mix(law, near, far)
    assert mean.dtype == torch.float32
    assert torch.allclose(mean[2], 2 * near[2] + 3 * far[2])


@pytest.fixture(params=SCHEDULES)
def grid(request):
    return Grid.from_schedule(SCHEDULES[request.param](alpha_bar_end=1e-4), 12)


@pytest.mark.parametrize("k", [1, 2, 7, 12])
class TestSteps:
    def test_ddim_with_eta_one_is_the_ancestral_step(self, grid, k):
        one, two = ddim(grid, k, 1.0), Reference(grid).pinned_start(k)
        torch.testing.assert_close(tuple(one), tuple(two), rtol=1e-9, atol=1e-12)
        noisy = [float(law.var) > 0 for law in (two, euler_maruyama(grid, k), one)]
        assert noisy == [k > 1] * 3  # the last step is noiseless
        assert float(ddim(grid, k).var) == 0

    @pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
    def test_ddim_keeps_the_marginals_where_the_guess_is_right(self, grid, k, eta):
        """X_{k−1} | X_0 is N(√ᾱ_{k−1} x_0, (1−ᾱ_{k−1}) I) again, for any η."""
        law, here, before = ddim(grid, k, eta), grid.alpha_bar[k], grid.alpha_bar[k - 1]
        torch.testing.assert_close(law.near * here.sqrt() + law.far, before.sqrt())
        torch.testing.assert_close(law.near**2 * (1 - here) + law.var, 1 - before)

    def test_euler_maruyama_by_hand(self, grid, k):
        z, z_0 = torch.tensor([0.7, -1.1]).double(), torch.tensor([0.2, 0.5]).double()
        alpha_bar, h = grid.alpha_bar[k], float(grid.alpha_bar[k - 1].log() - grid.alpha_bar[k].log())
        score = (alpha_bar.sqrt() * z_0 - z) / (1 - alpha_bar)
        law = euler_maruyama(grid, k)
        torch.testing.assert_close(law.near * z + law.far * z_0, z + h * (z / 2 + score))
        assert float(law.var) == pytest.approx(h if k > 1 else 0.0, rel=1e-9)


def test_the_last_step_ends_at_the_guess(grid):
    for law in (Reference(grid).pinned_start(1), ddim(grid, 1)):
        assert float(law.near) == pytest.approx(0, abs=1e-12)
        assert float(law.far) == pytest.approx(1, abs=1e-12)
    fine = euler_maruyama(Grid.from_schedule(Power(1e-4, 3.0), 100), 1)
    assert float(fine.near) == pytest.approx(0, abs=1e-4)
    assert float(fine.far) == pytest.approx(1, abs=1e-4)
