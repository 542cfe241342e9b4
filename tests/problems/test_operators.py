"""Operators: adjoints, and singular values against dense matrices."""

import pytest
import torch

from csb.errors import CSBError
from csb.problems import AveragePool, Blur, ChannelMix, InpaintBox, Matrix, Operator, RandomProjection
from csb.problems.operators import gaussian_matrix
from csb.process import seeded

SHAPE = (2, 8, 12)


class EvenRows(Operator):
    """One without a decomposition of its own."""

    def __init__(self, shape=SHAPE):
        super().__init__(shape, (shape[0], shape[1] // 2, shape[2]))

    def _apply(self, x):
        return x[:, :, ::2]

    def _adjoint(self, y):
        x = y.new_zeros(len(y), *self.x_shape)
        x[:, :, ::2] = y
        return x


OPERATORS = {
    "inpaint": InpaintBox(SHAPE, (1, 2, 3, 5)),
    "pool": AveragePool(SHAPE, 4),
    "channels": ChannelMix(SHAPE, (0.75, -0.5)),
    "matrix": Matrix(torch.randn(3, 5, generator=seeded(0), dtype=torch.float64)),
    "tall matrix of low rank": Matrix(torch.outer(torch.arange(4).double(), torch.ones(3).double())),
    "blur": Blur(SHAPE, 1.2),
    "periodic blur": Blur(SHAPE, 0.8, "periodic"),
    "wide periodic blur": Blur((1, 3, 5), 2.0, "periodic"),
    "orthonormal projection": RandomProjection(SHAPE, 7, seed=2),
    "gaussian projection": RandomProjection((5,), 3, "gaussian"),
    "rows": EvenRows(),
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed, 7), dtype=torch.float64)


def matrix(A):
    """(dy, dx), column by column."""
    dx = torch.Size(A.x_shape).numel()
    return A(torch.eye(dx, dtype=torch.float64).unflatten(1, A.x_shape)).flatten(1).T


@pytest.mark.parametrize("name", OPERATORS)
def test_linear_with_its_adjoint_and_differentiable(name):
    A = OPERATORS[name]
    x, z, y = normal(2, *A.x_shape), normal(2, *A.x_shape, seed=1), normal(2, *A.y_shape, seed=2)
    torch.testing.assert_close(A(2 * x - z), 2 * A(x) - A(z))
    left, right = (A(x) * y).flatten(1).sum(1), (x * A.adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad((A(x.requires_grad_()) * y).sum(), x)
    torch.testing.assert_close(gradient, A.adjoint(y))
    assert A(x.float()).dtype == torch.float32
    with pytest.raises(CSBError, match="x has shape"):
        A(torch.zeros(A.x_shape))
    with pytest.raises(CSBError, match="y has shape"):
        A.adjoint(torch.zeros(2, 99))


def test_operators_do_what_they_say():
    x = normal(1, *SHAPE)
    assert float(OPERATORS["pool"](x)[0, 1, 0, 2]) == pytest.approx(float(x[0, 1, :4, 8:12].mean()))
    y = OPERATORS["inpaint"](x)
    assert bool((y[0, :, 1:4, 2:7] == 0).all())
    assert float((y == 0).sum()) == 2 * 15
    pool = OPERATORS["pool"]
    v = normal(1, *pool.y_shape)
    torch.testing.assert_close(pool(pool.adjoint(v)), v / 16)
    mix = OPERATORS["channels"]
    torch.testing.assert_close(mix(x)[:, 0], 0.75 * x[:, 0] - 0.5 * x[:, 1])
    v = normal(1, *mix.y_shape)
    torch.testing.assert_close(mix(mix.adjoint(v)), (0.75**2 + 0.5**2) * v)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_svd_is_that_of_the_dense_matrix(name):
    A, svd = OPERATORS[name], OPERATORS[name].svd
    exact = torch.linalg.svdvals(matrix(A))
    exact = exact[exact > 1e-13 * exact.max()]
    torch.testing.assert_close(svd.values.sort(descending=True).values[: len(exact)], exact, rtol=1e-6, atol=1e-13)
    assert float(svd.values.min()) > 0
    x, y = normal(4, *A.x_shape), normal(4, *A.y_shape, seed=1)
    torch.testing.assert_close(svd.u(svd.values * svd.vt(x)), A(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(svd.v(svd.values * svd.ut(y)), A.adjoint(y), rtol=1e-10, atol=1e-12)
    rest = A(x - svd.v(svd.vt(x)))
    torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-12)
    c = svd.vt(x.float())
    assert c.dtype == svd.v(c).dtype == svd.u(c).dtype == svd.ut(svd.u(c)).dtype == torch.float32
    eye = torch.eye(svd.rank, dtype=torch.float64)
    for put, take, of in ((svd.v, svd.vt, x), (svd.u, svd.ut, y)):  # orthonormal columns, and their transposes
        columns = put(eye)
        assert columns.shape == (svd.rank, *of.shape[1:])
        torch.testing.assert_close(take(columns), eye, rtol=0, atol=1e-12)
        torch.testing.assert_close(take(of), of.flatten(1) @ columns.flatten(1).T, rtol=1e-10, atol=1e-12)


def test_rank():
    ranks = {"inpaint": 2 * (96 - 15), "pool": 12, "channels": 96, "tall matrix of low rank": 1, "rows": 96}
    assert {name: OPERATORS[name].svd.rank for name in ranks} == ranks
    with pytest.raises(CSBError, match="from 6400 to 3200 numbers is too large for a dense singular value"):
        EvenRows((1, 80, 80)).svd  # noqa: B018
    with pytest.raises(CSBError, match=r"matrix of shape \(1, 2\) has entries that are not finite"):
        Matrix(torch.tensor([[1.0, torch.nan]])).svd  # noqa: B018


class TestBlur:
    def test_it_is_a_gaussian_of_the_stated_width(self):
        image = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
        image[..., 20, 20] = 1
        y, t = Blur((1, 41, 41), 2.0)(image)[0, 0], torch.arange(41).double() - 20
        assert float(y.sum()) == pytest.approx(1)
        assert float((y.sum(1) * t**2).sum()) == pytest.approx(4, rel=1e-6)
        assert float((y.sum(0) * t**2).sum()) == pytest.approx(4, rel=1e-6)
        assert float(y[20, 22] / y[20, 20]) == pytest.approx(torch.e**-0.5)

    def test_the_edges(self):
        ones = torch.ones(1, 1, 16, 16, dtype=torch.float64)
        torch.testing.assert_close(Blur((1, 16, 16), 2.0, "periodic")(ones), ones)
        dark = Blur((1, 16, 16), 2.0)(ones)[0, 0]
        assert 0.2 < float(dark[0, 0]) < 0.4  # a corner sees little more than a quarter
        assert float(dark[8, 8]) > 0.99

    def test_the_periodic_spectrum_is_the_gaussians(self):
        """Poisson's summation: the eigenvalues of the circulant matrix are exp(−σ²ω²/2) up to aliases."""
        n, std = 32, 1.7
        omega = 2 * torch.pi * torch.fft.fftfreq(n, dtype=torch.float64)
        found = torch.fft.fft(gaussian_matrix(n, std, "periodic")[:, 0]).real
        torch.testing.assert_close(found, torch.exp(-0.5 * (std * omega) ** 2), rtol=0, atol=1e-6)


def test_random_projections():
    P = RandomProjection(SHAPE, 50, seed=4).A
    torch.testing.assert_close(P @ P.T, torch.eye(50, dtype=torch.float64))
    assert torch.equal(P, RandomProjection(SHAPE, 50, seed=4).A)
    assert not torch.equal(P, RandomProjection(SHAPE, 50, seed=5).A)
    lengths = RandomProjection((400,), 200, "gaussian").A.square().sum(1)
    assert float(lengths.mean()) == pytest.approx(1, abs=0.02)
    assert float(lengths.std()) == pytest.approx((2 / 400) ** 0.5, rel=0.2)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Blur((28, 28), 1.0), "give a list of 3, each an integer"),
        (lambda: InpaintBox(SHAPE, (5, 0, 4, 4)), "does not lie"),
        (lambda: AveragePool(SHAPE, 3), "factor=3 does not divide"),
        (lambda: ChannelMix(SHAPE, (1.0,)), r"weights=\(1.0,\) do not mix 2 channels; give one for each"),
        (lambda: ChannelMix(SHAPE, (0.0, 0.0)), "and not only 0"),
        (lambda: Matrix(torch.zeros(3)), "expected a matrix"),
        (lambda: Blur(SHAPE, 0.0), "std=0.0 is not possible; give a number in"),
        (lambda: Blur(SHAPE, 1.0, "mirror"), "edge='mirror' is unknown; choose one of zero, periodic"),
        (lambda: RandomProjection((4,), 5), "m=5 is outside 1..4"),
    ],
)
def test_bad_arguments(make, match):
    with pytest.raises(CSBError, match=match):
        make()


LOW = torch.randn(4, 2, generator=seeded(0)) @ torch.randn(2, 6, generator=seeded(1))  # of rank 2, rounded to float32


class Computed(EvenRows):
    """An operator that computes LOW x in double precision, from products in single precision."""

    def __init__(self):
        Operator.__init__(self, (6,), (4,))

    def _apply(self, x):
        return (x.float() @ LOW.T).double() / 3


EXACT = torch.diag(torch.tensor([1, 2**-30]).double())  # numbers of few digits


@pytest.mark.parametrize(
    "A", [Matrix(LOW), Matrix(LOW.double()), Computed(), Matrix(EXACT)], ids=["single", "double", "computed", "exact"]
)
def test_rank_is_that_of_the_precision_of_the_matrix(A):
    assert A.svd.rank == 2
