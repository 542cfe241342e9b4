"""csb beside sbi's NPE and FMPE on the same pairs, in one run: seconds, and C2ST of both against the exact posterior.

Run from a checkout: python scripts/beside_sbi.py [--task cube] [--pairs 20000] [--only csb]. Prints a table in
Markdown, with a row for each method and group of observations.

- cube: the unknown has three parameters, uniform on a cube, the observation eight numbers; the exact posterior is drawn
  from a grid of 100³ cells.
- normal_set: mean and scale of a normal law from 1, 5, 20 or 50 readings (csb.problems.NormalSet); sbi embeds the sets
  by its PermutationInvariantEmbedding.
- linear_gaps: a linear-Gaussian problem with gaps (csb.problems.LinearGaps); sbi gets values, 0 where one is missing,
  and mask, for it has no other place for them.
- modes, modes_box, modes_16, modes_16_box: 4 modes in five, or 16 in ten dimensions (csb.problems.Modes), the prior
  normal or uniform on a box; wishart, wishart_9: mean and covariance of a normal law, five or nine numbers, from 4 or 8
  draws (csb.problems.NormalWishart); shell, funnel, student: smooth maps of a normal law (csb.problems.PushedGaussian);
  logistic: ten coefficients from sufficient statistics (csb.problems.Logistic). With NPE and FMPE.
- repeated: 1, 5 or 20 observations of one unknown, of a linear-Gaussian problem in the plane, from single pairs: csb by
  combine="product", sbi by FMPE and its scores for iid observations, "auto_gauss"; also how far mean (in standard
  deviations of the posterior) and variance are off. csb draws five times as many, for weights, and resamples.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import csb
from csb.evaluation.table import markdown_table
from csb.metrics.distances import moment_errors
from csb.problems import LinearGaps, LinearGaussian, Logistic, Modes, NormalSet, NormalWishart, PushedGaussian
from csb.problems.gaussians import GaussianPosterior
from csb.process import seeded

NOISE, CELLS, OBSERVATIONS, SAMPLES = 0.1, 100, 10, 2000
FEWER, STEPS = 5, 100  # observations, and steps of FMPE (its own default is 500), of the task that takes longest
Draw = Callable[[Tensor], Tensor]


class Task(NamedTuple):
    """theta (N, d) and x (N, …), observations by a word for their group, and what differs between the methods."""

    theta: Tensor
    x: Tensor
    observed: dict[str, Tensor]
    exact: Callable[[Tensor, torch.Generator], Tensor]  # of one observation, (SAMPLES, d)
    csb: dict[str, Any]  # options of csb.fit
    prior: Callable[[], Any]  # of sbi
    network: Callable[[Tensor], Any] = lambda x: torch.nn.Identity()  # what embeds x for sbi
    prepared: Callable[[Tensor], Tensor] = lambda x: x  # x as sbi gets it
    several: Callable[[Tensor], Any] | None = None  # the posterior, where an observation is several independent ones
    methods: tuple[str, ...] = ("csb", "sbi NPE")


def clean(theta: Tensor) -> Tensor:
    """theta (N, 3) → x (N, 8), without noise."""
    return torch.cat([theta, theta**2, theta[:, :2].sum(1, keepdim=True), theta.prod(1, keepdim=True)], 1)


def pairs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """theta (n, 3), uniform on the cube, and x (n, 8)."""
    theta = 2 * torch.rand(n, 3, generator=generator) - 1
    x = clean(theta)
    return theta, x + NOISE * torch.randn(x.shape, generator=generator)


def exact(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draws (SAMPLES, 3) of p(theta | x): cells of a grid by their density at the centre, then uniform in the cell."""
    edge = (torch.arange(CELLS) + 0.5) * 2 / CELLS - 1
    grid = torch.cartesian_prod(edge, edge, edge)
    logits = -(clean(grid) - x).square().sum(1) / (2 * NOISE**2)
    cells = torch.multinomial(logits.double().softmax(0).float(), SAMPLES, replacement=True, generator=generator)
    return grid[cells] + (2 * torch.rand(SAMPLES, 3, generator=generator) - 1) / CELLS


def cube(n: int) -> Task:
    from sbi.utils import BoxUniform

    theta, x = pairs(n, torch.Generator().manual_seed(1))
    _, observed = pairs(OBSERVATIONS, torch.Generator().manual_seed(2))
    box = (-torch.ones(3), torch.ones(3))
    return Task(theta, x, {"all": observed}, exact, {"bounds": (-1, 1)}, lambda: BoxUniform(*box))


def readings(problem: NormalSet) -> dict[str, Tensor]:
    """The first 1, 5, 20 and 50 of the same readings, y (OBSERVATIONS, largest, 1) by their number."""
    truth = problem.prior(OBSERVATIONS, seeded(2))
    noise = torch.randn(OBSERVATIONS, problem.largest, generator=seeded(3))
    full = (truth[:, :1] + truth[:, 1:].exp() * noise)[..., None]
    places = torch.arange(problem.largest)[:, None]
    return {f"{n} readings": full.masked_fill(places >= n, torch.nan) for n in (1, 5, 20, 50)}


def normal_set(n: int) -> Task:
    from sbi.neural_nets.embedding_nets import FCEmbedding, PermutationInvariantEmbedding

    problem = NormalSet(n_train=n)
    theta, x, _ = problem.pairs("train")

    def network(x: Tensor) -> Any:
        return PermutationInvariantEmbedding(FCEmbedding(1, output_dim=20), trial_net_output_dim=20, output_dim=20)

    options, exact = {"encoder": "set", "L": 1}, _posterior(problem)
    return Task(theta, x, readings(problem), exact, options, lambda: _wide(2), network)


def linear_gaps(n: int) -> Task:
    problem = LinearGaps(n_train=n)
    theta, x, _ = problem.pairs("train")
    observed = {"all": problem.pairs("test", OBSERVATIONS).y}

    def prepared(x: Tensor) -> Tensor:
        return torch.cat([x.nan_to_num(0.0), (~x.isnan()).float()], -1)

    return Task(theta, x, observed, _posterior(problem), {"L": 1}, lambda: _wide(3), prepared=prepared)


def repeated(n: int) -> Task:
    problem = LinearGaussian(dx=2, dy=2, n_train=n)
    theta, x, _ = problem.pairs("train")
    truth = problem.prior(FEWER, seeded(2))
    ys = torch.stack([problem.observe(truth, seeded(3, i)) for i in range(20)], 1)
    eye, gain = torch.eye(2, dtype=torch.float64), problem.A.T / problem.noise**2

    def posterior(ys: Tensor) -> GaussianPosterior:
        cov = torch.linalg.inv(eye + len(ys) * gain @ problem.A)
        return GaussianPosterior(cov @ gain @ ys.double().sum(0), cov)

    options = {"L": 1, "objective": {"covariance": "full"}, "training": {"missing": 0.5}}
    options["schedule"] = {"alpha_bar_end": 0.01}  # 0.2/m for m = 20
    return Task(
        theta, x, {f"{m} of one unknown": ys[:, :m] for m in (1, 5, 20)}, lambda y, g: posterior(y).sample(SAMPLES, g),
        options, lambda: torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)), several=posterior,
        methods=("csb", "sbi FMPE"),
    )  # fmt: skip


def _posterior(problem: Any) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda y, generator: problem.posterior(y).sample(SAMPLES, generator)


def _wide(d: int) -> Any:
    """A law on all of ℝ^d: of NPE's prior only the support matters here."""
    return torch.distributions.MultivariateNormal(torch.zeros(d), 9 * torch.eye(d))


def exact_task(kind: type[Any], n: int, **settings: Any) -> Task:
    """A problem whose posterior is drawn exactly. Rows of y are a set."""
    from sbi.neural_nets.embedding_nets import FCEmbedding, PermutationInvariantEmbedding
    from sbi.utils import BoxUniform

    problem = kind(n_train=n, **settings)
    theta, x, _ = problem.pairs("train")
    d, support, rows = theta.shape[1], problem.support, x.ndim == 3

    def network(x: Tensor) -> Any:
        one = FCEmbedding(x.shape[2], output_dim=20) if rows else None
        return torch.nn.Identity() if one is None else PermutationInvariantEmbedding(one, 20, output_dim=20)

    def prior() -> Any:
        return _wide(d) if support is None else BoxUniform(-torch.ones(d), torch.ones(d))

    options = {"L": 1, **({"encoder": "set"} if rows else {}), **({} if support is None else {"bounds": (-1, 1)})}
    observed = {"all": problem.pairs("test", OBSERVATIONS).y}
    return Task(theta, x, observed, _posterior(problem), options, prior, network, methods=tuple(METHODS))


TASKS: dict[str, Callable[[int], Task]] = {task.__name__: task for task in (cube, normal_set, linear_gaps, repeated)}
TASKS |= {
    "modes": partial(exact_task, Modes), "modes_box": partial(exact_task, Modes, bounded=True),
    "modes_16": partial(exact_task, Modes, modes=16),
    "modes_16_box": partial(exact_task, Modes, modes=16, bounded=True),
    "wishart": partial(exact_task, NormalWishart), "wishart_9": partial(exact_task, NormalWishart, d=3),
    "shell": partial(exact_task, PushedGaussian), "funnel": partial(exact_task, PushedGaussian, shape="funnel"),
    "student": partial(exact_task, PushedGaussian, shape="student"), "logistic": partial(exact_task, Logistic),
}  # fmt: skip


def with_csb(task: Task) -> Draw:
    """What a user of csb writes."""
    run = csb.fit(task.theta, task.x, **task.csb, progress=False)

    def combined(ys: Tensor) -> Tensor:
        found = run.bridge.sample(ys, 5 * SAMPLES, seed=0, combine="product")
        return found.x[torch.as_tensor(found.log_weights).exp().multinomial(SAMPLES, True, generator=seeded(0))]

    if task.several is not None:
        return combined
    return lambda observed: run.bridge.sample(observed, SAMPLES, seed=0).x


def with_sbi(task: Task) -> Draw:
    """What a user of sbi writes."""
    from sbi.inference import NPE
    from sbi.neural_nets import posterior_nn

    x = task.prepared(task.x)
    scaling = "none" if x.isnan().any() else "independent"  # as sbi asks for where NaN fills up sets
    estimator = posterior_nn("maf", embedding_net=task.network(x), z_score_x=scaling)
    inference = NPE(task.prior(), density_estimator=estimator, show_progress_bars=False)
    trained = inference.append_simulations(task.theta, x, exclude_invalid_x=False).train()
    posterior = inference.build_posterior()

    @torch.no_grad()
    def draw(observed: Tensor) -> Tensor:
        y = task.prepared(observed)
        if (
            y.isnan().any()
        ):  # which sbi's posterior refuses; it cuts at the prior's support, of which there is none here
            return trained.sample(torch.Size((SAMPLES,)), y[None])[:, 0]
        return posterior.sample((SAMPLES,), x=y[None], show_progress_bars=False)

    return draw


def with_fmpe(task: Task) -> Draw:
    """What a user of sbi writes."""
    from sbi.inference import FMPE
    from sbi.neural_nets import posterior_flow_nn

    estimator = posterior_flow_nn("mlp", embedding_net=task.network(task.x))
    inference = FMPE(task.prior(), vf_estimator=estimator, show_progress_bars=False)
    inference.append_simulations(task.theta, task.x).train()
    if task.several is None:
        posterior = inference.build_posterior()
        return lambda y: posterior.sample((SAMPLES,), x=y[None], show_progress_bars=False)
    posterior = inference.build_posterior(sample_with="sde")
    return lambda ys: posterior.sample((SAMPLES,), x=ys, iid_method="auto_gauss", steps=STEPS, show_progress_bars=False)


METHODS = {"csb": with_csb, "sbi NPE": with_sbi, "sbi FMPE": with_fmpe}


def with_error(values: list[float]) -> str:
    """The mean and its standard error."""
    scores = torch.tensor(values)
    return f"{scores.mean():.3f} ± {scores.std() / len(scores) ** 0.5:.3f}"


def rows(name: str, task: Task) -> list[dict[str, str]]:
    """The rows of a method."""
    torch.manual_seed(0)
    start = time.process_time()
    draw = METHODS[name](task)
    trained, found = time.process_time() - start, []
    for group, observed in task.observed.items():
        start = time.process_time()
        draws = [draw(one) for one in observed]
        row = {"": name, "observations": group, "training, CPU s": f"{trained:.0f}"}
        row["drawing, CPU s"] = f"{time.process_time() - start:.2f}"
        references = [task.exact(one, torch.Generator().manual_seed(i)) for i, one in enumerate(observed)]
        scores = [csb.metrics.c2st(a, b) for a, b in zip(draws, references)]
        row |= {"C2ST, mean ± se": with_error(scores), "C2ST, worst": f"{max(scores):.3f}"}
        if task.several is not None:
            laws = [task.several(one) for one in observed]
            off = [moment_errors(x, law.moments).mean_scaled for x, law in zip(draws, laws)]
            ratios = [float((x.var(0) / law.cov.diagonal()).mean()) for x, law in zip(draws, laws)]
            row |= {"error of the mean, sd": with_error(off), "variance ratio": with_error(ratios)}
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", choices=list(TASKS), default="cube", help="what is learned")
    parser.add_argument("--pairs", type=int, default=20_000, help="simulations")
    parser.add_argument("--only", choices=list(METHODS), help="one method alone")
    given = parser.parse_args()
    task = TASKS[given.task](given.pairs)
    chosen = task.methods if given.only is None else [given.only]
    print(markdown_table([row for name in chosen for row in rows(name, task)]), end="")


if __name__ == "__main__":
    main()
