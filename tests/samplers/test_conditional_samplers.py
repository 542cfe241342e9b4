"""What only the samplers of scores and flows have: builders, true counts, kinds, precision, errors."""

import pytest
import torch

from csb.errors import CSBError
from csb.networks.diffusion import ConditionalSpec, build_conditional
from csb.problems import MnistInpaint
from csb.process import Grid, LinearBeta, seeded
from csb.samplers import SCORE, flow_sampler, score_sampler
from tests.samplers.conditional_models import (
    AMORTIZED,
    SCHEDULE,
    ExactDenoiser,
    ExactVelocity,
    make_amortized,
    untrained,
)

GRID = Grid.from_schedule(LinearBeta(1e-4), 6)
SCORE_NETWORK, FLOW_NETWORK = untrained("score", 4, 2), untrained("flow", 4, 2)
Y = torch.randn(3, 2, generator=seeded(1))


@pytest.mark.parametrize("name", AMORTIZED)
class TestEach:
    def test_both_precisions(self, name):
        models = [(untrained("score", 4, 2, precision=p), untrained("flow", 4, 2, precision=p)) for p in
                  ("32-true", "bf16-mixed")]  # fmt: skip
        full, half = (make_amortized(name, *pair, GRID).sample(Y, 8, seeded(1)) for pair in models)
        assert bool(torch.isfinite(full.x).all())
        assert half.x.dtype == torch.float32
        assert not torch.equal(half.x, full.x)
        model = models[0][name.startswith("flow")]
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())

    def test_a_model_of_another_kind(self, name):
        with pytest.raises(CSBError, match=r"takes a (score|flow), not a (Flow|Score)Network"):
            make_amortized(name, FLOW_NETWORK, SCORE_NETWORK, GRID)

    def test_a_diverging_chain_is_one_clear_line(self, name):
        broken = ExactDenoiser(), ExactVelocity()
        for model in broken:
            model.C = model.C * torch.nan
        with pytest.raises(CSBError, match=f"{name} diverged: its states are not finite") as error:
            make_amortized(name, *broken, GRID).sample(Y, 2, seeded(1))
        assert "\n" not in str(error.value)

    def test_known_pixels_are_those_of_the_observation(self, name):
        problem = MnistInpaint()
        transform = problem.new_transform().spec()
        network = {"name": "unet", "channels": 8, "patch": 2}
        pair = [build_conditional(ConditionalSpec(kind, network, transform, schedule))
                for kind, schedule in (("score", SCHEDULE), ("flow", None))]  # fmt: skip
        y = problem.operator(torch.rand(2, 1, 28, 28, generator=seeded(1)))
        x = make_amortized(name, *pair, Grid.from_schedule(LinearBeta(1e-4), 3)).sample(y, 2, seeded(2)).x
        assert torch.equal(problem.operator(x.flatten(0, 1)), y.repeat_interleave(2, 0))
        assert 0 <= float(x.min()) < float(x.max()) <= 1


class TestBuilders:
    @pytest.mark.parametrize("method", ["heun"])
    def test_a_score_on_its_own_schedule(self, method):
        sampler = score_sampler(SCORE_NETWORK, method, 7, batch_size=3)
        assert type(sampler) is SCORE[method]
        assert torch.equal(sampler.grid.alpha_bar, Grid.from_schedule(LinearBeta(1e-4), 7).alpha_bar)
        assert sampler.batch_size == 3

    def test_a_score_on_the_grid_of_karras(self):
        grid = score_sampler(SCORE_NETWORK, "heun", 7, spacing="karras").grid
        assert float(grid.alpha_bar[-1]) == pytest.approx(1e-4)
        assert float(grid.noise_ratio[1]) == pytest.approx(0.002)

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (
                lambda: score_sampler(SCORE_NETWORK, "nope", 5),
                "method='nope' is unknown; choose one",
            ),
            (lambda: score_sampler(SCORE_NETWORK, "ddim", 0), "T=0 is not possible; give an integer in 1..10000"),
            (lambda: score_sampler(FLOW_NETWORK, "ddim", 5), "score_ddim takes a score, not a FlowNetwork"),
            (lambda: score_sampler(SCORE_NETWORK, "ddim", 5, eta=1.5), "score_ddim.eta=1.5 is not possible"),
            (lambda: flow_sampler(FLOW_NETWORK, "euler", 0), "N=0 is not possible"),
            (lambda: flow_sampler(SCORE_NETWORK, "euler", 5), "flow_euler takes a flow, not"),
        ],
        ids=range(6),
    )
    def test_errors(self, build, message):
        with pytest.raises(CSBError) as error:
            build()
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)
