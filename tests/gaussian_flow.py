"""Flows whose velocity and map are known: x0 and x1 independent Gaussians, coordinate by coordinate."""

import torch

# what some objectives take beside the times: how far they look ahead
STEPS = {name: {"step": torch.tensor(1 / 16, dtype=torch.float64)} for name in ("trajectory", "consistency")}


def column(time):
    """A time (B,) that broadcasts over (B, C, H, W)."""
    return time.reshape(-1, 1, 1, 1)


class GaussianFlow:
    """x_t ~ N(mu_t, sigma_t^2) with mu_t linear and ``sigma_t^2 = (1 - t)^2 sigma_0^2 + t^2 sigma_1^2``."""

    def __init__(self, mean0=0.7, std0=0.4, mean1=-0.3, std1=1.3):
        self.mean0, self.std0, self.mean1, self.std1 = mean0, std0, mean1, std1

    def mean(self, t):
        return (1 - t) * self.mean0 + t * self.mean1

    def std(self, t):
        return ((1 - t) ** 2 * self.std0**2 + t**2 * self.std1**2).sqrt()

    def growth(self, t):
        """d/dt log sigma_t."""
        return (t * self.std1**2 - (1 - t) * self.std0**2) / self.std(t) ** 2

    def map(self, x, t, s):
        t, s = column(t), column(s)
        return self.mean(s) + self.std(s) / self.std(t) * (x - self.mean(t))

    def velocity(self, x, t):
        """d/dt of the map: the marginal velocity, E[x1 - x0 | x_t = x]."""
        t = column(t)
        return self.mean1 - self.mean0 + self.growth(t) * (x - self.mean(t))

    def u(self, x, t, s):
        """Average velocity, its limit where s = t."""
        same = column(t == s)
        gap = torch.where(same, torch.ones_like(x[:, :1, :1, :1]), column(t - s))
        return torch.where(same, self.velocity(x, t), (x - self.map(x, t, s)) / gap)


class GuidedFlow(GaussianFlow):
    """The flow of the velocity ``w v_positive + (1 - w) v_negative`` of two Gaussian flows of the same mean, w (B,).

    The growths mix with weights w and 1 - w, hence so do the logarithms of the standard deviations.
    """

    def __init__(self, positive, negative, w):
        self.mean0, self.mean1 = positive.mean0, positive.mean1
        self.positive, self.negative, self.w = positive, negative, column(w)

    def std(self, t):
        return self.positive.std(t) ** self.w * self.negative.std(t) ** (1 - self.w)

    def growth(self, t):
        return self.w * self.positive.growth(t) + (1 - self.w) * self.negative.growth(t)
