r"""Linear multistep schemes: where their numbers come from, and what they promise.

A scheme advances the gradient flow :math:`w' = f(w)`, :math:`f = -\nabla L`, by one step of size
:math:`h` (the learning rate) from :math:`k` past points and :math:`k` past gradients:

.. math::

  w_{t+1} = \sum_{j=0}^{k-1} a_j w_{t-j} + h \sum_{j=0}^{k-1} b_j f_{t-j}

Nothing here is typed in from a table: the coefficients solve the Taylor conditions in exact
rational arithmetic, and order, error, stability and noise are computed from the coefficients.
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

from tritia._arguments import check_number, check_static_int
from tritia.gradient_flow import promises, stability

Coefficient = Fraction | float

# Floating-point coefficients satisfy a condition when its residual is below this, relative to the
# sum of the sizes of its terms. Exact coefficients satisfy it exactly.
_TOLERANCE = 1e-12


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
            residual = _residual(self, degree)
            if not _vanishes(residual, _size(self, degree)):
                condition = "sum a_j = 1" if degree == 0 else "sum b_j = 1 + sum j a_j"
                raise ValueError(
                    f"{self.name}: inconsistent: the condition {condition} fails by"
                    f" {float(-residual):.6g}."
                )
        radius, multiple = stability.parasitic_radius(self)
        if radius > 1 + stability.CIRCLE or multiple:
            defect = (
                f"the largest parasitic root has modulus {radius:.6g} > 1"
                if radius > 1 + stability.CIRCLE
                else "a root on the unit circle is multiple"
            )
            raise ValueError(f"{self.name}: zero-unstable: the root condition fails: {defect}.")
        if promises.stability_interval(self) <= 0.0:
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
            ladder.append(adams_bashforth_scheme(1))
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
    """Makes coefficients exact where they are rational, and drops zeros at the end."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, (str, numbers.Number)) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of numbers; got {values!r}.")
    exact: list[Coefficient] = []
    for value in values:
        if isinstance(value, (numbers.Rational, str)) and not isinstance(value, bool):
            try:
                exact.append(Fraction(value))
            except (ValueError, ZeroDivisionError) as error:
                raise TypeError(f"{name} must hold numbers; got {value!r}.") from error
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError(f"{name} must hold finite numbers; got {value!r}.")
            exact.append(float(value))
        else:
            raise TypeError(f"{name} must hold numbers; got {value!r}.")
    while len(exact) > 1 and exact[-1] == 0:
        exact.pop()
    if not exact or all(value == 0 for value in exact):
        raise ValueError(f"{name} must hold a coefficient that is not zero; got {values!r}.")
    return tuple(exact)


# --- Taylor conditions ---


def taylor_row(degree: int, times_a: Sequence[Any], times_b: Sequence[Any]) -> list[Any]:
    r"""The left-hand side of one Taylor condition, one entry per coefficient of (a, b).

    A scheme is exact for :math:`w(s) = s^q` when
    :math:`\sum_j a_j s_j^q + q \sum_j b_j s_j^{q-1} = 1`, where :math:`s_j` is the time of the
    point :math:`w_{t-j}` in units of :math:`h_t`, with :math:`s_0 = 0` and the new point at 1. For
    equal steps :math:`s_j = -j`.

    Args:
      degree: q.
      times_a: the times at which the a are used.
      times_b: the times at which the b are used.

    Returns:
      The entries :math:`s_j^q` for a, then :math:`q s_j^{q-1}` for b.
    """
    row = [s**degree for s in times_a]
    return row + [0 * s if degree == 0 else degree * s ** (degree - 1) for s in times_b]


def _terms(scheme: LinearMultistep, degree: int) -> list[Coefficient]:
    times_a = [Fraction(-j) for j in range(len(scheme.a))]
    times_b = [Fraction(-j) for j in range(len(scheme.b))]
    row = taylor_row(degree, times_a, times_b)
    return [entry * x for entry, x in zip(row, scheme.a + scheme.b, strict=True)]


def _residual(scheme: LinearMultistep, degree: int) -> Coefficient:
    return 1 - sum(_terms(scheme, degree), Fraction(0))


def _size(scheme: LinearMultistep, degree: int) -> float:
    return 1.0 + sum(abs(float(term)) for term in _terms(scheme, degree))


def _vanishes(residual: Coefficient, size: float) -> bool:
    if isinstance(residual, Fraction):
        return residual == 0
    return abs(residual) <= _TOLERANCE * size


def derive_scheme(
    order: int,
    a: Sequence[Coefficient | str | None],
    b: Sequence[Coefficient | str | None],
    *,
    name: str = "linear multistep",
    starter: LinearMultistep | None = None,
) -> LinearMultistep:
    r"""Solves the Taylor conditions exactly for the coefficients that are left open.

    The scheme is of order p when :math:`\sum_j a_j (-j)^q + q \sum_j b_j (-j)^{q-1} = 1` for
    :math:`q = 0, \ldots, p`: p + 1 linear equations, so p + 1 coefficients are left open as None.

    Args:
      order: p, at least 1.
      a: weights of the points, None where they are to be found.
      b: weights of the directions, None where they are to be found.
      name: the scheme's name.
      starter: the scheme that takes the first steps.

    Returns:
      The scheme; exact fractions if the given coefficients are.

    Raises:
      ValueError: the number of open coefficients is not p + 1, the conditions have no unique
        solution, or the scheme that solves them is unstable (see `LinearMultistep`).

    References:
      Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 1993, section III.2.

    Examples:
      The two-step Adams-Bashforth scheme, and a difference scheme that reads one gradient:

      >>> import tritia
      >>> tritia.derive_scheme(2, a=(1,), b=(None, None)).b
      Traceback (most recent call last):
      ...
      ValueError: order 2 gives 3 conditions, so 3 coefficients must be None; got 2.
      >>> tritia.derive_scheme(2, a=(None,), b=(None, None)).b
      (Fraction(3, 2), Fraction(-1, 2))
      >>> tritia.derive_scheme(2, a=(None, None, "1/3"), b=(None,)).a
      (Fraction(1, 1), Fraction(-1, 3), Fraction(1, 3))
    """
    check_static_int("order", order, minimum=1)
    given = [None if x is None else _coefficients("a and b", (x, 1))[0] for x in (*a, *b)]
    open_slots = [i for i, x in enumerate(given) if x is None]
    if len(open_slots) != order + 1:
        raise ValueError(
            f"order {order} gives {order + 1} conditions, so {order + 1} coefficients must be None;"
            f" got {len(open_slots)}."
        )
    times_a = [Fraction(-j) for j in range(len(a))]
    times_b = [Fraction(-j) for j in range(len(b))]
    matrix, right = [], []
    for degree in range(order + 1):
        row = taylor_row(degree, times_a, times_b)
        matrix.append([row[i] for i in open_slots])
        known = sum((e * x for e, x in zip(row, given, strict=True) if x is not None), Fraction(0))
        right.append(1 - known)
    for slot, x in zip(open_slots, _solve_exactly(matrix, right), strict=True):
        given[slot] = x
    found = [x for x in given if x is not None]
    return LinearMultistep(
        a=tuple(found[: len(a)]), b=tuple(found[len(a) :]), name=name, starter=starter
    )


def _solve_exactly(matrix: list[list[Any]], right: list[Any]) -> list[Any]:
    """Gaussian elimination with pivoting, in whatever arithmetic the entries have."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        if rows[pivot][column] == 0:
            raise ValueError(
                "the Taylor conditions have no unique solution for these coefficients."
            )
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for i in range(size):
            if i != column:
                factor = rows[i][column] / rows[column][column]
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[column], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]


# --- What a scheme promises ---


@promises.order.register
def _(scheme: LinearMultistep) -> int:
    degree = 1
    while _vanishes(_residual(scheme, degree + 1), _size(scheme, degree + 1)):
        degree += 1
    return degree


@promises.error_constant.register
def _(scheme: LinearMultistep) -> Coefficient:
    degree = promises.order(scheme) + 1
    total = sum(scheme.b, Fraction(0))
    return _residual(scheme, degree) / math.factorial(degree) / total


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
    return stability.parasitic_radius(scheme)[0]


@promises.stability_interval.register
def _(scheme: LinearMultistep) -> float:
    return stability.interval(scheme, radius=1.0, start=0.0)


@promises.damped_interval.register
def _(scheme: LinearMultistep, radius: float = 0.98, start: float = 0.1) -> float:
    check_number("radius", radius, minimum=0, maximum=1, exclusive_minimum=True, schedule=False)
    check_number("start", start, minimum=0, schedule=False)
    return stability.interval(scheme, radius=radius, start=start)


@promises.amplification.register
def _(scheme: LinearMultistep, z: Any) -> np.ndarray:
    return np.max(np.abs(stability.characteristic_roots(scheme, -np.asarray(z))), axis=-1)


@promises.noise_gain.register
def _(scheme: LinearMultistep) -> float:
    if stability.parasitic_radius(scheme)[0] >= 1 - stability.CIRCLE:
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


@promises.memory.register
def _(scheme: LinearMultistep) -> int:
    return sum(scheme.history_lengths)


# --- Families ---


def adams_bashforth_scheme(order: int) -> LinearMultistep:
    r"""The Adams-Bashforth scheme: :math:`w_{t+1} = w_t + h \sum_j b_j f_{t-j}`, order gradients.

    Args:
      order: p = k, 1 to 5; 1 is gradient descent.

    Returns:
      The scheme; the first steps are taken by the lower orders.

    Raises:
      TypeError: `order` is not a Python int.
      ValueError: `order` is not allowed.

    References:
      Bashforth, Adams 1883; Hairer, Norsett, Wanner 1993, equation III.1.5.

    Examples:
      >>> import tritia
      >>> tritia.adams_bashforth_scheme(3).b
      (Fraction(23, 12), Fraction(-4, 3), Fraction(5, 12))
    """
    order = check_static_int("order", order, minimum=1, maximum=5)
    starter = adams_bashforth_scheme(order - 1) if order > 1 else None
    name = f"Adams-Bashforth {order}" if order > 1 else "Euler (gradient descent)"
    return derive_scheme(order, a=(None,), b=(None,) * order, name=name, starter=starter)


def bdf_scheme(order: int) -> LinearMultistep:
    r"""The extrapolated backward differentiation formula (BDF): past points and past gradients.

    BDF matches the slope of the polynomial through :math:`w_{t+1}, w_t, \ldots` with
    :math:`f_{t+1}`; the gradient there is not known yet and is extrapolated from the past ones,
    :math:`f_{t+1} \approx \sum_j (-1)^j \binom{p}{j+1} f_{t-j}`.

    Args:
      order: p = k, 1 to 5; 1 is gradient descent.

    Returns:
      The scheme; the first steps are taken by the lower orders.

    Raises:
      TypeError: `order` is not a Python int.
      ValueError: `order` is not allowed.

    References:
      Curtiss, Hirschfelder 1952; Crouzeix 1980 and Varah 1980 for the extrapolation.

    Examples:
      >>> import tritia
      >>> scheme = tritia.bdf_scheme(2)
      >>> [str(x) for x in scheme.a], [str(x) for x in scheme.b]
      (['4/3', '-1/3'], ['4/3', '-2/3'])
    """
    order = check_static_int("order", order, minimum=1, maximum=5)
    times_a = [Fraction(-j) for j in range(order)]
    matrix = [taylor_row(degree, times_a, [Fraction(1)]) for degree in range(order + 1)]
    *a, implicit = _solve_exactly(matrix, [Fraction(1)] * (order + 1))
    b = [implicit * (-1) ** j * math.comb(order, j + 1) for j in range(order)]
    starter = bdf_scheme(order - 1) if order > 1 else None
    name = f"extrapolated BDF {order}" if order > 1 else "Euler (gradient descent)"
    return LinearMultistep(a=tuple(a), b=tuple(b), name=name, starter=starter)


# (order, steps) -> the weights a_p, ..., a_{k-1} that are free once the Taylor conditions hold. The
# first keeps the whole stability interval of gradient descent; the others maximise the damped
# interval, to six decimals of each weight. notebooks/stable_difference_schemes.ipynb derives them.
_FREE_WEIGHTS: dict[tuple[int, int], tuple[str, ...]] = {
    (2, 3): ("1/3",),
    (2, 4): ("0.022367", "0.186258"),
    (2, 5): ("-0.116269", "0.015265", "0.127065"),
    (2, 6): ("0.000695", "-0.086373", "0.011347", "0.094403"),
    (3, 4): ("-0.233759",),
    (3, 5): ("0.168236", "-0.149132"),
    (3, 6): ("0.272831", "0.066611", "-0.108595"),
}

DIFFERENCE_SCHEMES = tuple(sorted(_FREE_WEIGHTS))
"""The (order, steps) pairs that `difference_scheme` offers."""


def difference_scheme(order: int = 2, steps: int = 3) -> LinearMultistep:
    r"""A difference scheme: one gradient, and a high-order difference quotient over past points.

    :math:`w_{t+1} = \sum_j a_j w_{t-j} + h b_0 f_t`. The order conditions leave k - p weights free;
    they are chosen to bear the largest learning rate. The scheme of order 2 with 3 steps,
    :math:`a = (1, -1/3, 1/3)`, :math:`b = 4/3`, is an order more accurate than gradient descent and
    stable at the same learning rates; more steps bear larger ones.

    Args:
      order: p, 2 or 3.
      steps: k, 3 to 6 at order 2 and 4 to 6 at order 3; `DIFFERENCE_SCHEMES` lists the pairs.

    Returns:
      The scheme; the first steps are taken by gradient descent and by schemes with fewer steps.

    Raises:
      TypeError: an argument is not a Python int.
      ValueError: there is no such scheme.

    References:
      Ma et al., Enhancing Deep Learning with Optimized Gradient Descent, arXiv:2409.04707, 2024,
      for the idea; the weights are derived in notebooks/stable_difference_schemes.ipynb.

    Examples:
      >>> import tritia
      >>> scheme = tritia.difference_scheme(order=2, steps=3)
      >>> [str(x) for x in scheme.a], [str(x) for x in scheme.b]
      (['1', '-1/3', '1/3'], ['4/3'])
      >>> round(tritia.stability_interval(scheme), 9)
      2.0
    """
    order = check_static_int("order", order)
    steps = check_static_int("steps", steps)
    if (order, steps) not in _FREE_WEIGHTS:
        pairs = ", ".join(f"({p}, {k})" for p, k in DIFFERENCE_SCHEMES)
        raise ValueError(f"(order, steps) is ({order}, {steps}); allowed: {pairs}.")
    # Order 2 is what an Euler start leaves anyway, and its schemes bear the larger learning rates.
    starter = difference_scheme(2, steps - 1) if steps > 3 else None
    return derive_scheme(
        order,
        a=(None,) * order + _FREE_WEIGHTS[order, steps],
        b=(None,),
        name=f"difference, order {order}, {steps} steps",
        starter=starter,
    )


def heavy_ball_scheme(momentum: float | Fraction | str) -> LinearMultistep:
    r"""Polyak's heavy ball as a scheme: :math:`a = (1 + m, -m)`, :math:`b = 1 - m`.

    It is consistent in the rescaled time: ``optax.sgd(h, momentum=m)`` is this scheme with steps of
    size :math:`h / (1 - m)`, from the first step on.

    Args:
      momentum: m, in [0, 1).

    Returns:
      The scheme, of order 1; it starts from a point at rest.

    Raises:
      TypeError: `momentum` is not a number.
      ValueError: `momentum` is not in [0, 1).

    References:
      Polyak 1964; Scieur et al., Integration Methods and Accelerated Optimization Algorithms, 2017.

    Examples:
      >>> import tritia
      >>> scheme = tritia.heavy_ball_scheme("9/10")
      >>> round(tritia.stability_interval(scheme), 6)  # steps of h / (1 - m): 2 (1 + m) / (1 - m)
      38.0
    """
    (m,) = _coefficients("momentum", (momentum, 1))[:1]
    check_number("momentum", float(m), minimum=0, maximum=1, exclusive_maximum=True, schedule=False)
    return LinearMultistep(
        a=(1 + m, -m), b=(1 - m,), name=f"heavy ball {float(m):g}", from_rest=True
    )
