"""Butcher tableaus of explicit Runge-Kutta methods, each with what it promises.

A tableau checks itself when it is built, in exact rational arithmetic where its coefficients are
rational, and reports its order, error and stability from its coefficients alone.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from fractions import Fraction
from typing import Any

from tritia._arguments import check_choice, check_static_int
from tritia.gradient_flow import order_conditions
from tritia.gradient_flow.order_conditions import Coefficient
from tritia.gradient_flow.stability_polynomial import stable_up_to

ROUNDING = 1e-14
"""By how much a condition may be missed, per unit of its terms, where coefficients are floats."""


@dataclasses.dataclass(frozen=True)
class ButcherTableau:
    r"""An explicit Runge-Kutta method, checked on construction.

    For w' = f(w) one step of size h is

    .. math::
      k_i = f\Big(w_t + h \sum_{j<i} a_{ij} k_j\Big), \qquad w_{t+1} = w_t + h \sum_i b_i k_i .

    Rational coefficients (`int`, `fractions.Fraction`) are checked exactly; as soon as one is a
    float, conditions may be missed by `ROUNDING`.

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
            tuple(_coefficient(f"{self.name}: a[{i}][{j}]", x) for j, x in enumerate(row))
            for i, row in enumerate(self.a)
        )
        object.__setattr__(self, "a", a)
        for field in ("b", "c", "b_embedded"):
            row = getattr(self, field)
            if row is not None:
                row = tuple(
                    _coefficient(f"{self.name}: {field}[{i}]", x) for i, x in enumerate(row)
                )
                object.__setattr__(self, field, row)
        check_static_int("order", self.order, minimum=1)
        self._check_shape()
        for i, (row, c) in enumerate(zip(self.a, self.c, strict=True)):
            self._check(sum(row, Fraction(0)) - c, row, f"the row sum c[{i}] = sum_j a[{i}][j]")
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

    def _check(self, defect: Coefficient, terms: Any, what: str):
        exact = isinstance(defect, Fraction)
        allowed = 0 if exact else ROUNDING * max(1.0, sum(abs(float(x)) for x in terms))
        if abs(defect) > allowed:
            missed = str(abs(defect)) if exact else f"{abs(defect):.3g}"
            raise ValueError(f"{self.name}: {what} is missed by {missed}.")

    def _check_order(self, field: str, weights: tuple[Coefficient, ...], order: int):
        for p in range(1, order + 1):
            for tree in order_conditions.rooted_trees(p):
                defect = order_conditions.order_defect(tree, self.a, weights)
                if isinstance(defect, Fraction):
                    allowed, missed = Fraction(0), str(abs(defect))
                else:
                    allowed = ROUNDING * max(1.0, sum(abs(float(x)) for x in weights))
                    missed = f"{abs(defect):.3g}"
                if abs(defect) > allowed:
                    formula = order_conditions.condition(tree).replace("b_i", f"{field}_i")
                    raise ValueError(
                        f"{self.name}: {field} misses the order-{p} condition {formula}"
                        f" by {missed}."
                    )

    @property
    def stages(self) -> int:
        """The number of stages s."""
        return len(self.b)

    @property
    def exact(self) -> bool:
        """Whether every coefficient is rational."""
        rows = (*self.a, self.b, self.c, self.b_embedded or ())
        return all(isinstance(x, Fraction) for row in rows for x in row)

    @property
    def gradients_per_step(self) -> int:
        """Gradients that a step of fixed size costs: last stages with b_i = 0 are not taken."""
        return max(i + 1 for i, weight in enumerate(self.b) if weight != 0)

    @property
    def stability_polynomial(self) -> tuple[Coefficient, ...]:
        """Coefficients of R, constant term first, where w' = lambda w gives R(h lambda) w."""
        polynomial: list[Coefficient] = [Fraction(1)]
        tall = ()  # the tree whose nodes stand in a line: its weight is b A^(k-1) 1
        for _ in range(self.gradients_per_step):
            polynomial.append(order_conditions.elementary_weight(tall, self.a, self.b))
            tall = (tall,)
        while polynomial[-1] == 0:
            polynomial.pop()
        return tuple(polynomial)

    @property
    def stability_interval(self) -> float:
        """The largest X with abs(R(-x)) <= 1 for all x in [0, X]."""
        return stable_up_to(self.stability_polynomial)

    @property
    def damped_interval(self) -> float:
        """The largest X with abs(R(-x)) <= 0.98 for all x in [0.1, X]."""
        return stable_up_to(self.stability_polynomial, bound=0.98, start=0.1)

    @property
    def error_constant(self) -> Coefficient:
        """The coefficient of z^(p+1) in exp(z) - R(z): the error on linear problems.

        The same convention as for multistep schemes: 1/2 for Euler.
        """
        polynomial, p = self.stability_polynomial, self.order
        reached = polynomial[p + 1] if len(polynomial) > p + 1 else Fraction(0)
        return Fraction(1, math.factorial(p + 1)) - reached

    @property
    def principal_error_norm(self) -> float:
        """The Euclidean norm of the coefficients of h^(p+1): the error on nonlinear problems.

        Each rooted tree of p + 1 nodes contributes its order condition's defect over its symmetry.
        """
        return math.sqrt(
            sum(
                float(order_conditions.order_defect(tree, self.a, self.b)) ** 2
                / order_conditions.symmetry(tree) ** 2
                for tree in order_conditions.rooted_trees(self.order + 1)
            )
        )

    @property
    def noise_gain(self) -> Coefficient:
        """sum b_i^2: the step's response to noise that is independent from stage to stage.

        That is the transparent mode with a fresh minibatch at each stage: noise of variance v in
        the gradient moves the params by a variance of noise_gain h^2 v to lowest order in h. It is
        at least 1/s, which averaging s gradients gives. In opaque mode all stages see one
        minibatch; then the gain is (sum b_i)^2 = 1, as for Euler.
        """
        return sum((weight * weight for weight in self.b), Fraction(0))


def _coefficient(name: str, value: Any) -> Coefficient:
    """Returns a coefficient as an exact Fraction, or as a float where it was one."""
    if isinstance(value, (bool,)) or not isinstance(value, (numbers.Rational, float)):
        raise TypeError(
            f"{name} must be an int, a fractions.Fraction or a float; got {value!r} of type"
            f" {type(value).__name__}."
        )
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}; allowed: a finite number.")
        return float(value)
    return Fraction(value)


def _fractions(text: str) -> tuple[Fraction, ...]:
    """Reads a row of rational coefficients."""
    return tuple(map(Fraction, text.split()))


EULER = ButcherTableau(
    "euler",
    a=((),),
    b=(1,),
    c=(0,),
    order=1,
    source="Euler, Institutiones calculi integralis, 1768",
)

MIDPOINT = ButcherTableau(
    "midpoint",
    a=((), _fractions("1/2")),
    b=_fractions("0 1"),
    c=_fractions("0 1/2"),
    order=2,
    b_embedded=_fractions("1 0"),
    embedded_order=1,
    source="Runge, Math. Ann. 46, 1895",
)

HEUN = ButcherTableau(
    "heun",
    a=((), _fractions("1")),
    b=_fractions("1/2 1/2"),
    c=_fractions("0 1"),
    order=2,
    b_embedded=_fractions("1 0"),
    embedded_order=1,
    source="Heun, Z. Math. Phys. 45, 1900",
)

RALSTON = ButcherTableau(
    "ralston",
    a=((), _fractions("2/3")),
    b=_fractions("1/4 3/4"),
    c=_fractions("0 2/3"),
    order=2,
    b_embedded=_fractions("1 0"),
    embedded_order=1,
    source="Ralston, Math. Comp. 16, 1962: least error bound of the methods with two stages",
)

SSP_RK3 = ButcherTableau(
    "ssp_rk3",
    a=((), _fractions("1"), _fractions("1/4 1/4")),
    b=_fractions("1/6 1/6 2/3"),
    c=_fractions("0 1 1/2"),
    order=3,
    source="Shu, Osher, J. Comput. Phys. 77, 1988: strong-stability preserving",
)

KUTTA3 = ButcherTableau(
    "kutta3",
    a=((), _fractions("1/2"), _fractions("-1 2")),
    b=_fractions("1/6 2/3 1/6"),
    c=_fractions("0 1/2 1"),
    order=3,
    source="Kutta, Z. Math. Phys. 46, 1901",
)

RK4 = ButcherTableau(
    "rk4",
    a=((), _fractions("1/2"), _fractions("0 1/2"), _fractions("0 0 1")),
    b=_fractions("1/6 1/3 1/3 1/6"),
    c=_fractions("0 1/2 1/2 1"),
    order=4,
    source="Kutta, Z. Math. Phys. 46, 1901: the classical method",
)

RK38 = ButcherTableau(
    "rk38",
    a=((), _fractions("1/3"), _fractions("-1/3 1"), _fractions("1 -1 1")),
    b=_fractions("1/8 3/8 3/8 1/8"),
    c=_fractions("0 1/3 2/3 1"),
    order=4,
    source="Kutta, Z. Math. Phys. 46, 1901: the 3/8 rule",
)

BOGACKI_SHAMPINE = ButcherTableau(
    "bogacki_shampine",
    a=((), _fractions("1/2"), _fractions("0 3/4"), _fractions("2/9 1/3 4/9")),
    b=_fractions("2/9 1/3 4/9 0"),
    c=_fractions("0 1/2 3/4 1"),
    order=3,
    b_embedded=_fractions("7/24 1/4 1/3 1/8"),
    embedded_order=2,
    source="Bogacki, Shampine, Appl. Math. Lett. 2, 1989",
)

DORMAND_PRINCE = ButcherTableau(
    "dormand_prince",
    a=(
        (),
        _fractions("1/5"),
        _fractions("3/40 9/40"),
        _fractions("44/45 -56/15 32/9"),
        _fractions("19372/6561 -25360/2187 64448/6561 -212/729"),
        _fractions("9017/3168 -355/33 46732/5247 49/176 -5103/18656"),
        _fractions("35/384 0 500/1113 125/192 -2187/6784 11/84"),
    ),
    b=_fractions("35/384 0 500/1113 125/192 -2187/6784 11/84 0"),
    c=_fractions("0 1/5 3/10 4/5 8/9 1 1"),
    order=5,
    b_embedded=_fractions("5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40"),
    embedded_order=4,
    source="Dormand, Prince, J. Comput. Appl. Math. 6, 1980: RK5(4)7M",
)


def _tsitouras() -> ButcherTableau:
    """Builds Tsitouras's pair from the digits he published, the first column from the row sums."""
    c = (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0)
    b = (
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
        0.0,
    )
    columns = (
        (),
        (),
        (0.3354806554923570,),
        (-6.359448489975075, 4.362295432869581),
        (-11.74888356406283, 7.495539342889836, -0.09249506636175525),
        (-12.92096931784711, 8.159367898576159, -0.07158497328140100, -0.02826905039406838),
    )
    a = [(), *((math.fsum((c[i], *(-x for x in columns[i]))), *columns[i]) for i in range(1, 6))]
    error = (
        -0.001780011052226,
        -0.000816434459657,
        0.007880878010262,
        -0.144711007173263,
        0.582357165452555,
        -0.458082105929187,
        1 / 66,
    )
    return ButcherTableau(
        "tsitouras",
        a=(*a, b[:6]),
        b=b,
        c=c,
        order=5,
        b_embedded=tuple(x + e for x, e in zip(b, error, strict=True)),
        embedded_order=4,
        source="Tsitouras, Comput. Math. Appl. 62, 2011: RK5(4)",
    )
