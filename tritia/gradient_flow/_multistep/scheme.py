r"""Linear multistep schemes and their properties.

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

from tritia.gradient_flow._coefficient import Coefficient, coefficient
from tritia.gradient_flow._multistep import roots, taylor_conditions
from tritia.gradient_flow._multistep.uneven_steps import MAX_GROWTH, last_stable_ratio
from tritia.gradient_flow._properties import Scheme


@dataclasses.dataclass(frozen=True)
class LinearMultistep(Scheme):
    r"""A linear multistep scheme :math:`w_{t+1} = \sum_j a_j w_{t-j} + h \sum_j b_j f_{t-j}`.

    The scheme checks itself when it is built: it must be consistent, satisfy the root condition
    (zero-stability) and have a stability interval that is not empty. Its properties are those of
    every `Scheme`.

    Attributes:
      a: weights of the points :math:`w_t, w_{t-1}, \ldots`; they add to 1. Integers, fractions and
        strings such as ``"4/3"`` are kept exactly, floats as floats.
      b: weights of the directions :math:`f_t, f_{t-1}, \ldots`, in units of the step size.
      name: what to call it.
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
      >>> scheme.order, scheme.error_constant
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
        radius, multiple = roots.parasitic_roots(self.displacement_weights)
        if radius > 1 + roots.CIRCLE or multiple:
            defect = (
                f"the largest parasitic root has modulus {radius:.6g} > 1"
                if radius > 1 + roots.CIRCLE
                else "a root on the unit circle is multiple"
            )
            raise ValueError(f"{self.name}: zero-unstable: the root condition fails: {defect}.")
        if self.stability_interval <= 0.0:
            raise ValueError(
                f"{self.name}: the stability interval is empty: a root leaves the unit disc at"
                " every positive h * curvature, so training diverges at any learning rate."
            )

    @property
    def steps(self) -> int:
        """k, the number of past points or directions that a step reads."""
        return max(len(self.a), len(self.b))

    @functools.cached_property
    def family(self) -> tuple[LinearMultistep, ...]:
        """The scheme, its starters and gradient descent, from most to fewest steps.

        While there is too little history, or too uneven a history, a member with fewer steps takes
        the scheme's place.
        """
        family: list[LinearMultistep] = [self]
        while family[-1].starter is not None:
            family.append(family[-1].starter)
        if family[-1].steps > 1:
            family.append(EULER)
        return tuple(family)

    @property
    def history_lengths(self) -> tuple[int, int]:
        """How many past displacements and past directions the scheme and its starters read."""
        return (
            max(len(member.a) - 1 for member in self.family),
            max(len(member.b) - 1 for member in self.family),
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

    @functools.cached_property
    def order(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The order of accuracy, the largest for which all Taylor conditions hold."""
        degree = 1
        while taylor_conditions.holds(self.a, self.b, degree + 1):
            degree += 1
        return degree

    @property
    def memory(self) -> int:
        """Copies of the params that the state keeps: past displacements and past directions."""
        return sum(self.history_lengths)

    def _characteristic_roots(self, x: np.ndarray) -> np.ndarray:
        return roots.characteristic_roots(*_split(self), x)

    def _error_constant(self) -> Coefficient:
        degree = self.order + 1
        residual = taylor_conditions.residual(self.a, self.b, degree)
        return residual / math.factorial(degree) / sum(self.b, Fraction(0))

    def _interval(self, radius: float, start: float) -> float:
        return roots.interval(*_split(self), radius=radius, start=start)

    def _parasitic_radius(self) -> float:
        return roots.parasitic_roots(self.displacement_weights)[0]

    def _growth_limit(self) -> float:
        ratios = np.linspace(1.0, MAX_GROWTH, 101)
        limit = last_stable_ratio(*arranged(self, self.steps), self.order, ratios)
        return MAX_GROWTH if limit is None else limit

    def _shrink_limit(self) -> float:
        ratios = np.geomspace(1.0, 0.01, 101)
        limit = last_stable_ratio(*arranged(self, self.steps), self.order, ratios)
        return 0.0 if limit is None else limit

    def _noise_gain(self) -> float:
        if self.parasitic_radius >= 1 - roots.CIRCLE:
            return math.inf
        # State: the past displacements and the past impulses; P solves P = F P F^T + G G^T.
        weights = np.array([float(x) for x in self.displacement_weights])
        directions = np.array([float(x) for x in self.b])
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


def arranged(scheme: LinearMultistep, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients (a, b), each filled up with zeros to `steps` entries, and which are free."""
    x, free = np.zeros((2, steps)), np.zeros((2, steps), bool)
    for row, values in enumerate((scheme.a, scheme.b)):
        x[row, : len(values)] = [float(value) for value in values]
        free[row, : len(values)] = True
    return x.ravel(), free.ravel()


def _split(scheme: LinearMultistep) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.split(arranged(scheme, scheme.steps)[0], 2)
    return a, b


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


EULER = LinearMultistep(a=(1,), b=(1,), name="Euler (gradient descent)")
"""Gradient descent, the last member of every family."""
