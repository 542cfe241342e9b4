r"""A start for images whose law is about the same at each place: m is one filter, S a stationary covariance.

With û and ĉ the Fourier coefficients, at a frequency f with one number for each channel,

    m̂ = b̂ + G(f) ĉ,    G = P_uc (P_cc + λ I)^{−1},    S(f) = P_uu − G P_cu,

from the cross-spectra P of the training pairs: Wiener's filter and the spectrum of what it leaves, on a torus. There
are as many regressions as frequencies, of as many unknowns as y has channels, so that few pairs do, and the
regression's own pairs need no care. Scores do not change as the grid becomes finer: what is added has gains of its own.

A y of lower resolution, averages of blocks, stands at a corner of each block, among zeros: interpolations of it by one
rule for all blocks are filters of this image.
"""

from typing import Self

import torch
from torch import Tensor, fft

from csb.errors import CSBError
from csb.problems.rows import Rows
from csb.problems.start import FLOOR, Start
from csb.problems.transform import TRANSFORMS
from csb.schema import Described, checked

_RIDGE = 1e-9  # λ, in units of the mean of P_cc


def cross_spectrum(images: Tensor) -> Tensor:
    """The sums over images (n, C, H, W) of f fᴴ, of their coefficients at each frequency, (H, W/2 + 1, C, C)."""
    f = fft.rfft2(images, norm="ortho").movedim(1, 3)
    return torch.einsum("nhwa,nhwb->hwab", f, f.conj()).to(torch.complex128)


def root_of(S: Tensor) -> Tensor:
    """S^{1/2} of a stationary covariance (H, W/2 + 1, C, C), by its real and imaginary part, (…, 2)."""
    e, V = torch.linalg.eigh(S)
    return torch.view_as_real((V * e.clamp_min(FLOOR * e.mean()).sqrt()[..., None, :]) @ V.mH)


def unit_root(shape: tuple[int, ...]) -> Tensor:
    """:func:`root_of` of white noise (C, H, W), float32."""
    channels, height, width = shape
    eye = torch.stack([torch.eye(channels), torch.zeros(channels, channels)], -1)
    return eye.expand(height, width // 2 + 1, -1, -1, -1).clone().float()


def filtered(factor: Tensor, image: Tensor) -> Tensor:
    """Images (n, C, H, W) with each coefficient multiplied by the factor (H, W/2 + 1, C', C, 2) of its frequency."""
    f = torch.einsum("hwab,nbhw->nahw", torch.view_as_complex(factor), fft.rfft2(image.float()))
    return fft.irfft2(f, s=image.shape[2:])


def whitened(root: Tensor, image: Tensor) -> Tensor:
    """S^{−1/2} of images, by the root of S."""
    return filtered(torch.view_as_real(torch.linalg.inv(torch.view_as_complex(root))), image)


def log_det_of(root: Tensor, width: int) -> Tensor:
    """log |S^{1/2}| of images of a width, (), float64."""
    each = torch.linalg.slogdet(torch.view_as_complex(root.double()))[1]
    twice = torch.ones(width // 2 + 1, dtype=torch.float64, device=each.device)  # of half of the frequencies
    twice[1 : (width + 1) // 2] = 2
    return (each * twice).sum()


@TRANSFORMS.register
class Spectral(Start):
    """See the module's docstring. ``of`` is the spec of the transform of u and c, images of one size or c of blocks."""

    name = "spectral"
    bias: Tensor  # of each pixel of u
    gain: Tensor  # G by its real and imaginary part, (H, W/2 + 1, channels of u, of c, 2)
    root: Tensor  # S^{1/2}, (H, W/2 + 1, channels of u, of u, 2)

    @checked
    def __init__(self, of: Described) -> None:
        super().__init__(of)
        z, c = self.z_shape, self.c_shape
        if len(z) != 3 or len(c) != 3 or z[1] % c[1] or z[2] % c[2]:
            raise CSBError(
                f"start=spectral is for x and y that are images of one size, or y of whole blocks of x, not states {z} "
                f"and conditions {c}; choose start=residual or start=gaussian"
            )
        self.block = z[1] // c[1], z[2] // c[2]
        size = (z[1], z[2] // 2 + 1)
        self.register_buffer("bias", torch.zeros(z, dtype=torch.float32))
        self.register_buffer("gain", torch.zeros(*size, z[0], c[0], 2, dtype=torch.float32))
        self.register_buffer("root", unit_root(z))

    def fit(self, rows: Rows) -> Self:
        """In two passes over the rows' blocks. CSBError for observations with gaps."""
        self._fit_inner(rows)
        n, channels = len(rows), self.z_shape[0]
        centre = torch.zeros(channels + self.c_shape[0], *self.z_shape[1:], dtype=torch.float64)
        for x, y, _ in rows.blocks():
            centre += self._both(x, y).double().sum(0) / n
        P = torch.zeros(*self.gain.shape[:2], len(centre), len(centre), dtype=torch.complex128)
        for x, y, _ in rows.blocks():
            P += cross_spectrum(self._both(x, y) - centre.float()) / n
        uu, uc, cc = P[..., :channels, :channels], P[..., :channels, channels:], P[..., channels:, channels:]
        ridge = _RIDGE * cc.diagonal(dim1=2, dim2=3).real.mean() * torch.eye(cc.shape[-1])
        gain = torch.linalg.solve(cc + ridge, uc.mH).mH
        self.gain.copy_(torch.view_as_real(gain.resolve_conj()))
        self.root.copy_(root_of(uu - gain @ uc.mH))
        self.bias.copy_(centre[:channels] - filtered(self.gain, centre[None, channels:].float())[0])
        return self

    def _both(self, x: Tensor, y: Tensor) -> Tensor:
        """u and c, one upon the other."""
        return torch.cat([self.inner.encode_x(x, y), self._spread(self.encode_y(y))], 1)

    def _spread(self, c: Tensor) -> Tensor:
        """c on the grid of u."""
        if self.block == (1, 1):
            return c
        found = c.new_zeros(*c.shape[:2], *self.z_shape[1:])
        found[:, :, :: self.block[0], :: self.block[1]] = c
        return found

    def _mean(self, c: Tensor) -> Tensor:
        return self.bias + filtered(self.gain, self._spread(c))

    def _coloured(self, z: Tensor) -> Tensor:
        return filtered(self.root, z)

    def _white(self, r: Tensor) -> Tensor:
        return whitened(self.root, r)

    def _log_det(self) -> Tensor:
        return log_det_of(self.root, self.z_shape[2])
