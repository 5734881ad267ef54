r"""Linear multistep schemes by name, and the derivation of their coefficients.

Coefficients are not copied from tables: they solve the Taylor conditions in exact rational
arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from tritia._arguments import check_choice, check_number, check_static_int, static_message
from tritia.gradient_flow._coefficient import Coefficient, coefficient
from tritia.gradient_flow._multistep.scheme import EULER, LinearMultistep
from tritia.gradient_flow._multistep.taylor_conditions import solve_exactly, taylor_row


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
    given = [
        None if x is None else coefficient(f"{letter}[{i}]", x, text=True)
        for letter, values in (("a", a), ("b", b))
        for i, x in enumerate(values)
    ]
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
    for slot, x in zip(open_slots, solve_exactly(matrix, right), strict=True):
        given[slot] = x
    found = [x for x in given if x is not None]
    return LinearMultistep(
        a=tuple(found[: len(a)]), b=tuple(found[len(a) :]), name=name, starter=starter
    )


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
    if order == 1:
        return EULER
    return derive_scheme(
        order,
        a=(None,),
        b=(None,) * order,
        name=f"Adams-Bashforth {order}",
        starter=adams_bashforth_scheme(order - 1),
    )


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
    if order == 1:
        return EULER
    times_a = [Fraction(-j) for j in range(order)]
    matrix = [taylor_row(degree, times_a, [Fraction(1)]) for degree in range(order + 1)]
    *a, implicit = solve_exactly(matrix, [Fraction(1)] * (order + 1))
    b = [implicit * (-1) ** j * math.comb(order, j + 1) for j in range(order)]
    return LinearMultistep(
        a=tuple(a),
        b=tuple(b),
        name=f"extrapolated BDF {order}",
        starter=bdf_scheme(order - 1),
    )


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
      >>> round(scheme.stability_interval, 9)
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
      >>> round(scheme.stability_interval, 6)  # steps of h / (1 - m): 2 (1 + m) / (1 - m)
      38.0
    """
    m = coefficient("momentum", momentum, text=True)
    check_number("momentum", float(m), minimum=0, maximum=1, exclusive_maximum=True, schedule=False)
    return LinearMultistep(
        a=(1 + m, -m), b=(1 - m,), name=f"heavy ball {float(m):g}", from_rest=True
    )


MULTISTEP_SCHEMES = MappingProxyType(
    {
        "euler": EULER,
        **{f"ab{order}": adams_bashforth_scheme(order) for order in range(2, 6)},
        **{f"bdf{order}": bdf_scheme(order) for order in range(2, 6)},
        **{f"difference{p}{k}": difference_scheme(p, k) for p, k in DIFFERENCE_SCHEMES},
    }
)
"""Linear multistep schemes by name: `tritia.MULTISTEP_SCHEMES["ab2"]`.

`"euler"`, `"ab2"` to `"ab5"` (Adams-Bashforth), `"bdf2"` to `"bdf5"` (extrapolated BDF), and
`"difference23"` and so on, which is the difference scheme of order 2 with 3 steps.
"""


def check_scheme(scheme: Any) -> LinearMultistep:
    """Returns the scheme that the user built or named.

    Raises:
      TypeError: `scheme` is neither a `LinearMultistep` nor a name.
      ValueError: the name is unknown; the message has the nearest.
    """
    if isinstance(scheme, LinearMultistep):
        return scheme
    if isinstance(scheme, str):
        check_choice("scheme", scheme, MULTISTEP_SCHEMES)
        return MULTISTEP_SCHEMES[scheme]
    if isinstance(scheme, (jax.Array, np.ndarray)):
        raise TypeError(static_message("scheme", scheme))
    raise TypeError(
        "scheme must be a tritia.LinearMultistep or the name of one of tritia.MULTISTEP_SCHEMES,"
        f" such as 'ab2'; got {scheme!r} of type {type(scheme).__name__}."
    )
