"""A flow whose velocity and map are known: x0 and x1 independent Gaussians, coordinate by coordinate."""

import torch


class GaussianFlow:
    """x_t ~ N(mu_t, sigma_t^2) with mu_t linear and ``sigma_t^2 = (1 - t)^2 sigma_0^2 + t^2 sigma_1^2``."""

    def __init__(self, mean0=0.7, std0=0.4, mean1=-0.3, std1=1.3):
        self.mean0, self.std0, self.mean1, self.std1 = mean0, std0, mean1, std1

    def mean(self, t):
        return (1 - t) * self.mean0 + t * self.mean1

    def std(self, t):
        return ((1 - t) ** 2 * self.std0**2 + t**2 * self.std1**2).sqrt()

    def map(self, x, t, s):
        t, s = (time.reshape(-1, 1, 1, 1) for time in (t, s))
        return self.mean(s) + self.std(s) / self.std(t) * (x - self.mean(t))

    def velocity(self, x, t):
        """d/dt of the map: the marginal velocity, E[x1 - x0 | x_t = x]."""
        t = t.reshape(-1, 1, 1, 1)
        growth = (t * self.std1**2 - (1 - t) * self.std0**2) / self.std(t) ** 2
        return self.mean1 - self.mean0 + growth * (x - self.mean(t))

    def u(self, x, t, s):
        """Average velocity, its limit where s = t."""
        same = (t == s).reshape(-1, 1, 1, 1)
        gap = torch.where(same, torch.ones_like(x[:, :1, :1, :1]), (t - s).reshape(-1, 1, 1, 1))
        return torch.where(same, self.velocity(x, t), (x - self.map(x, t, s)) / gap)
