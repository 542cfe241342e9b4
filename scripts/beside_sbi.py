"""csb beside sbi's NPE on the same pairs, in one run: seconds, and C2ST of both against the exact posterior.

Run from a checkout: python scripts/beside_sbi.py [--pairs 20000] [--csb-only]. The unknown has three parameters,
uniform on a cube, the observation eight numbers; the exact posterior is drawn from a grid of 100³ cells. Prints a table
in Markdown.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import csb

NOISE, CELLS, OBSERVATIONS, SAMPLES = 0.1, 100, 10, 2000


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


def with_csb(theta: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What a user of csb writes."""
    run = csb.fit(theta, x, bounds=(-1, 1), progress=False)
    return lambda observed: run.bridge.sample(observed, SAMPLES, seed=0).x


def with_sbi(theta: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What a user of sbi writes."""
    from sbi.inference import NPE
    from sbi.utils import BoxUniform

    inference = NPE(BoxUniform(-torch.ones(3), torch.ones(3)), show_progress_bars=False)
    inference.append_simulations(theta, x).train()
    posterior = inference.build_posterior()
    return lambda observed: posterior.sample((SAMPLES,), x=observed, show_progress_bars=False)


def row(name: str, method: Any, theta: Tensor, x: Tensor, observed: Tensor) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    start = time.perf_counter()
    draw = method(theta, x)
    trained = time.perf_counter() - start
    start = time.perf_counter()
    draws = [draw(one) for one in observed]
    drawn = time.perf_counter() - start
    references = [exact(one, torch.Generator().manual_seed(i)) for i, one in enumerate(observed)]
    scores = torch.tensor([csb.metrics.c2st(a, b) for a, b in zip(draws, references)])
    return f"| {name} | {trained:.0f} | {drawn:.2f} | {scores.mean():.3f} | {scores.max():.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=20_000, help="simulations")
    parser.add_argument("--csb-only", action="store_true", help="leave sbi out")
    given = parser.parse_args()
    theta, x = pairs(given.pairs, torch.Generator().manual_seed(1))
    _, observed = pairs(OBSERVATIONS, torch.Generator().manual_seed(2))
    print("| | training, s | drawing, s | C2ST, mean | C2ST, worst |\n|---|---|---|---|---|")
    for name, method in (("csb", with_csb), *([] if given.csb_only else [("sbi NPE", with_sbi)])):
        print(row(name, method, theta, x, observed), flush=True)


if __name__ == "__main__":
    main()
