"""What a scheme promises to somebody who trains networks with it, one function for each promise.

The functions take every kind of scheme: linear multistep schemes register their answers in
`schemes.py`, Runge-Kutta methods in `tableaus.py` and `chebyshev.py`.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import numpy as np


@functools.singledispatch
def order(scheme: Any) -> int:
    r"""The order of accuracy p: halving the learning rate divides the error along the flow by 2^p.

    The distance between the iterates and the gradient flow at a fixed time :math:`T = n h` is
    :math:`O(h^p)`. Gradient descent has order 1. The order says how closely training follows the
    flow; it says nothing of noise, and on noisy minibatches the noise usually dominates.

    Args:
      scheme: a `LinearMultistep`, a `ButcherTableau` or a `ChebyshevScheme`.

    Returns:
      p, at least 1.

    Raises:
      TypeError: `scheme` is none of these.

    References:
      Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 1993, section III.2.

    Examples:
      >>> import tritia
      >>> tritia.order(tritia.adams_bashforth_scheme(3))
      3
    """
    raise TypeError(_not_a_scheme(scheme))


@functools.singledispatch
def error_constant(scheme: Any) -> Fraction | float:
    r"""The error constant: how far a scheme is from the flow, against others of its order.

    Along the flow the error at a fixed time is about :math:`C h^p` times a quantity of the problem.
    Of two schemes of one order, the one with the smaller constant is closer by that ratio. For a
    linear multistep scheme a step's own error is :math:`C_{p+1} h^{p+1} w^{(p+1)}`, and
    :math:`C = C_{p+1} / \sum_j b_j`. For a Runge-Kutta method it is the coefficient of
    :math:`z^{p+1}` in :math:`e^z - R(z)`, its error on linear problems.

    Args:
      scheme: a `LinearMultistep`, a `ButcherTableau` or a `ChebyshevScheme`.

    Returns:
      :math:`C_{p+1} / \sum_j b_j`, with
      :math:`C_q = (1 - \sum_j a_j (-j)^q - q \sum_j b_j (-j)^{q-1}) / q!`; a fraction if the
      coefficients are.

    Raises:
      TypeError: `scheme` is none of these.

    References:
      Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 1993, equation III.2.13.

    Examples:
      >>> import tritia
      >>> tritia.error_constant(tritia.difference_scheme(order=2, steps=3))
      Fraction(5, 12)
    """
    raise TypeError(_not_a_scheme(scheme))


@functools.singledispatch
def stability_interval(scheme: Any) -> float:
    r"""The largest X such that no mode grows while :math:`h \lambda \le X`.

    On a quadratic with curvatures :math:`\lambda`, training is stable when learning rate times the
    largest curvature (the sharpness) is at most X. Gradient descent has X = 2: divide X by 2 to see
    how much larger or smaller a learning rate this scheme bears than SGD.

    Args:
      scheme: a `LinearMultistep`, a `ButcherTableau` or a `ChebyshevScheme`.

    Returns:
      X >= 0: the interval is [0, X].

    Raises:
      TypeError: `scheme` is none of these.

    References:
      Hairer, Wanner, Solving Ordinary Differential Equations II, 1996, section V.1.

    Examples:
      >>> import tritia
      >>> round(tritia.stability_interval(tritia.adams_bashforth_scheme(3)), 6)  # 6/11
      0.545455
    """
    raise TypeError(_not_a_scheme(scheme))


@functools.singledispatch
def damped_interval(scheme: Any, radius: float = 0.98, start: float = 0.1) -> float:
    r"""The largest X such that every root has modulus at most `radius` on [start, X].

    At the end of the stability interval a mode is no longer damped at all. Inside the damped
    interval every mode shrinks by at least 2% a step, so this is the honest upper end for a
    learning rate: learning rate times sharpness at most X.

    Args:
      scheme: a `LinearMultistep`, a `ButcherTableau` or a `ChebyshevScheme`.
      radius: the modulus allowed, in (0, 1].
      start: where damping starts to be asked; at 0 the principal root is 1.

    Returns:
      X, or 0 if the roots at `start` are already too large.

    Raises:
      TypeError: `scheme` is none of these.

    Examples:
      >>> import tritia
      >>> round(tritia.damped_interval(tritia.adams_bashforth_scheme(1)), 6)
      1.98
    """
    raise TypeError(_not_a_scheme(scheme))


@functools.singledispatch
def amplification(scheme: Any, z: Any) -> np.ndarray:
    r"""The factor by which a step can multiply the mode :math:`w' = \lambda w`.

    Curvature moves z along the negative real axis, rotation (games) along the imaginary one.

    Args:
      scheme: a `LinearMultistep`, a `ButcherTableau` or a `ChebyshevScheme`.
      z: :math:`h \lambda`, a real or complex array of shape (...).

    Returns:
      A real array of shape (...): the largest modulus of a root, or :math:`|R(z)|`. The scheme is
      stable where it is at most 1.

    Raises:
      TypeError: `scheme` is none of these.

    Examples:
      >>> import tritia
      >>> print(tritia.amplification(tritia.adams_bashforth_scheme(1), [-1.5, 1j]).round(3))
      [0.5   1.414]
    """
    raise TypeError(_not_a_scheme(scheme))


@functools.singledispatch
def noise_gain(scheme: Any) -> float:
    r"""How much gradient noise a scheme lets through: 1 for SGD, less is calmer.

    For Runge-Kutta methods it supposes a fresh minibatch at every stage (the transparent mode);
    with one minibatch for all stages, as in the opaque mode, the gain is 1.

    With gradients that carry independent noise of variance :math:`\sigma^2`, a step's variance is
    this number times :math:`h^2 \sigma^2`. It is the sum of squares of the step's response to a
    unit impulse in the gradient: :math:`\sum_j b_j^2` for the Adams schemes.

    Args:
      scheme: a `LinearMultistep`, a `ButcherTableau` or a `ChebyshevScheme`.

    Returns:
      The gain; infinite when an echo never dies out.

    Raises:
      TypeError: `scheme` is none of these.

    Examples:
      >>> import tritia
      >>> round(tritia.noise_gain(tritia.difference_scheme(order=2, steps=3)), 6)
      2.0
    """
    raise TypeError(_not_a_scheme(scheme))


@functools.singledispatch
def memory(scheme: Any) -> int:
    """The number of copies of the params that the optimizer state keeps: SGD 0, momentum 1, Adam 2.

    Args:
      scheme: a `LinearMultistep`, a `ButcherTableau` or a `ChebyshevScheme`.

    Returns:
      The number of past steps and past directions that are stored.

    Raises:
      TypeError: `scheme` is none of these.

    Examples:
      >>> import tritia
      >>> tritia.memory(tritia.adams_bashforth_scheme(2))
      1
      >>> tritia.memory(tritia.difference_scheme(order=2, steps=3))
      2
    """
    raise TypeError(_not_a_scheme(scheme))


def _not_a_scheme(scheme: Any) -> str:
    return (
        "scheme must be a tritia.LinearMultistep, ButcherTableau or ChebyshevScheme;"
        f" got {scheme!r} of type {type(scheme).__name__}."
    )
