"""Methods: which two states a flow joins, what a network's output means between them, and how a picture is sampled.

A state is the noisy image x_t, (B, C, H, W), and in methods with a condition the LR latent behind it, stacked along
the channels to (B, 2C, H, W). LR rides along at velocity 0, so interpolant, samplers, tilings and training targets
treat a state as they treat an image. A new method is a class here and a line in METHODS.
"""

import logging
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import check
from .flow import Velocity, per_sample, sample
from .looks import Look

log = logging.getLogger("flowmapsr")


@dataclass(frozen=True)
class FlowMapMethod:
    """Flow maps (arXiv 2601.16660), with the noisy LR end and the condition of OFTSR (arXiv 2412.09465, section 3).

    Attributes:
        noise: standard deviation sigma of the noise at the LR end, in units of the latents; 0 for none.
        preserving: keep the variance, ``x1 = sqrt(1 - sigma^2) LR + sigma eps``, instead of ``LR + sigma eps``.
        condition: the network sees LR, without noise, beside x_t.

    Raises:
        UserError: the noise is out of its range.
    """

    noise: float = 0.0
    preserving: bool = False
    condition: bool = False

    def __post_init__(self) -> None:
        check(self.noise >= 0, "method.noise must be 0 or more")
        check(not self.preserving or self.noise <= 1, "method.noise must be 0 to 1 where the variance is preserved")

    @property
    def images(self) -> int:
        """Images stacked in a state."""
        return 2 if self.condition else 1

    def ends(self, x0: Tensor, lr: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        """The states at time 0 and 1.

        Args:
            x0, lr: HR and LR latents (B, C, H, W).
            eps: Gaussian noise of the same shape; None where the method has none.
        """
        x1 = lr
        if eps is not None:
            x1 = (lr * math.sqrt(1 - self.noise**2) if self.preserving else lr) + self.noise * eps
        return (_stack(x0, lr), _stack(x1, lr)) if self.condition else (x0, x1)

    def velocity(self, output: Tensor, state: Tensor, t: Tensor) -> Tensor:
        """Velocity of a state, of its shape: the network's output (B, C, H, W), and 0 for LR; t (B,) or (1,)."""
        return _stack(output, torch.zeros_like(output)) if self.condition else output

    def settings(self, look: Look) -> Look:
        """The settings that the method can follow: any, and the posterior mean takes one evaluation."""
        return look if look.realism else replace(look, steps=1)

    def sample(self, u: Velocity, lr: Tensor, eps: Tensor | None, settings: Look) -> Tensor:
        """HR latent (B, C, H, W) of an LR latent by :meth:`settings`; ``u`` is the velocity of states."""
        state = self.ends(lr, lr, eps)[1]
        return sample(u, state, settings.steps, realism=settings.realism)[:, : lr.shape[1]]


@dataclass(frozen=True)
class CTMSR:
    """Consistency training for super-resolution (arXiv 2503.20349): one jump from much noise beside LR to HR.

    With linear schedules its forward process (equation 7) is our interpolant between x0 and ``y + sigma eps``, y the LR
    latent, and its consistency function f the jump to time 0. f has the paper's parameters (equation 9) around y:
    ``f = y + c_skip (x - y) - c_out N``, N the network's output, with ``q = sigma t / 0.1``, ``d = 0.5``,
    ``c_skip = d^2 / (q^2 + d^2)`` and ``c_out = q / sqrt(q^2 + d^2)``, so a network that is 0 gives LR at time 1.

    Attributes:
        noise: standard deviation sigma of the noise at time 1, in units of the latents.

    Raises:
        UserError: the noise is not above 0.
    """

    noise: float = 1.0

    images = 2

    def __post_init__(self) -> None:
        check(self.noise > 0, "method.noise must be above 0 for ctmsr")

    def ends(self, x0: Tensor, lr: Tensor, eps: Tensor | None) -> tuple[Tensor, Tensor]:
        """As :meth:`FlowMapMethod.ends`."""
        return _stack(x0, lr), _stack(lr if eps is None else lr + self.noise * eps, lr)

    def velocity(self, output: Tensor, state: Tensor, t: Tensor) -> Tensor:
        """As :meth:`FlowMapMethod.velocity`: ``u = (x - f) / t = A(t) (x - y) + B(t) N``, finite at t = 0 too.

        ``A = k^2 t / (k^2 t^2 + d^2)`` and ``B = k / sqrt(k^2 t^2 + d^2)`` with ``k = sigma / 0.1``.
        """
        x, y = state.chunk(2, dim=1)
        k, d, t = self.noise / 0.1, 0.5, per_sample(t, x).to(x.dtype)
        total = k**2 * t**2 + d**2
        u = k**2 * t / total * (x - y) + k / total.sqrt() * output
        return _stack(u, torch.zeros_like(u))

    def settings(self, look: Look) -> Look:
        """One evaluation without guidance: the method trains no other."""
        if (look.steps, look.guidance) != (1, 1.0):
            log.info("a ctmsr model takes one evaluation and no guidance, whatever is asked for")
        return replace(look, steps=1, guidance=1.0)

    def sample(self, u: Velocity, lr: Tensor, eps: Tensor | None, settings: Look) -> Tensor:
        """As :meth:`FlowMapMethod.sample`, but realism is the share of the noise.

        No network of this method has seen a time s above 0. Where HR given LR is Gaussian, a jump from
        ``y + realism sigma eps`` ends at the posterior mean plus that share of its deviation.
        """
        state = self.ends(lr, lr, None if eps is None else settings.realism * eps)[1]
        return sample(u, state, settings.steps)[:, : lr.shape[1]]


Method = FlowMapMethod | CTMSR
METHODS = {"flow-map": FlowMapMethod, "ctmsr": CTMSR}


def _stack(x: Tensor, lr: Tensor) -> Tensor:
    return torch.cat([x, lr], dim=1)
