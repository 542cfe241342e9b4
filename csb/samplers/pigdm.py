from torch import Tensor

from csb.samplers.diffusion import MomentSampler, Spread


class PiGDM(MomentSampler):
    r"""Pseudoinverse guidance (Song, Vahdat, Mardani & Kautz 2023, ICLR, eq. 7 and 8).

    z_0 | z_k is taken for N(x̂_0, r_k² I), so that p(y | z_k) = N(c; A x̂_0, r_k² A A* + σ² I), whose gradient is a
    vector–Jacobian product through the denoiser,

        ∇ log p(y | z_k) = r_k⁻² (∇x̂_0)* A*(A A* + σ²/r_k² I)⁻¹(c − A x̂_0),

    with A*(A A* + λI)⁻¹ = A* U diag(1/(s² + λ)) U*, which for σ = 0 is the pseudoinverse. r_k² = v(1−ᾱ_k)/(1−ᾱ_k +
    ᾱ_k v) with v the variance of a coordinate of z over the data: for v = 1 the paper's 1−ᾱ_k. For a prior N(m, v I) of
    z it is exact; where the prior varies less than v, y is followed too little; where it varies more, too much.

    The step is DDIM's with E[z_0 | z_k, y] by Tweedie's formula. The paper's algorithm 1 adds √ᾱ_k r_k² times the
    gradient whatever the size of the step, and so tends to no posterior as T → ∞.
    """

    name = "pigdm"
    label = "ΠGDM"
    swept = ("eta", "η")
    needs_svd = True

    def correction(self, residual: Tensor, spread: Spread, alpha_bar: float) -> Tensor:
        s, r = self.svd.values.to(residual.device), self.likelihood.remaining(alpha_bar)
        weight = (1 / (r * s**2 + self.std**2)).to(residual.dtype)
        return spread(self.svd.u(weight * self.svd.ut(residual)))
