r"""Linear multistep schemes, and what they promise.

A scheme advances the gradient flow :math:`w' = f(w)`, :math:`f = -\nabla L`, by one step of size
:math:`h` (the learning rate) from :math:`k` past points and :math:`k` past gradients:

.. math::

  w_{t+1} = \sum_{j=0}^{k-1} a_j w_{t-j} + h \sum_{j=0}^{k-1} b_j f_{t-j}

A scheme checks itself when it is built; order, error, stability and noise are computed from its
coefficients.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tritia._arguments import check_number
from tritia.gradient_flow import _properties as properties
from tritia.gradient_flow._coefficient import Coefficient, coefficient
from tritia.gradient_flow._multistep import roots, taylor_conditions


@dataclasses.dataclass(frozen=True)
class LinearMultistep:
    r"""A linear multistep scheme :math:`w_{t+1} = \sum_j a_j w_{t-j} + h \sum_j b_j f_{t-j}`.

    The scheme checks itself when it is built: it must be consistent, satisfy the root condition
    (zero-stability) and have a stability interval that is not empty.

    Attributes:
      a: weights of the points :math:`w_t, w_{t-1}, \ldots`; they add to 1. Integers, fractions and
        strings such as ``"4/3"`` are kept exactly, floats as floats.
      b: weights of the directions :math:`f_t, f_{t-1}, \ldots`, in units of the step size.
      name: shown by `tritia.describe`.
      starter: the scheme that takes the steps for which this one has too little history or too
        uneven a history; it must read fewer steps. None stands for gradient descent.
      from_rest: True where the history before the first step is a point at rest,
        :math:`w_{-1} = w_0`, as momentum methods have it, so that it starts at once.

    Raises:
      TypeError: a coefficient is not a number.
      ValueError: no coefficient, a coefficient that is not finite, or a condition that fails: the
        message names the condition and says by how much.

    References:
      Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 1993, chapter III.

    Examples:
      >>> import tritia
      >>> scheme = tritia.LinearMultistep(a=("4/3", "-1/3"), b=("4/3", "-2/3"), name="BDF2")
      >>> tritia.order(scheme), tritia.error_constant(scheme)
      (2, Fraction(2, 3))
      >>> tritia.LinearMultistep(a=(0, 1), b=(2,), name="leapfrog")
      Traceback (most recent call last):
      ...
      ValueError: leapfrog: the stability interval is empty: ...
    """

    a: tuple[Coefficient, ...]
    b: tuple[Coefficient, ...]
    name: str = "linear multistep"
    starter: LinearMultistep | None = None
    from_rest: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", _coefficients("a", self.a))
        object.__setattr__(self, "b", _coefficients("b", self.b))
        if self.starter is not None and not isinstance(self.starter, LinearMultistep):
            raise TypeError(
                f"starter must be a LinearMultistep or None; got {type(self.starter).__name__}."
            )
        if self.starter is not None and self.starter.steps >= self.steps:
            raise ValueError(
                f"starter reads {self.starter.steps} steps; it must read fewer than the"
                f" {self.steps} of {self.name}."
            )
        for degree in (0, 1):
            if not taylor_conditions.holds(self.a, self.b, degree):
                residual = taylor_conditions.residual(self.a, self.b, degree)
                condition = "sum a_j = 1" if degree == 0 else "sum b_j = 1 + sum j a_j"
                raise ValueError(
                    f"{self.name}: inconsistent: the condition {condition} fails by"
                    f" {float(-residual):.6g}."
                )
        radius, multiple = roots.parasitic_radius(self)
        if radius > 1 + roots.CIRCLE or multiple:
            defect = (
                f"the largest parasitic root has modulus {radius:.6g} > 1"
                if radius > 1 + roots.CIRCLE
                else "a root on the unit circle is multiple"
            )
            raise ValueError(f"{self.name}: zero-unstable: the root condition fails: {defect}.")
        if properties.stability_interval(self) <= 0.0:
            raise ValueError(
                f"{self.name}: the stability interval is empty: a root leaves the unit disc at"
                " every positive h * curvature, so training diverges at any learning rate."
            )

    @property
    def steps(self) -> int:
        """k, the number of past points or directions that a step reads."""
        return max(len(self.a), len(self.b))

    @functools.cached_property
    def ladder(self) -> tuple[LinearMultistep, ...]:
        """The scheme, its starters and gradient descent, from most to fewest steps."""
        ladder: list[LinearMultistep] = [self]
        while ladder[-1].starter is not None:
            ladder.append(ladder[-1].starter)
        if ladder[-1].steps > 1:
            ladder.append(EULER)
        return tuple(ladder)

    @property
    def history_lengths(self) -> tuple[int, int]:
        """How many past steps and past directions the scheme and its starters read."""
        return (
            max(len(rung.a) - 1 for rung in self.ladder),
            max(len(rung.b) - 1 for rung in self.ladder),
        )

    @property
    def gradients_per_step(self) -> int:
        """Gradients that a step costs: always 1."""
        return 1

    @property
    def displacement_weights(self) -> tuple[Coefficient, ...]:
        r"""The weights :math:`A_i = \sum_{j \ge i} a_j`, :math:`i = 1, 2, \ldots`, of past steps.

        Because the :math:`a_j` add to 1, the scheme is a step from :math:`w_t` made of earlier
        steps :math:`\Delta w_t = w_{t+1} - w_t`, which is the form an Optax transform needs:
        :math:`\Delta w_t = -\sum_{i \ge 1} A_i \Delta w_{t-i} + h \sum_j b_j f_{t-j}`.
        """
        return tuple(sum(self.a[i:], Fraction(0)) for i in range(1, len(self.a)))


def _coefficients(name: str, values: Any) -> tuple[Coefficient, ...]:
    """Returns coefficients without the zeros at their end."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, (str, numbers.Number)) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of numbers; got {values!r}.")
    exact = [coefficient(f"{name}[{i}]", value, text=True) for i, value in enumerate(values)]
    while len(exact) > 1 and exact[-1] == 0:
        exact.pop()
    if not exact or all(value == 0 for value in exact):
        raise ValueError(f"{name} must hold a coefficient that is not zero; got {values!r}.")
    return tuple(exact)


@properties.order.register
def _(scheme: LinearMultistep) -> int:
    degree = 1
    while taylor_conditions.holds(scheme.a, scheme.b, degree + 1):
        degree += 1
    return degree


@properties.error_constant.register
def _(scheme: LinearMultistep) -> Coefficient:
    degree = properties.order(scheme) + 1
    residual = taylor_conditions.residual(scheme.a, scheme.b, degree)
    return residual / math.factorial(degree) / sum(scheme.b, Fraction(0))


def check_scheme(scheme: Any) -> None:
    """Raises a TypeError where `scheme` is not a linear multistep scheme."""
    if not isinstance(scheme, LinearMultistep):
        raise TypeError(
            "scheme must be a tritia.LinearMultistep, such as tritia.adams_bashforth_scheme(2);"
            f" got {scheme!r} of type {type(scheme).__name__}."
        )


def root_condition(scheme: LinearMultistep) -> float:
    r"""The largest modulus of the parasitic roots; the root condition (zero-stability) wants <= 1.

    A scheme that reads past points carries echoes of past rounding and gradient noise. At learning
    rate 0 an echo is multiplied by this number in every step: 0 forgets at once, 0.9 remembers for
    about ten steps, above 1 training explodes whatever the learning rate.

    Args:
      scheme: a linear multistep scheme.

    Returns:
      The largest modulus of the roots of
      :math:`\zeta^{k-1} + A_1 \zeta^{k-2} + \ldots + A_{k-1}`; 0 if there is none.

    Raises:
      TypeError: `scheme` is not a `LinearMultistep`.

    References:
      Dahlquist 1956; Hairer, Norsett, Wanner 1993, definition III.3.2.

    Examples:
      >>> import tritia
      >>> round(tritia.root_condition(tritia.bdf_scheme(2)), 6)
      0.333333
    """
    check_scheme(scheme)
    return roots.parasitic_radius(scheme)[0]


@properties.stability_interval.register
def _(scheme: LinearMultistep) -> float:
    return roots.interval(scheme, radius=1.0, start=0.0)


@properties.damped_interval.register
def _(scheme: LinearMultistep, radius: float = 0.98, start: float = 0.1) -> float:
    check_number("radius", radius, minimum=0, maximum=1, exclusive_minimum=True, schedule=False)
    check_number("start", start, minimum=0, schedule=False)
    return roots.interval(scheme, radius=radius, start=start)


@properties.amplification.register
def _(scheme: LinearMultistep, z: Any) -> np.ndarray:
    return np.max(np.abs(roots.characteristic_roots(scheme, -np.asarray(z))), axis=-1)


@properties.noise_gain.register
def _(scheme: LinearMultistep) -> float:
    if roots.parasitic_radius(scheme)[0] >= 1 - roots.CIRCLE:
        return math.inf
    # State: the past displacements and the past impulses; P solves P = F P F^T + G G^T.
    weights = np.array([float(x) for x in scheme.displacement_weights])
    directions = np.array([float(x) for x in scheme.b])
    past, lags = len(weights), len(directions) - 1
    size = max(past, 1) + lags
    offset = max(past, 1)
    transition, impulse = np.zeros((size, size)), np.zeros(size)
    transition[0, :past] = -weights
    transition[0, offset:] = directions[1:]
    impulse[0] = directions[0]
    for i in range(1, offset):
        transition[i, i - 1] = 1.0
    if lags:
        impulse[offset] = 1.0
        for i in range(1, lags):
            transition[offset + i, offset + i - 1] = 1.0
    square = np.eye(size * size) - np.kron(transition, transition)
    covariance = np.linalg.solve(square, np.kron(impulse, impulse)).reshape(size, size)
    return float(covariance[0, 0])


@properties.memory.register
def _(scheme: LinearMultistep) -> int:
    return sum(scheme.history_lengths)


EULER = LinearMultistep(a=(1,), b=(1,), name="Euler (gradient descent)")
"""Gradient descent, the first rung of every ladder."""
