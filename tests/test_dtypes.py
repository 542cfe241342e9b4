"""float32 whatever torch's default dtype is, bit for bit; and models that refuse to be converted to another."""

import copy
import itertools
from functools import partial

import lightning as pl
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from csb.bridge import BridgeSpec, KernelSpec, build_bridge, load, save
from csb.bridge.kernel import COVARIANCES
from csb.bridge.student import StudentSpec, build_student
from csb.cli.compose import composed
from csb.dtypes import Float32Module, automatic_precision
from csb.errors import CSBError
from csb.metrics.digits import _initialised as classifier
from csb.networks import build_network
from csb.networks.diffusion import ConditionalSpec, DenoiserSpec, DigitGuide, build_conditional, build_denoiser
from csb.problems import PROBLEMS, Rows, Simulated, build_transform
from csb.process import initialised, seeded
from csb.runs.config import read
from csb.samplers import ConsistencySampler
from csb.training.distil import level_shares
from tests.conftest import default_dtype

GRID, PLAIN = [1.0, 0.6, 0.1], {"x_shape": [2], "y_shape": [1]}
NETWORKS = {
    "mlp": ({"name": "mlp", "width": 8, "depth": 1}, (2,), (1,)),
    "affine": ({"name": "affine", "steps": 2}, (2,), (1,)),
    "unet": ({"name": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1}, (1, 8, 8), (1, 8, 8)),
    "dit": ({"name": "dit", "width": 32, "depth": 1, "attention_heads": 1}, (1, 8, 8), (1, 8, 8)),
}
BOUNDS = {"low": [0.1, None], "high": [1.7, None]}
TRANSFORMS = {"identity": PLAIN, "standardise": PLAIN, "reflect": PLAIN | BOUNDS, "probit": PLAIN | BOUNDS}
TRANSFORMS["mixed"] = PLAIN | BOUNDS | {"kinds": ["angle", "integer"]}
MLP, STANDARDISE = NETWORKS["mlp"][0], {"name": "standardise", **PLAIN}


def bridge(transform="reflect", covariance="full"):
    """Weights and tensors away from 0 and 1, so that all of them count."""
    part = KernelSpec(MLP, covariance=covariance, rank=1, components=2)
    made = build_bridge(BridgeSpec(GRID, {"name": transform, **TRANSFORMS[transform]}, part, part), seed=1)
    generator = seeded(2)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.add_(0.1 * torch.rand(tensor.shape, dtype=torch.float32, generator=generator))
    return made.eval()


def student(law):
    return build_student(StudentSpec(GRID, STANDARDISE, MLP, "v", law, [1, 2], components=2), 1)


def conditional(kind, schedule=None):
    return build_conditional(ConditionalSpec(kind, MLP, STANDARDISE, schedule), 1)


def guide():
    with initialised(1):
        return DigitGuide()


MODELS = {
    "bridge": bridge,
    "student": lambda: student("mixture"),
    "generator": lambda: student("generator"),
    "score": lambda: conditional("score", {"name": "linear", "alpha_bar_end": 0.1}),
    "flow": lambda: conditional("flow"),
    "denoiser": lambda: build_denoiser(DenoiserSpec(MLP, (2,), 0.7, 0.1), 1),
    "guide": guide,
    "network": lambda: build_network(MLP, (2,), (1,), 2),
}


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def weights(make):
    model = make()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    return [*model.parameters(), *model.buffers()]


def outputs(spec, z_shape, c_shape):
    like = {"dtype": torch.float32}
    z, c = torch.randn(3, *z_shape, generator=seeded(1), **like), torch.randn(3, *c_shape, generator=seeded(2), **like)
    with initialised(1):
        network = build_network(spec, z_shape, c_shape, 3)
    return [network(z, torch.tensor([0.3], **like), network.encode(c))]


def samples_and_densities_of_a_file(transform, covariance, tmp_path):
    if not (path := tmp_path / "bridge.safetensors").exists():
        save(bridge(transform, covariance), path, {})
    loaded = load(path)
    x = loaded.sample([[0.3], [1.2]], 4, generator=seeded(1), refine=1).x
    log_p, info = loaded.log_prob([[0.4, 0.2]], [0.3], 8, seeded(2), with_info=True)
    leap = x if covariance == "fixed" else loaded.sample([0.3], 4, generator=seeded(1), sample_steps=1).x
    return [x, log_p, info.ess, leap, loaded.transform.preimage(x[0], seeded(3))]


def samples_of_a_student(law):
    made = student(law)
    drawn = ConsistencySampler(made, 2).sample(torch.tensor([[0.3]], dtype=torch.float32), 4, seeded(1))
    return [drawn.x, level_shares(made)]


def pairs_of(cls):
    problem = cls(seed=1)
    pairs = problem.pairs("train", 40)
    return [pairs.x, pairs.y, problem.new_transform().fit(Rows.of(pairs)).encode_x(pairs.x)]


SIMULATED = {
    name: cls for name, cls in PROBLEMS.items() if issubclass(cls, Simulated) and "mnist" not in cls.__name__.lower()
}
SLOW = ("pairs of darcy", "pairs of random_field")  # a thousand numbers a draw
COMPUTED = {
    **{f"weights of {name}": partial(weights, make) for name, make in MODELS.items()},
    "weights of classifier": partial(weights, lambda: classifier(1)),
    **{f"outputs of {name}": partial(outputs, *arguments) for name, arguments in NETWORKS.items()},
    **{f"samples of {law}": partial(samples_of_a_student, law) for law in ("mixture", "generator")},
    **{f"pairs of {name}": partial(pairs_of, cls) for name, cls in SIMULATED.items()},
    **{
        f"file, {transform}, {covariance}": partial(samples_and_densities_of_a_file, transform, covariance)
        for transform, covariance in itertools.product(TRANSFORMS, COVARIANCES)
    },
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly) if name in SLOW else name for name in COMPUTED]
)
def test_under_another_default_it_is_what_it_is_under_float32(name, dtype, tmp_path):
    """What is made, drawn and computed, to the last bit."""
    compute, found = COMPUTED[name], []
    for default in (torch.float32, dtype):
        with default_dtype(default), torch.random.fork_rng():
            torch.manual_seed(0)
            found.append(compute(tmp_path) if name.startswith("file") else compute())
            assert torch.get_default_dtype() == default
    assert all(same(a, b) for a, b in zip(*found, strict=True))


def test_an_error_leaves_the_default_alone():
    with default_dtype(torch.float64):
        with pytest.raises(CSBError, match="unknown"), initialised(0):
            build_network({"name": "none"}, (2,), (1,), 1)
        assert torch.get_default_dtype() == torch.float64


CONVERSIONS = {
    "double": lambda m: m.double(),
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "to": lambda m: m.to(torch.bfloat16),
    "to with a device": lambda m: m.to("cpu", torch.float64),
    "to like": lambda m: m.to(torch.zeros(1, dtype=torch.float16)),
    "type": lambda m: m.type(torch.float64),
    "complex": lambda m: m.to(torch.complex64),
    "within another": lambda m: nn.ModuleDict({"model": m, "own": nn.Linear(1, 1)}).half(),
    "an average": lambda m: AveragedModel(m).double(),
}


def tensors(model):
    return {key: value.clone() for key, value in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.filterwarnings("ignore:Complex modules:UserWarning")
@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_conversion_is_refused_and_nothing_is_changed(make, convert):
    model = make()
    before = tensors(model)
    with pytest.raises(CSBError, match=r"computes in float32 and cannot be converted to torch\.\w+; .*bf16"):
        convert(model)
    assert all(same(before[key], value) for key, value in tensors(model).items())


@pytest.mark.parametrize("part", ["backward_kernel", "forward_kernel", "backward_kernel.network"])
def test_a_conversion_of_a_part_is_refused(part):
    with pytest.raises(CSBError, match="computes in float32"):
        bridge().get_submodule(part).double()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_by_itself_computes_in_double_too_and_not_in_less(transform):
    made = build_transform({"name": transform, **TRANSFORMS[transform]})
    x = torch.tensor([[0.4, 1.0]], dtype=torch.float64)
    before = made.encode_x(x)
    with pytest.raises(CSBError, match="cannot be converted"):
        made.half()
    assert torch.equal(made.encode_x(x), before)
    z = made.double().encode_x(x)
    assert z.dtype == torch.float64
    torch.testing.assert_close(made.decode(z, torch.zeros(1, 1)), x, rtol=1e-6, atol=1e-6)


def test_what_moves_and_copies_still_does():
    made = bridge()
    expected = made.sample([0.3], 4, generator=seeded(1)).x

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.bridge = made

    for name, moved in {
        "device": lambda: made.to("cpu"),
        "dtype": lambda: made.to(torch.float32),
        "copy": lambda: copy.deepcopy(made),
        "shared": lambda: made.share_memory(),
        "average": lambda: AveragedModel(made).module,
        "within another": lambda: Module().to(torch.device("cpu")).float().bridge,
        "format": lambda: made.to(memory_format=torch.preserve_format),
    }.items():
        assert torch.equal(moved().sample([0.3], 4, generator=seeded(1)).x, expected), name
    assert made.share_memory().backward_kernel.table.is_shared()
    empty = copy.deepcopy(made).to("meta").to_empty(device="cpu")
    assert {t.device.type for t in tensors(empty).values()} == {"cpu"}
    made.load_state_dict({key: value.double() for key, value in made.state_dict().items()})  # files of another dtype
    assert torch.equal(made.sample([0.3], 4, generator=seeded(1)).x, expected)


@pytest.mark.parametrize("convert", [lambda m: m.float(), lambda m: m.to(torch.float32), lambda m: m.to("meta")])
def test_what_is_float64_on_purpose_stays(convert):
    class Holder(Float32Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("offset", torch.tensor(1.7e9 + 1, dtype=torch.float64))
            self.register_buffer("count", torch.tensor(3))

    held = convert(Holder())
    assert (held.offset.dtype, held.count.dtype) == (torch.float64, torch.int64)
    assert held.offset.is_meta or float(held.offset) == 1.7e9 + 1


@pytest.mark.parametrize(("amx", "bf16"), [(False, False), (False, True), (True, False)])
def test_the_automatic_precision_of_a_processor(monkeypatch, amx, bf16):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    given = {"": "bf16-mixed" if amx or bf16 else "32-true", "trainer=default": "32-true", "trainer=bf16": "bf16-mixed"}
    for override, expected in given.items():
        run = read(composed("train", ["experiment=two_moons", *override.split()]))
        assert run.device.precision == run.plain["trainer"]["precision"] == expected, override


@pytest.mark.parametrize(("own", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_the_automatic_precision_of_a_gpu(monkeypatch, own, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: own and not including_emulation)
    assert automatic_precision(torch.device("cuda")) == expected
