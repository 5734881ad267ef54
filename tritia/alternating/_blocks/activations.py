r"""Activations, and the two block problems of a hidden pre-activation.

A hidden layer's pre-activation z is coupled to its activation a by h alone, element by element:

* coupling "inequality" asks for the interval where :math:`|a - h(z)| \le \epsilon` (`preimage`);
* coupling "penalty" asks for the minimiser of
  :math:`\frac{\gamma}{2} (a - h(z))^2 + \frac{\rho}{2} (z - m)^2` (`prox`).

A piecewise linear h has both in closed form: one candidate per piece, of which the best is taken. A
smooth h has the interval through its inverse. Its prox has no closed form and may have two local
minima, but both terms of the objective grow outside the interval between m and :math:`h^{-1}(a)`,
so Newton's method starts from both of its ends (and from the current z), and the best result is
taken.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tritia.alternating._blocks.newton import damped_newton, with_derivative

Elementwise = Callable[[jax.Array], jax.Array]

# fmt: off
ActivationName = Literal[
    "relu", "leaky_relu", "relu6", "hard_tanh", "identity", "elu", "selu", "softplus", "tanh",
    "sigmoid", "gelu", "gelu_exact", "silu",
]
# fmt: on
"""The names of `ACTIVATIONS`."""


class Piece(NamedTuple):
    """h(z) = slope * z + offset for left <= z <= right."""

    left: float
    right: float
    slope: float
    offset: float


@dataclasses.dataclass(frozen=True)
class Activation:
    """An elementwise function h with what its block problems need.

    Attributes:
      name: how messages call it.
      value: h itself, on arrays of any shape.
      inverse: h's inverse on the open range (lower, upper), or None where h is not monotone (then
        only the penalty coupling can use it).
      lower: inf h.
      upper: sup h.
      closed: whether h attains its finite bounds (relu does, tanh does not).
      pieces: h's linear pieces from left to right, or () where h is not piecewise linear.
    """

    name: str
    value: Elementwise
    inverse: Elementwise | None = None
    lower: float = -math.inf
    upper: float = math.inf
    closed: bool = False
    pieces: tuple[Piece, ...] = ()


_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772


def _inverse_elu(t: jax.Array) -> jax.Array:
    return jnp.where(t > 0, t, jnp.log1p(jnp.minimum(t, 0)))


def _inverse_selu(t: jax.Array) -> jax.Array:
    negative = jnp.log1p(jnp.minimum(t, 0) / (_SELU_SCALE * _SELU_ALPHA))
    return jnp.where(t > 0, t / _SELU_SCALE, negative)


def _inverse_softplus(t: jax.Array) -> jax.Array:
    return t + jnp.log(-jnp.expm1(-t))  # log(exp(t) - 1) without overflow


def _identity(z: jax.Array) -> jax.Array:
    return z


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """Returns max(z, negative_slope * z), which a PReLU with a fixed slope is too.

    Args:
      negative_slope: a static Python float with 0 < negative_slope < 1.

    Returns:
      The `Activation`, for the `activation` argument of `tritia.tiam`.

    Raises:
      ValueError: the slope is outside its range.

    Examples:
      >>> from tritia.alternating import leaky_relu
      >>> print(leaky_relu(0.25).value(-2.0))
      -0.5
    """
    slope = float(negative_slope)
    if not 0 < slope < 1:
        raise ValueError(f"negative_slope is {negative_slope!r}; allowed: 0 < negative_slope < 1.")
    return Activation(
        name="leaky_relu",
        value=lambda z: jnp.where(z >= 0, z, slope * z),
        inverse=lambda t: jnp.where(t >= 0, t, t / slope),
        pieces=(Piece(-math.inf, 0.0, slope, 0.0), Piece(0.0, math.inf, 1.0, 0.0)),
    )


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation(
            "relu",
            jax.nn.relu,
            _identity,
            lower=0.0,
            closed=True,
            pieces=(Piece(-math.inf, 0.0, 0.0, 0.0), Piece(0.0, math.inf, 1.0, 0.0)),
        ),
        leaky_relu(),
        Activation(
            "relu6",
            jax.nn.relu6,
            _identity,
            lower=0.0,
            upper=6.0,
            closed=True,
            pieces=(
                Piece(-math.inf, 0.0, 0.0, 0.0),
                Piece(0.0, 6.0, 1.0, 0.0),
                Piece(6.0, math.inf, 0.0, 6.0),
            ),
        ),
        Activation(
            "hard_tanh",
            jax.nn.hard_tanh,
            _identity,
            lower=-1.0,
            upper=1.0,
            closed=True,
            pieces=(
                Piece(-math.inf, -1.0, 0.0, -1.0),
                Piece(-1.0, 1.0, 1.0, 0.0),
                Piece(1.0, math.inf, 0.0, 1.0),
            ),
        ),
        Activation(
            "identity", _identity, _identity, pieces=(Piece(-math.inf, math.inf, 1.0, 0.0),)
        ),
        Activation("elu", jax.nn.elu, _inverse_elu, lower=-1.0),
        Activation("selu", jax.nn.selu, _inverse_selu, lower=-_SELU_SCALE * _SELU_ALPHA),
        Activation("softplus", jax.nn.softplus, _inverse_softplus, lower=0.0),
        Activation("tanh", jnp.tanh, jnp.arctanh, lower=-1.0, upper=1.0),
        Activation(
            "sigmoid",
            jax.nn.sigmoid,
            lambda t: jnp.log(t) - jnp.log1p(-t),
            lower=0.0,
            upper=1.0,
        ),
        Activation("gelu", jax.nn.gelu),
        Activation("gelu_exact", functools.partial(jax.nn.gelu, approximate=False)),
        Activation("silu", jax.nn.silu),
    )
}
"""The activations that `activation=` takes by name."""


def monotone_activation(
    value: Elementwise,
    inverse: Elementwise,
    *,
    lower: float = -math.inf,
    upper: float = math.inf,
    name: str = "user's activation",
) -> Activation:
    """Returns an activation made of an increasing function and its inverse.

    Args:
      value: h, elementwise, nowhere decreasing, twice differentiable by JAX almost everywhere.
      inverse: its inverse on the open interval (lower, upper).
      lower: inf h.
      upper: sup h.
      name: how messages call it.

    Returns:
      The `Activation`, for the `activation` argument of `tritia.tiam`.

    Raises:
      ValueError: lower >= upper, or `inverse` is not an inverse of `value` at a few points.

    Examples:
      >>> import jax.numpy as jnp, tritia
      >>> from tritia.alternating import monotone_activation
      >>> arsinh = monotone_activation(jnp.arcsinh, jnp.sinh, name="arsinh")
      >>> solver = tritia.tiam(num_examples=100, activation=arsinh)
    """
    if not lower < upper:
        raise ValueError(f"lower is {lower!r} and upper is {upper!r}; allowed: lower < upper.")
    with jax.ensure_compile_time_eval():
        points = np.linspace(-2.0, 2.0, 9)
        heights = np.asarray(value(jnp.asarray(points, jnp.float32)))
        inside = (heights > lower + 1e-3) & (heights < upper - 1e-3)
        heights = heights[inside]
        again = np.asarray(value(inverse(jnp.asarray(heights))))
    if np.any(np.diff(heights) < 0):
        raise ValueError("value must be an increasing function; it decreases within [-2, 2].")
    if not np.allclose(again, heights, rtol=1e-2, atol=1e-3):
        worst = int(np.argmax(np.abs(again - heights)))
        raise ValueError(
            f"inverse is not the inverse of value: value(inverse({heights[worst]:.6g})) is"
            f" {again[worst]:.6g}."
        )
    return Activation(name, value, inverse, lower=float(lower), upper=float(upper))


def preimage(
    activation: Activation, a: jax.Array, eps: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    r"""Returns the interval of z where :math:`|a - h(z)| \le \epsilon`, element by element.

    Where no z is close enough (a lies further than eps outside h's range) the interval is the part
    of the line where h is nearest to a. An end may be infinite.

    Args:
      activation: an increasing h with an inverse.
      a: any shape.
      eps: a number >= 0.

    Returns:
      (left, right), each shaped like `a`, left <= right.
    """
    assert activation.inverse is not None
    # An open bound has no preimage; the nearest height that has one in floating point stands in.
    margin = 0.0 if activation.closed else 4 * float(jnp.finfo(a.dtype).eps)
    lowest, highest = activation.lower, activation.upper
    if math.isfinite(lowest):
        lowest += margin * max(1.0, abs(lowest))
    if math.isfinite(highest):
        highest -= margin * max(1.0, abs(highest))
    low, high = a - eps, a + eps
    left = activation.inverse(jnp.clip(low, lowest, highest))
    right = activation.inverse(jnp.clip(high, lowest, highest))
    left = jnp.where(low <= activation.lower, -jnp.inf, left)
    right = jnp.where(high >= activation.upper, jnp.inf, right)
    return left, right


def prox(
    activation: Activation,
    a: jax.Array,
    m: jax.Array,
    start: jax.Array,
    gamma: float | jax.Array,
    rho: float | jax.Array,
    *,
    iterations: int = 12,
) -> jax.Array:
    r"""Returns the z that minimises :math:`\frac\gamma2 (a - h(z))^2 + \frac\rho2 (z - m)^2`.

    Args:
      activation: h.
      a: the activations to match, any shape.
      m: the pre-activations that the layer's kernel and bias give, shaped like `a`.
      start: the current pre-activations, shaped like `a`: the result is never worse than these.
      gamma: the penalty of |a - h(z)|, > 0.
      rho: the penalty of |z - m|, > 0.
      iterations: Newton iterations where h is not piecewise linear.

    Returns:
      z, shaped like `a`: the global minimiser where h is piecewise linear; elsewhere the best of
      the local minima that Newton's method finds from the current z, from m and from h's inverse,
      with the derivatives of the exact local minimum; by `start` there is none.
    """
    if activation.pieces:
        candidates = [_piece_minimum(piece, a, m, gamma, rho) for piece in activation.pieces]
        return _best(activation, candidates, a, m, gamma, rho)
    theta = (a, m, gamma, rho)
    found = _newton_prox(activation, *jax.lax.stop_gradient((start, *theta)), iterations)
    return with_derivative(
        jax.lax.stop_gradient(found),
        functools.partial(_prox_gradient, activation),
        _divide_by_curvature,
        *theta,
    )


def _best(activation: Activation, candidates, a, m, gamma, rho):
    """Returns, for each element, the candidate with the least prox objective."""

    def objective(z):
        return 0.5 * gamma * (a - activation.value(z)) ** 2 + 0.5 * rho * (z - m) ** 2

    best, best_value = candidates[0], objective(candidates[0])
    for candidate in candidates[1:]:
        value = objective(candidate)
        best = jnp.where(value < best_value, candidate, best)
        best_value = jnp.minimum(value, best_value)
    return best


def _piece_minimum(piece: Piece, a, m, gamma, rho):
    """Returns the minimiser of the prox objective over one linear piece of h."""
    centre = (rho * m + gamma * piece.slope * (a - piece.offset)) / (
        rho + gamma * piece.slope * piece.slope
    )
    return jnp.clip(centre, piece.left, piece.right)


def _newton_prox(activation: Activation, start, a, m, gamma, rho, iterations: int):
    """Returns the best of the minima that Newton's method finds from several starts."""
    starts = [start, m]
    if activation.inverse is not None:
        starts.append(_nearest_preimage(activation, a))
    points = damped_newton(
        lambda z: _newton_terms(activation, z, a[None], m[None], gamma, rho),
        jnp.stack(starts),
        iterations=iterations,
        tolerance=0.0,
    )
    return _best(activation, list(points), a, m, gamma, rho)


def _nearest_preimage(activation: Activation, a: jax.Array) -> jax.Array:
    """Returns a finite z whose height h(z) is near a, one end of where the minimum can lie."""
    assert activation.inverse is not None
    margin = 1e-3  # nearer an open bound the slope is too flat to leave by Newton's method
    return activation.inverse(
        jnp.clip(
            a,
            activation.lower + margin if math.isfinite(activation.lower) else None,
            activation.upper - margin if math.isfinite(activation.upper) else None,
        )
    )


def _prox_gradient(activation: Activation, z, a, m, gamma, rho):
    """Returns the gradient of the prox objective by z."""
    h, dh = jax.jvp(activation.value, (z,), (jnp.ones_like(z),))
    return rho * (z - m) - gamma * (a - h) * dh


def _divide_by_curvature(z, v, times: Elementwise, *_):
    """Returns v over the objective's curvature; 0 where Newton's method ended at no minimum."""
    curvature = times(jnp.ones_like(z))
    minimum = curvature > 0
    return jnp.where(minimum, v / jnp.where(minimum, curvature, 1), 0)


def _newton_terms(activation: Activation, z, a, m, gamma, rho):
    """Returns the prox objective, its Newton direction and its gradient's size, elementwise."""
    one = jnp.ones_like(z)

    def slope(z):
        return jax.jvp(activation.value, (z,), (one,))[1]

    h = activation.value(z)
    dh, ddh = jax.jvp(slope, (z,), (one,))
    value = 0.5 * gamma * (a - h) ** 2 + 0.5 * rho * (z - m) ** 2
    gradient = rho * (z - m) - gamma * (a - h) * dh
    # Where the true curvature is not safely positive, the Gauss-Newton part alone is.
    gauss_newton = rho + gamma * dh * dh
    curvature = gauss_newton - gamma * (a - h) * ddh
    curvature = jnp.where(curvature > 0.1 * gauss_newton, curvature, gauss_newton)
    return value, gradient / curvature, jnp.abs(gradient)
