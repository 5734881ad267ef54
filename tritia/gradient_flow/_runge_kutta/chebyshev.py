r"""Runge-Kutta-Chebyshev methods: stages spent on stability rather than on order.

Their stability polynomials are shifted Chebyshev polynomials, which stay within [-1, 1] on an
interval that grows with the *square* of the number of stages.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from tritia._arguments import check_number, check_static_int, static_message
from tritia.gradient_flow._properties import Scheme

DEFAULT_DAMPING = {1: 0.05, 2: 2 / 13}
"""The usual values, by order."""

TOUCHING = 1e-12
"""How far a Chebyshev polynomial must pass a bound, relative to its amplitude, to count."""


@dataclasses.dataclass(frozen=True)
class ChebyshevScheme(Scheme):
    r"""A stabilised Runge-Kutta method of order 1 or 2 with any number of stages.

    One step with s stages bears a learning rate of nearly :math:`s^2` (RKC1) or :math:`(s^2-1)/3`
    (RKC2) times gradient descent's, for s gradients. With Chebyshev polynomials :math:`T_j`,
    :math:`\omega_0 = 1 + \varepsilon / s^2` and damping :math:`\varepsilon`, the stability
    polynomials are

    .. math::
      R(z) = \frac{T_s(\omega_0 + \omega_1 z)}{T_s(\omega_0)}, \quad
      \omega_1 = \frac{T_s(\omega_0)}{T_s'(\omega_0)}
      \qquad\text{and}\qquad
      R(z) = 1 + b_s \big(T_s(\omega_0 + \omega_1 z) - T_s(\omega_0)\big), \quad
      \omega_1 = \frac{T_s'(\omega_0)}{T_s''(\omega_0)}, \;
      b_s = \frac{T_s''(\omega_0)}{T_s'(\omega_0)^2} .

    Without damping (0) the interval is longest, and at s - 1 points inside it a mode is not damped
    at all. The properties are those of every `Scheme`.

    >>> import tritia
    >>> scheme = ChebyshevScheme(stages=10, order=1, damping=0.05)
    >>> round(scheme.stability_interval, 2)  # 2 s^2 = 200 without damping
    193.65

    Attributes:
      stages: the number of stages s >= 2.
      order: 1 or 2.
      damping: epsilon >= 0; None chooses 0.05 (order 1) or 2/13 (order 2).

    Raises:
      ValueError: `stages` is below 2, `order` neither 1 nor 2, or `damping` negative or not finite.
      TypeError: one of them is not a number of its kind, or an array (traced or not).

    References:
      Verwer, Hundsdorfer, Sommeijer, `Convergence properties of the Runge-Kutta-Chebyshev method
      <https://doi.org/10.1007/BF01386405>`_, 1990
      Sommeijer, Shampine, Verwer, `RKC: an explicit solver for parabolic PDEs
      <https://doi.org/10.1016/S0377-0427(97)00219-7>`_, 1998
    """

    stages: int
    order: int = 2
    damping: float | None = None

    def __post_init__(self):
        """Checks the numbers and fills in the damping."""
        check_static_int("stages", self.stages, minimum=2)
        check_static_int("order", self.order, allowed=(1, 2))
        damping = DEFAULT_DAMPING[self.order] if self.damping is None else self.damping
        if isinstance(damping, (jax.Array, np.ndarray)):
            raise TypeError(static_message("damping", damping))
        check_number("damping", damping, minimum=0.0, schedule=False)
        object.__setattr__(self, "damping", float(damping))

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Such as rkc2(10)."""
        return f"rkc{self.order}({self.stages})"

    @property
    def gradients_per_step(self) -> int:
        """Gradients that a step costs: one per stage."""
        return self.stages

    @property
    def memory(self) -> int:
        """Copies of the params: the step's start, two offsets and, for order 2, the first slope."""
        return 2 + self.order

    @property
    def recurrence(self) -> np.ndarray:
        """The coefficients (mu, nu, mu~, gamma~) of each stage: an array of shape (stages, 4)."""
        s = self.stages
        w0, w1 = self._arguments()
        t, dt, ddt, _ = _chebyshev(s, w0)
        rows = np.zeros((s, 4))
        if self.order == 1:
            rows[0] = 0, 0, w1 / w0, 0
            for j in range(2, s + 1):
                ratio = t[j - 1] / t[j]
                rows[j - 1] = 2 * w0 * ratio, -t[j - 2] / t[j], 2 * w1 * ratio, 0
        else:
            b = np.ones(s + 1)
            b[2:] = ddt[2:] / dt[2:] ** 2
            b[:2] = b[2]
            a = 1 - b * t
            rows[0] = 0, 0, b[1] * w1, 0
            for j in range(2, s + 1):
                step = 2 * b[j] * w1 / b[j - 1]
                rows[j - 1] = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], step, -a[j - 1] * step
        return rows

    def _arguments(self) -> tuple[float, float]:
        """Returns omega_0 and omega_1."""
        w0 = 1 + float(self.damping or 0.0) / self.stages**2
        t, dt, ddt, _ = _chebyshev(self.stages, w0)[:, self.stages]
        return w0, t / dt if self.order == 1 else dt / ddt

    def stability_function(self, z: np.ndarray) -> np.ndarray:
        """Evaluates the stability polynomial R by the recurrence that the steps use.

        Args:
          z: h lambda, a real or complex array of shape (...).

        Returns:
          An array of shape (...): what a step makes of w = 1 where f(w) = lambda w.
        """
        z = np.asarray(z)
        older, old = np.zeros_like(z), np.zeros_like(z)
        for mu, nu, mu_slope, gamma_first in self.recurrence:
            older, old = old, mu * old + nu * older + mu_slope * z * (1 + old) + gamma_first * z
        return 1 + old

    def weights(self) -> np.ndarray:
        """Returns the weights b_i with which the slopes enter the step."""
        older, old = np.zeros((2, self.stages))
        slopes = np.eye(self.stages)
        for slope, (mu, nu, mu_slope, gamma_first) in zip(slopes, self.recurrence, strict=True):
            new = mu * old + nu * older + mu_slope * slope + gamma_first * slopes[0]
            older, old = old, new
        return old

    def _characteristic_roots(self, x: np.ndarray) -> np.ndarray:
        return self.stability_function(-np.asarray(x, complex))[..., None]

    def _error_constant(self) -> float:
        # The coefficient of z^(p+1) in exp(z) - R(z), as for tableaus.
        w0, w1 = self._arguments()
        t, dt, ddt, dddt = _chebyshev(self.stages, w0)[:, self.stages]
        if self.order == 1:
            return float(1 - w1**2 * ddt / t) / 2
        return float(1 - w1**3 * dddt * ddt / dt**2) / 6

    def _interval(self, radius: float, start: float) -> float:
        return _stable_up_to(self, radius, start)

    def _noise_gain(self) -> float:
        return float(np.sum(self.weights() ** 2))


def _chebyshev(degree: int, x: float) -> np.ndarray:
    """Returns T_j(x) and its first three derivatives for j = 0 .. degree, by their recurrences."""
    values = np.zeros((4, degree + 1))
    values[:, 1] = x, 1.0, 0.0, 0.0
    values[0, 0] = 1.0
    order = np.arange(1, 4)
    for j in range(2, degree + 1):
        values[:, j] = 2 * x * values[:, j - 1] - values[:, j - 2]
        values[1:, j] += 2 * order * values[:-1, j - 1]
    return values


def _stable_up_to(scheme: ChebyshevScheme, bound: float, start: float) -> float:
    """Returns where R(-x), from `start` on, first leaves [-bound, bound].

    R is affine in T_s(u), u = omega_0 - omega_1 x. While |u| <= 1, T_s(cos theta) = cos(s theta)
    oscillates; beyond u = -1 it grows in one direction.
    """
    s = scheme.stages
    w0, w1 = scheme._arguments()
    t, dt, ddt, _ = _chebyshev(s, w0)[:, s]
    scale = 1 / t if scheme.order == 1 else ddt / dt**2
    shift = 1 - scale * t
    low, high = (-bound - shift) / scale, (bound - shift) / scale
    if abs(scheme.stability_function(np.asarray(-start))) > bound:
        return 0.0
    u = w0 - w1 * start
    angle = s * math.acos(min(max(u, -1.0), 1.0))
    # Where T oscillates it can pass the lower bound going down or the upper bound coming up. An
    # extremum that touches a bound, as all do without damping, does not pass it.
    passes = []
    if low > -1 + TOUCHING:
        passes += [math.acos(low) + turn for turn in 2 * math.pi * np.arange(s)]
    if high < 1 - TOUCHING:
        passes += [2 * math.pi - math.acos(high) + turn for turn in 2 * math.pi * np.arange(s)]
    passes = [x for x in passes if angle < x < s * math.pi]
    if passes:
        return float((w0 - math.cos(min(passes) / s)) / w1)
    limit = high if s % 2 == 0 else -low
    return float((w0 + math.cosh(math.acosh(max(limit, 1.0)) / s)) / w1)
