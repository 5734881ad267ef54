"""What linear multistep and Runge-Kutta schemes have in common: the properties to choose one by."""

from __future__ import annotations

import abc
import functools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tritia._arguments import check_number
from tritia.gradient_flow._describe import Description, draw_stability_regions

if TYPE_CHECKING:
    import matplotlib.axes


class Scheme(abc.ABC):
    r"""A numerical scheme for the gradient flow :math:`w' = -\nabla L(w)`, and its properties.

    `LinearMultistep`, `ButcherTableau` and `ChebyshevScheme` are schemes. All properties are
    computed from the coefficients alone, for one step of size h, the learning rate. On a quadratic
    loss the modes of curvature :math:`\lambda` (the eigenvalues of the Hessian) train independently
    of each other, and everything about them depends on the product :math:`x = h \lambda`.

    Attributes:
      name: what to call it.
      order: the order of accuracy p: at a fixed time :math:`T = n h` the distance between the
        iterates and the gradient flow is :math:`O(h^p)`, so half the learning rate divides it by
        :math:`2^p`. Gradient descent has order 1. The order says how closely training follows the
        flow; on noisy minibatches the noise usually dominates.
      gradients_per_step: gradients that a step costs.
      memory: copies of the params that the optimizer state keeps: SGD 0, momentum 1, Adam 2. For
        Runge-Kutta methods it is that of the transparent mode; the opaque mode keeps nothing
        between steps.

    References:
      Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 1993, and II, 1996.

    Examples:
      >>> import tritia
      >>> scheme = tritia.adams_bashforth_scheme(3)
      >>> scheme.name, scheme.order, scheme.gradients_per_step, scheme.memory
      ('Adams-Bashforth 3', 3, 1, 2)
    """

    name: str
    order: int

    @property
    @abc.abstractmethod
    def gradients_per_step(self) -> int:
        """Gradients that a step costs."""

    @property
    @abc.abstractmethod
    def memory(self) -> int:
        """Copies of the params that the optimizer state keeps: SGD 0, momentum 1, Adam 2."""

    def characteristic_roots(self, x: Any) -> np.ndarray:
        r"""The numbers whose powers the iterates on a mode are made of.

        For a linear multistep scheme these are the k roots of
        :math:`\zeta^k = \sum_j (a_j - x b_j) \zeta^{k-1-j}`, for a Runge-Kutta method there is one,
        the value :math:`R(-x)` of its stability polynomial.

        Args:
          x: learning rate times curvature: a real or complex array of shape (...).

        Returns:
          A complex array of shape (..., k), with k = 1 for Runge-Kutta methods.

        Examples:
          >>> import tritia
          >>> tritia.adams_bashforth_scheme(1).characteristic_roots(0.5)
          array([0.5+0.j])
          >>> tritia.TABLEAUS["heun"].characteristic_roots(0.5)  # 1 - x + x^2 / 2
          array([0.625+0.j])
        """
        return self._characteristic_roots(np.asarray(x))

    @abc.abstractmethod
    def _characteristic_roots(self, x: np.ndarray) -> np.ndarray:
        """The value of `characteristic_roots`."""

    @abc.abstractmethod
    def _error_constant(self) -> Fraction | float:
        """The value of `error_constant`."""

    @abc.abstractmethod
    def _interval(self, radius: float, start: float) -> float:
        """The largest X for which all roots lie within `radius` on [start, X], 0 if none."""

    @abc.abstractmethod
    def _noise_gain(self) -> float:
        """The value of `noise_gain`."""

    # Those of a scheme that reads nothing of the past.

    def _parasitic_radius(self) -> float:
        return 0.0

    def _growth_limit(self) -> float:
        return math.inf

    def _shrink_limit(self) -> float:
        return 0.0

    @functools.cached_property
    def error_constant(self) -> Fraction | float:
        r"""The error constant C: how far a scheme is from the flow, against others of its order.

        Along the flow the error at a fixed time is about :math:`C h^p` times a quantity of the
        problem: of two schemes of one order, the one with the smaller constant is closer by that
        ratio. For a linear multistep scheme :math:`C = C_{p+1} / \sum_j b_j` with
        :math:`C_q = (1 - \sum_j a_j (-j)^q - q \sum_j b_j (-j)^{q-1}) / q!` (Hairer, Norsett,
        Wanner I, equation III.2.13). For a Runge-Kutta method it is the coefficient of
        :math:`z^{p+1}` in :math:`e^z - R(z)`, its error on linear problems. A fraction where the
        coefficients are.

        Examples:
          >>> import tritia
          >>> tritia.difference_scheme(order=2, steps=3).error_constant
          Fraction(5, 12)
          >>> tritia.TABLEAUS["rk4"].error_constant
          Fraction(1, 120)
        """
        return self._error_constant()

    @functools.cached_property
    def stability_interval(self) -> float:
        r"""The largest X such that no mode grows while :math:`h \lambda \le X`.

        On a quadratic, training is stable when learning rate times the largest curvature (the
        sharpness) is at most X. Gradient descent has X = 2: divide X by 2 to see how much larger or
        smaller a learning rate this scheme bears than SGD.

        Examples:
          >>> import tritia
          >>> round(tritia.adams_bashforth_scheme(3).stability_interval, 6)  # 6/11
          0.545455
        """
        return self._interval(radius=1.0, start=0.0)

    def damped_interval(self, radius: float = 0.98, start: float = 0.1) -> float:
        r"""The largest X such that every root has modulus at most `radius` on [start, X].

        At the end of the stability interval a mode is no longer damped at all. On the damped
        interval every mode shrinks by at least 2% a step, so it is the better upper bound for a
        learning rate: learning rate times sharpness at most X.

        Args:
          radius: the modulus allowed, in (0, 1].
          start: where the interval begins, at least 0; at 0 itself the principal root is 1.

        Returns:
          X, or 0 if the roots at `start` are already too large.

        Raises:
          ValueError: an argument is out of range.

        Examples:
          >>> import tritia
          >>> round(tritia.adams_bashforth_scheme(1).damped_interval(), 6)
          1.98
        """
        check_number("radius", radius, minimum=0, maximum=1, exclusive_minimum=True, schedule=False)
        check_number("start", start, minimum=0, schedule=False)
        return self._interval(radius, start)

    def amplification(self, z: Any) -> np.ndarray:
        r"""The factor by which a step can multiply the mode :math:`w' = \lambda w`.

        Curvature moves :math:`z = h \lambda` along the negative real axis, rotation (as in games)
        along the imaginary one.

        Args:
          z: a real or complex array of shape (...).

        Returns:
          A real array of shape (...): the largest modulus of a root at -z. The scheme is stable
          where it is at most 1.

        Examples:
          >>> import tritia
          >>> print(tritia.adams_bashforth_scheme(1).amplification([-1.5, 1j]).round(3))
          [0.5   1.414]
        """
        return np.max(np.abs(self.characteristic_roots(-np.asarray(z, complex))), axis=-1)

    @functools.cached_property
    def noise_gain(self) -> float:
        r"""The noise gain: the variance of a step against that of SGD's; 1 for SGD, less is calmer.

        When gradients carry independent noise of variance :math:`\sigma^2`, the variance of a step
        is the noise gain times :math:`h^2 \sigma^2`. It is the sum of squares of the step's
        response to a unit impulse in the gradient: :math:`\sum_j b_j^2` for the Adams schemes;
        infinite where that response never decays. For Runge-Kutta methods it is
        :math:`\sum_i b_i^2`, which supposes a fresh minibatch at every stage (the transparent
        mode); with one minibatch for all stages (the opaque mode) the gain is 1.

        Examples:
          >>> import tritia
          >>> round(tritia.difference_scheme(order=2, steps=3).noise_gain, 6)
          2.0
          >>> tritia.TABLEAUS["heun"].noise_gain
          0.5
        """
        return self._noise_gain()

    @functools.cached_property
    def parasitic_radius(self) -> float:
        r"""The largest modulus of the parasitic roots; the root condition wants at most 1.

        A scheme that reads past points has roots beside the principal one: at learning rate 0,
        those of :math:`\zeta^{k-1} + A_1 \zeta^{k-2} + \ldots + A_{k-1}`,
        :math:`A_i = \sum_{j \ge i} a_j`. What rounding and gradient noise leave in the past is
        multiplied by this number in every step: at 0 it is forgotten at once, at 0.9 after about
        ten steps, above 1 training diverges at any learning rate (Dahlquist 1956). Schemes that
        read no past points, Runge-Kutta methods among them, have 0.

        Examples:
          >>> import tritia
          >>> round(tritia.bdf_scheme(2).parasitic_radius, 6)
          0.333333
        """
        return self._parasitic_radius()

    @functools.cached_property
    def growth_limit(self) -> float:
        r"""The largest growth of the learning rate per step at which the scheme is used as it is.

        Under a schedule the step size changes, and the coefficients of a linear multistep scheme
        with it. When it grows by a constant factor per step, the scheme stays zero-stable up to
        some factor; this is that factor, at most 2. Where the learning rate grows faster, the
        optimizers use fewer steps: during a warm-up that more than doubles in every step they are
        plain gradient descent. Runge-Kutta methods have no past to adapt to, and the limit is
        infinite. (Crouzeix, Lisbona 1984 for the notion; the limits are computed.)

        Examples:
          >>> import tritia
          >>> tritia.adams_bashforth_scheme(2).growth_limit
          2.0
          >>> round(tritia.difference_scheme(order=2, steps=3).growth_limit, 2)
          1.5
        """
        return self._growth_limit()

    @functools.cached_property
    def shrink_limit(self) -> float:
        """The smallest ratio of a learning rate to the last at which the scheme is used as it is.

        Most schemes bear any decay of the learning rate, and the limit is 0: the past becomes long
        against the step to come, and they turn into gradient descent by themselves. Where it is not
        0, and the learning rate falls faster, the optimizers use fewer steps.

        Examples:
          >>> import tritia
          >>> tritia.difference_scheme(order=2, steps=3).shrink_limit
          0.0
          >>> tritia.difference_scheme(order=3, steps=4).shrink_limit > 0.7
          True
        """
        return self._shrink_limit()

    def describe(self) -> Description:
        r"""Collects the properties: order, error, stability, noise, memory and cost.

        How to read it: learning rate times sharpness must stay below the stability interval, so a
        scheme bears ``stability_interval / 2`` times the largest learning rate of SGD. At equal
        learning rates the one with the higher order, or the smaller error constant, follows the
        gradient flow more closely. On noisy minibatches a noise gain above 1 can cost more than the
        order wins.

        Returns:
          A `Description`, which prints as a table.

        Examples:
          >>> import tritia
          >>> tritia.difference_scheme(order=2, steps=3).describe()
          difference, order 2, 3 steps
            order of accuracy       2
            error constant          5/12 = 0.4167
            stability interval      2  (SGD: 2)
              per gradient          2
              damped by 2% a step   1.845  (SGD: 1.98)
            noise gain              2  (SGD: 1)
            memory                  2 x params  (SGD: 0)
            gradients per step      1
            learning rate may grow  1.502 x per step
        """
        return Description(
            name=self.name,
            order=self.order,
            error_constant=self.error_constant,
            stability_interval=self.stability_interval,
            damped_interval=self.damped_interval(),
            noise_gain=self.noise_gain,
            memory=self.memory,
            gradients_per_step=self.gradients_per_step,
            growth_limit=self.growth_limit,
        )

    def plot_stability_region(
        self,
        *others: Scheme,
        ax: matplotlib.axes.Axes | None = None,
        resolution: int = 301,
    ) -> matplotlib.axes.Axes:
        r"""Draws where the scheme is stable: the z at which its amplification is at most 1.

        Modes of a loss lie on the negative real axis, at minus learning rate times curvature; modes
        that rotate, as in games, lie off it.

        Args:
          *others: schemes to draw beside it, on the same axes.
          ax: where to draw; None makes a new figure.
          resolution: grid points in each direction, at least 2.

        Returns:
          The matplotlib axes.

        Raises:
          ImportError: matplotlib is missing.
          TypeError: one of `others` is not a scheme.

        Examples:
          >>> import matplotlib
          >>> matplotlib.use("Agg")
          >>> import tritia
          >>> euler = tritia.adams_bashforth_scheme(1)
          >>> ax = euler.plot_stability_region(tritia.difference_scheme(order=2, steps=3))
          >>> ax.get_xlabel()
          'learning rate x curvature, Re(hλ)'
        """
        for other in others:
            if not isinstance(other, Scheme):
                raise TypeError(
                    "others must be schemes: tritia.LinearMultistep, ButcherTableau or"
                    f" ChebyshevScheme; got {other!r} of type {type(other).__name__}."
                )
        return draw_stability_regions((self, *others), ax, resolution)
