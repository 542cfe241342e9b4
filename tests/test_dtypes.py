"""float32 whatever torch's default dtype is, bit for bit; and models that refuse to be converted to another."""

import copy
import io

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
from tests.conftest import default_dtype, make_untrained_bridge

OTHERS = [torch.float64, torch.bfloat16, torch.float16]
GRID, PLAIN = [1.0, 0.6, 0.1], {"x_shape": [2], "y_shape": [1]}
NETWORKS = {
    "mlp": ({"name": "mlp", "width": 8, "depth": 1}, (2,), (1,)),
    "affine": ({"name": "affine", "steps": 2}, (2,), (1,)),
    "unet": ({"name": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1}, (1, 8, 8), (1, 8, 8)),
}
TRANSFORMS = {
    "identity": PLAIN,
    "standardise": PLAIN,
    "reflect": {**PLAIN, "low": [0.1, None], "high": [1.7, None]},
    "probit": {**PLAIN, "low": [0.1, None], "high": [1.7, None]},
}
MLP = NETWORKS["mlp"][0]


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
    transform = {"name": "standardise", **PLAIN}
    return build_student(StudentSpec(GRID, transform, MLP, "v", law, [1, 2], components=2), 1)


def conditional(kind):
    schedule = {"name": "linear", "alpha_bar_end": 0.1} if kind == "score" else None
    return build_conditional(ConditionalSpec(kind, MLP, {"name": "standardise", **PLAIN}, schedule), 1)


def guide():
    with initialised(1):
        return DigitGuide()


MODELS = {
    "bridge": bridge,
    "student": lambda: student("mixture"),
    "generator": lambda: student("generator"),
    "score": lambda: conditional("score"),
    "flow": lambda: conditional("flow"),
    "denoiser": lambda: build_denoiser(DenoiserSpec(MLP, (2,), 0.7, 0.1), 1),
    "guide": guide,
    "network": lambda: build_network(MLP, (2,), (1,), 2),
}


@pytest.fixture(params=OTHERS, ids=str)
def dtype(request):
    return request.param


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


class TestDefaultDtype:
    """What is made, drawn and computed under another default is what it is under float32, to the last bit."""

    @pytest.mark.parametrize("make", [*MODELS.values(), lambda: classifier(1)], ids=[*MODELS, "classifier"])
    def test_models(self, make, dtype):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            expected = [*(one := make()).parameters(), *one.buffers()]
            torch.manual_seed(0)
            with default_dtype(dtype):
                found = [*(two := make()).parameters(), *two.buffers()]
        assert all(same(a, b) for a, b in zip(expected, found, strict=True))
        assert {p.dtype for p in two.parameters()} == {torch.float32}

    @pytest.mark.parametrize(("spec", "z_shape", "c_shape"), NETWORKS.values(), ids=NETWORKS)
    def test_networks(self, spec, z_shape, c_shape, dtype):
        z, c = torch.randn(3, *z_shape, generator=seeded(1)), torch.randn(3, *c_shape, generator=seeded(2))
        time, found = torch.tensor([0.3]), []
        for default in (torch.float32, dtype):
            with initialised(1), default_dtype(default):
                network = build_network(spec, z_shape, c_shape, 3)
            with default_dtype(default):
                found.append(network(z, time, network.encode(c)))
        assert same(*found)

    @pytest.mark.parametrize("covariance", COVARIANCES)
    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_samples_and_densities_of_a_file(self, transform, covariance, dtype, tmp_path):
        made = bridge(transform, covariance)
        save(made, path := tmp_path / "bridge.safetensors", {})
        found = []
        for default in (torch.float32, dtype):
            with default_dtype(default):
                loaded = load(path)
                x = loaded.sample([[0.3], [1.2]], 4, generator=seeded(1), refine=1).x
                log_p, info = loaded.log_prob([[0.4, 0.2]], [0.3], 8, seeded(2), with_info=True)
                leap = x if covariance == "fixed" else loaded.sample([0.3], 4, generator=seeded(1), sample_steps=1).x
                found.append((x, log_p, info.ess, leap, loaded.transform.preimage(x[0], seeded(3))))
        assert all(same(a, b) for a, b in zip(*found, strict=True))

    @staticmethod
    def plain(transform, covariance):
        part = KernelSpec(MLP, covariance=covariance, rank=1, components=2)
        return BridgeSpec(GRID, {"name": transform, **TRANSFORMS[transform]}, part, part).plain()

    @pytest.mark.parametrize("law", ["mixture", "generator"])
    def test_students(self, law, dtype):
        found = []
        for default in (torch.float32, dtype):
            with default_dtype(default):
                made = student(law)
                drawn = ConsistencySampler(made, 2).sample(torch.tensor([[0.3]], dtype=torch.float32), 4, seeded(1))
                found.append((drawn.x, level_shares(made)))
        assert all(same(a, b) for a, b in zip(*found, strict=True))

    @pytest.mark.parametrize(
        "cls", [cls for cls in PROBLEMS.values() if issubclass(cls, Simulated) and "mnist" not in cls.__name__.lower()]
    )
    def test_problems(self, cls, dtype):
        found = []
        for default in (torch.float32, dtype):
            with default_dtype(default):
                problem = cls(seed=1)
                pairs = problem.pairs("train", 40)
                found.append((pairs.x, pairs.y, problem.new_transform().fit(Rows.of(pairs)).encode_x(pairs.x)))
        assert all(same(a, b) for a, b in zip(*found, strict=True))

    def test_the_default_itself_is_left_alone(self, dtype):
        with default_dtype(dtype):
            for make in MODELS.values():
                make()
                assert torch.get_default_dtype() == dtype
            with pytest.raises(CSBError, match="unknown"), initialised(0):
                build_network({"name": "none"}, (2,), (1,), 1)
            assert torch.get_default_dtype() == dtype


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
class TestConversion:
    @pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
    @pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
    def test_it_is_refused_and_nothing_is_changed(self, make, convert):
        model = make()
        before = tensors(model)
        with pytest.raises(
            CSBError, match=r"computes in float32 and cannot be converted to torch\.\w+; .*bf16"
        ) as error:
            convert(model)
        assert "\n" not in str(error.value)
        assert all(same(before[key], value) for key, value in tensors(model).items())

    @pytest.mark.parametrize("part", ["backward_kernel", "forward_kernel", "backward_kernel.network"])
    def test_of_a_part(self, part):
        made = bridge()
        before = {name: t.dtype for name, t in tensors(made).items()}
        with pytest.raises(CSBError, match="computes in float32"):
            made.get_submodule(part).double()
        assert {name: t.dtype for name, t in tensors(made).items()} == before

    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_a_transform_by_itself_computes_in_double_too_and_not_in_less(self, transform):
        made = build_transform({"name": transform, **TRANSFORMS[transform]})
        x = torch.tensor([[0.4, 0.2]], dtype=torch.float64)
        before = made.encode_x(x)
        for convert in (lambda m: m.half(), lambda m: m.to(torch.bfloat16)):
            with pytest.raises(CSBError, match="cannot be converted"):
                convert(made)
            assert torch.equal(made.encode_x(x), before)
        z = made.double().encode_x(x)
        assert z.dtype == torch.float64
        torch.testing.assert_close(made.decode(z, torch.zeros(1, 1)), x, rtol=1e-6, atol=1e-6)

    def test_what_moves_and_copies_still_does(self):
        made = bridge()
        expected = made.sample([0.3], 4, generator=seeded(1)).x

        class Module(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.bridge = made

        for moved in (
            lambda: made.to("cpu"),
            lambda: made.to(torch.float32),
            lambda: made.float(),
            lambda: copy.deepcopy(made),
            lambda: made.share_memory(),
            lambda: AveragedModel(made).module,
            lambda: Module().to(torch.device("cpu")).float().bridge,
            lambda: made.to(memory_format=torch.preserve_format),
        ):
            assert torch.equal(moved().sample([0.3], 4, generator=seeded(1)).x, expected)
        assert made.share_memory().backward_kernel.table.is_shared()
        torch.save(made.state_dict(), file := io.BytesIO())
        file.seek(0)
        empty = copy.deepcopy(made).to("meta").to_empty(device="cpu")
        assert {t.device.type for t in tensors(empty).values()} == {"cpu"}

    def test_float_leaves_what_is_float64_on_purpose(self):
        class Holder(Float32Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("offset", torch.tensor(1.7e9 + 1, dtype=torch.float64))
                self.register_buffer("count", torch.tensor(3))
                self.linear = nn.Linear(1, 1, dtype=torch.float32)

        for convert in (lambda m: m.float(), lambda m: m.to(torch.float32), lambda m: m.type(torch.float32)):
            held = convert(Holder())
            assert held.offset.dtype == torch.float64
            assert float(held.offset) == 1.7e9 + 1
            assert held.count.dtype == torch.int64
        assert Holder().to("meta").offset.dtype == torch.float64


def test_a_loaded_bridge_of_float64_weights_is_float32():
    """Files of another dtype are read into float32."""
    made = make_untrained_bridge(2, 1)
    expected = made.sample([0.3], 4, generator=seeded(1)).x
    made.load_state_dict({key: value.double() for key, value in made.state_dict().items()})
    assert torch.equal(made.sample([0.3], 4, generator=seeded(1)).x, expected)


class TestAutomaticPrecision:
    @pytest.mark.parametrize("amx", [False, True])
    @pytest.mark.parametrize("bf16", [False, True])
    def test_a_processor(self, monkeypatch, amx, bf16):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        expected = "bf16-mixed" if amx or bf16 else "32-true"
        assert automatic_precision(torch.device("cpu")) == expected
        run = read(composed("train", ["experiment=two_moons"]))
        assert run.device.precision == run.plain["trainer"]["precision"] == expected

    @pytest.mark.parametrize(("own", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
    def test_a_gpu(self, monkeypatch, own, expected):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation: own and not including_emulation
        )
        assert automatic_precision(torch.device("cuda")) == expected

    def test_a_precision_that_is_given_stays(self, monkeypatch):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
        for given in ("trainer=default", "trainer.precision=32-true"):
            assert read(composed("train", ["experiment=two_moons", given])).device.precision == "32-true"
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        run = read(composed("train", ["experiment=two_moons", "trainer=bf16"]))
        assert run.device.precision == "bf16-mixed"
