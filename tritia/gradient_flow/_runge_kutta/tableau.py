"""The Butcher tableau of an explicit Runge-Kutta method and its properties.

A tableau checks itself when it is built, in exact rational arithmetic where its coefficients are
rational.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from tritia._arguments import check_static_int
from tritia.gradient_flow._coefficient import Coefficient, coefficient
from tritia.gradient_flow._properties import Scheme
from tritia.gradient_flow._runge_kutta.order_conditions import (
    condition,
    elementary_weight,
    order_defect,
    rooted_trees,
    symmetry,
)
from tritia.gradient_flow._runge_kutta.stability_polynomial import evaluate, stable_up_to
from tritia.gradient_flow._runge_kutta.stage_memory import StageMemory, stage_memory

ROUNDING = 1e-14
"""By how much a condition may be missed, per unit of its terms, where coefficients are floats."""


@dataclasses.dataclass(frozen=True)
class ButcherTableau(Scheme):
    r"""An explicit Runge-Kutta method, checked on construction.

    For w' = f(w) one step of size h is

    .. math::
      k_i = f\Big(w_t + h \sum_{j<i} a_{ij} k_j\Big), \qquad w_{t+1} = w_t + h \sum_i b_i k_i .

    Rational coefficients (`int`, `fractions.Fraction`) are checked exactly; as soon as one is a
    float, conditions may be missed by rounding. The properties are those of every `Scheme`.

    >>> import tritia
    >>> from fractions import Fraction
    >>> tableau = ButcherTableau("my midpoint", a=((), (Fraction(1, 2),)), b=(0, 1),
    ...                          c=(0, Fraction(1, 2)), order=2)
    >>> tableau.stability_interval
    2.0
    >>> ButcherTableau("broken", a=((), (1,)), b=(Fraction(1, 4), Fraction(3, 4)), c=(0, 1),
    ...                order=2)
    Traceback (most recent call last):
      ...
    ValueError: broken: b misses the order-2 condition sum_i b_i c_i = 1/2 by 1/4.

    Attributes:
      name: what to call it.
      a: row i holds the coefficients of the stages before i: rows of length 0, 1, ..., s - 1.
      b: the s weights.
      c: the s nodes, the row sums of `a`.
      order: the order p that `b` reaches.
      b_embedded: a second set of weights, whose difference from `b` estimates the error, or None.
      embedded_order: the order that `b_embedded` reaches, or None.
      source: where the coefficients were published.

    Raises:
      ValueError: the method is not explicit, lengths do not match, a row sum or an order condition
        is missed, a coefficient is not finite, an order is below 1, `b_embedded` equals `b`, or
        one of `b_embedded` and `embedded_order` is given alone.
      TypeError: a coefficient is not a number, or an order is not an int.
    """

    name: str
    a: tuple[tuple[Coefficient, ...], ...]
    b: tuple[Coefficient, ...]
    c: tuple[Coefficient, ...]
    order: int
    b_embedded: tuple[Coefficient, ...] | None = None
    embedded_order: int | None = None
    source: str = ""

    def __post_init__(self):
        """Checks the tableau: explicit, row sums, order conditions."""
        a = tuple(
            tuple(coefficient(f"{self.name}: a[{i}][{j}]", x) for j, x in enumerate(row))
            for i, row in enumerate(self.a)
        )
        object.__setattr__(self, "a", a)
        for field in ("b", "c", "b_embedded"):
            row = getattr(self, field)
            if row is not None:
                row = tuple(coefficient(f"{self.name}: {field}[{i}]", x) for i, x in enumerate(row))
                object.__setattr__(self, field, row)
        check_static_int("order", self.order, minimum=1)
        self._check_shape()
        for i, (row, c) in enumerate(zip(self.a, self.c, strict=True)):
            missed = _missed(sum(row, Fraction(0)) - c, row)
            if missed:
                raise ValueError(
                    f"{self.name}: the row sum c[{i}] = sum_j a[{i}][j] is missed by {missed}."
                )
        self._check_order("b", self.b, self.order)
        if self.b_embedded is not None and self.embedded_order is not None:
            if self.b_embedded == self.b:
                raise ValueError(
                    f"{self.name}: b_embedded equals b, so their difference estimates no error."
                )
            self._check_order("b_embedded", self.b_embedded, self.embedded_order)

    def _check_shape(self):
        s = len(self.b)
        if s == 0:
            raise ValueError(f"{self.name}: b is empty; a method has at least one stage.")
        lengths = {"a": len(self.a), "c": len(self.c)}
        if self.b_embedded is not None:
            lengths["b_embedded"] = len(self.b_embedded)
        for field, length in lengths.items():
            if length != s:
                raise ValueError(f"{self.name}: {field} has {length} rows, but b has {s} stages.")
        for i, row in enumerate(self.a):
            if len(row) != i:
                raise ValueError(
                    f"{self.name}: not explicit. Row {i} of a must hold the {i} coefficients of the"
                    f" stages before it; it holds {len(row)}."
                )
        if (self.b_embedded is None) != (self.embedded_order is None):
            raise ValueError(f"{self.name}: give b_embedded and embedded_order together, or none.")
        if self.embedded_order is not None:
            check_static_int("embedded_order", self.embedded_order, minimum=1)

    def _check_order(self, field: str, weights: tuple[Coefficient, ...], order: int):
        for p in range(1, order + 1):
            for tree in rooted_trees(p):
                missed = _missed(order_defect(tree, self.a, weights), weights)
                if missed:
                    formula = condition(tree).replace("b_i", f"{field}_i")
                    raise ValueError(
                        f"{self.name}: {field} misses the order-{p} condition {formula}"
                        f" by {missed}."
                    )

    @property
    def stages(self) -> int:
        """The number of stages s."""
        return len(self.b)

    @property
    def gradients_per_step(self) -> int:
        """Gradients that a step of fixed size costs: last stages with b_i = 0 are not taken."""
        return max(i + 1 for i, weight in enumerate(self.b) if weight != 0)

    @functools.cached_property
    def stage_memory(self) -> StageMemory:
        """What the stages of a step of fixed size lead to and keep."""
        count = self.gradients_per_step
        return stage_memory(self.a[:count], self.b[:count])

    @property
    def memory(self) -> int:
        """Copies of the params in the transparent state: the starting point, and between stages."""
        return 0 if self.gradients_per_step == 1 else 1 + self.stage_memory.slots

    @functools.cached_property
    def stability_polynomial(self) -> tuple[Coefficient, ...]:
        """Coefficients of R, constant term first, where w' = lambda w takes w to R(h lambda) w."""
        polynomial: list[Coefficient] = [Fraction(1)]
        tall = ()  # the tree whose nodes stand in a line: its weight is b A^(k-1) 1
        for _ in range(self.gradients_per_step):
            polynomial.append(elementary_weight(tall, self.a, self.b))
            tall = (tall,)
        while polynomial[-1] == 0:
            polynomial.pop()
        return tuple(polynomial)

    @functools.cached_property
    def principal_error_norm(self) -> float:
        """The Euclidean norm of the coefficients of h^(p+1): a step's error on nonlinear problems.

        Each rooted tree of p + 1 nodes contributes its order condition's defect over its symmetry.
        `error_constant` is the same for linear problems, where one tree counts.
        """
        defects = [
            float(order_defect(tree, self.a, self.b)) / symmetry(tree)
            for tree in rooted_trees(self.order + 1)
        ]
        return math.hypot(*defects)

    def _characteristic_roots(self, x: np.ndarray) -> np.ndarray:
        return evaluate(self.stability_polynomial, -np.asarray(x, complex))[..., None]

    def _error_constant(self) -> Coefficient:
        # The coefficient of z^(p+1) in exp(z) - R(z), as for multistep schemes: 1/2 for Euler.
        degree = self.order + 1
        polynomial = (*self.stability_polynomial, *[Fraction(0)] * degree)
        return Fraction(1, math.factorial(degree)) - polynomial[degree]

    def _interval(self, radius: float, start: float) -> float:
        return stable_up_to(self.stability_polynomial, bound=radius, start=start)

    def _noise_gain(self) -> float:
        # At least 1/s, which averaging s gradients gives.
        return float(sum(weight * weight for weight in self.b))


def _missed(defect: Coefficient, terms: Iterable[Coefficient]) -> str | None:
    """Says by how much a condition is missed, or None where it holds."""
    if isinstance(defect, Fraction):
        return str(abs(defect)) if defect else None
    allowed = ROUNDING * max(1.0, sum(abs(float(x)) for x in terms))
    return f"{abs(defect):.3g}" if abs(defect) > allowed else None
