"""Posterior samples of photographs: a table in Markdown, a row for each sampler of ten network calls.

Run from a checkout: python scripts/photographs.py RUN … [--out FILE.json] [--figure FILE.png], of folders of trainings
of ``experiment=photo_superres`` and its siblings. Beside a run's bridge stand its start alone (the law from which the
bridge's steps begin, decoded at once), and the score and the flow where the folder holds them; "training" is the
seconds that each took. Scores are of 16 samples for each of 100 test crops. "Fréchet" is the Fréchet distance of one
sample for each of 1,000 test crops to these crops, in the 128 features of a small network that is trained here, on the
training crops, to tell by how many quarters a crop was turned (Gidaris et al. 2018): no distance of a published
network, and comparable only within this table.
"""

import json
import sys
from collections.abc import Iterator
from itertools import pairwise

import torch
from fields import Rows, Start, parser_of, report
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

import csb
from csb.bridge import load
from csb.errors import CSBError
from csb.evaluation.pictures import samples_figure
from csb.evaluation.results import draw, held_out_row
from csb.evaluation.rows import Row
from csb.metrics.distances import frechet
from csb.networks.diffusion import FlowNetwork, ScoreNetwork
from csb.problems.photographs import PhotoProblem
from csb.process import initialised, seeded
from csb.samplers import BridgeSampler, Sampler, flow_sampler, score_sampler

CALLS, OBSERVATIONS, SAMPLES, CROPS, CHUNK = 10, 100, 16, 1000, 10
STEPS, BATCH = 400, 128  # of the network of features
SCORES = ("psnr_mean", "crps", "energy_score", "spread_skill_fair", "ssim_sample", "coverage_deviation")
_SHOWN = (3, 11, 29, 42)  # test crops of the figure


def features(problem: PhotoProblem) -> nn.Sequential:
    """Train the network of the Fréchet distance; its last layer is the one that tells turns."""
    with initialised(0):
        widths = (3, 32, 64, 128)
        convs = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in pairwise(widths)]
        model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))
    optimizer, rows, generator = torch.optim.AdamW(model.parameters(), 1e-3), problem.rows("train"), seeded(0, 1)
    for _ in range(STEPS):
        x = rows.read(torch.randint(len(rows), (BATCH,), generator=generator)).x
        loss = functional.cross_entropy(model(turned(x)), torch.arange(4).repeat_interleave(BATCH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = problem.first("val", CROPS).x
    right = (model(turned(x)).argmax(1) == torch.arange(4).repeat_interleave(len(x))).float().mean()
    print(f"The network of features tells {float(right):.0%} of the turns of other crops.", file=sys.stderr)
    return model[:-1].eval().requires_grad_(False)


def turned(x: Tensor) -> Tensor:
    """Crops (B, 3, side, side) turned by 0 to 3 quarters, (4·B, 3, side, side)."""
    return torch.cat([x.rot90(quarters, (2, 3)) for quarters in range(4)])


def samplers(run: csb.Run) -> Iterator[tuple[str, float | None, Sampler]]:
    """Name, seconds of the training, and the sampler."""
    trained = json.loads((run.folder / "result.json").read_text())["seconds"]
    yield "bridge", trained, BridgeSampler(run.bridge)
    if run.bridge.transform.spec()["name"] in ("residual", "spectral"):
        yield "its start alone", None, Start(run.bridge)
    if (path := run.folder / "score.safetensors").exists():
        score = load(path, of=ScoreNetwork)
        for name, label in (("dpmpp", "DPM-Solver++"), ("ddpm", "DDPM")):
            yield f"score, {label}", score.about["seconds"], score_sampler(score, name, CALLS)
    if (path := run.folder / "flow.safetensors").exists():
        flow = load(path, of=FlowNetwork)
        yield "flow, Euler", flow.about["seconds"], flow_sampler(flow, "euler", CALLS)
        yield "flow, Heun", flow.about["seconds"], flow_sampler(flow, "heun", CALLS // 2)


def table(run: csb.Run) -> Rows:
    problem, rows = run.problem, []
    if not isinstance(problem, PhotoProblem):
        raise CSBError(f"{run.folder} is a run of {problem.name}; give one of photographs")
    network, test, many = features(problem), problem.first("test", OBSERVATIONS), problem.first("test", CROPS)
    seen = network(many.x)
    for name, seconds, sampler in samplers(run):
        drawn = draw(sampler, Row(name, name), test.y, SAMPLES, 0, CHUNK)
        scores = held_out_row(problem, run.bridge.transform, drawn, test, 0)
        alone = draw(sampler, Row(name, name), many.y, 1, 1, CHUNK * SAMPLES).x[:, 0].clamp(0, 1)
        rows.append({
            "problem": problem.name, "sampler": name, "calls": scores.evaluations,
            "training": None if seconds is None else f"{seconds:.0f}",
            **{key: f"{scores.metrics[key]:.4g}" for key in SCORES},
            "crps_error": f"{scores.standard_errors['crps']:.2g}",
            "Fréchet": f"{frechet(network(alone), seen):.3g}",
        })  # fmt: skip
        print(", ".join(map(str, rows[-1].values())), file=sys.stderr, flush=True)
    return rows


def figure(runs: list[csb.Run]) -> Figure | None:
    """Crops, what is seen of them, and the bridge's samples, of the first run."""
    problem, bridge = runs[0].problem, runs[0].bridge
    found = problem.first("test", max(_SHOWN) + 1)
    x, y = found.x[list(_SHOWN)], found.y[list(_SHOWN)]
    return samples_figure(problem, x, y, bridge.sample(y, 16, seed=1).x, None, "")


if __name__ == "__main__":
    report(parser_of(__doc__), table, figure)
