r"""Losses, and the block problem of the output pre-activation.

Each row of the output solves its own problem, the proximal operator of the loss:

.. math:: \min_z \; R(z, y) + \frac{\rho}{2} |z - m|^2

Squared error has it in closed form. The others are found by Newton's method with a step length per
row, because undamped Newton cycles on the softmax. With the softmax's gradient g, its probabilities
p, :math:`D = p + \rho` and :math:`q = g / D` the Newton direction is

.. math:: q + \frac{p}{D} \, \frac{\sum p q}{\rho \sum p / D}

in O(k) per row; the denominator equals :math:`1 - \sum p^2 / D`, which would cancel in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tritia.alternating._blocks.newton import damped_newton, with_derivative

RowLoss = Callable[[jax.Array, jax.Array], jax.Array]

LossName = Literal["softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error"]
"""The names of `LOSSES`."""


@dataclasses.dataclass(frozen=True)
class Loss:
    r"""A loss per row, with what the output block needs.

    Attributes:
      name: how messages call it.
      value: (z, y), both (n, k), to the loss of each row, (n,).
      gradient: (z, y) to the gradient of each row's loss by z, (n, k).
      direction: (z, y, g, rho) to the Newton direction of the row's loss plus
        :math:`\frac\rho2 |z - m|^2`, (n, k), where g is that sum's gradient; linear in g. None
        takes it from the Jacobian of `gradient`, unless `prox` solves the whole problem.
      prox: (m, y, rho) to the minimiser in closed form, (n, k), or None.
    """

    name: str
    value: RowLoss
    gradient: RowLoss
    direction: Callable[..., jax.Array] | None = None
    prox: Callable[..., jax.Array] | None = None


def _softmax_value(z, y):
    # logsumexp(z) - <y, z> would cancel for a row classified with a large margin.
    return -jnp.sum(y * jax.nn.log_softmax(z, axis=-1), axis=-1)


def _softmax_gradient(z, y):
    return jax.nn.softmax(z, axis=-1) * jnp.sum(y, axis=-1, keepdims=True) - y


def _softmax_direction(z, y, g, rho):
    total = jnp.sum(y, axis=-1, keepdims=True)
    rho = rho / jnp.where(total > 0, total, 1)  # targets that add to s weigh the row's loss by s
    g = g / jnp.where(total > 0, total, 1)
    p = jax.nn.softmax(z, axis=-1)
    d = p + rho
    q = g / d
    return q + (p / d) * jnp.sum(p * q, axis=-1, keepdims=True) / (
        rho * jnp.sum(p / d, axis=-1, keepdims=True)
    )


def _sigmoid_value(z, y):
    return jnp.sum(jax.nn.softplus(z) - y * z, axis=-1)


def _sigmoid_gradient(z, y):
    return jax.nn.sigmoid(z) - y


def _sigmoid_direction(z, y, g, rho):
    del y
    p = jax.nn.sigmoid(z)
    return g / (p * (1 - p) + rho)


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("softmax_cross_entropy", _softmax_value, _softmax_gradient, _softmax_direction),
        Loss(
            "sigmoid_cross_entropy",
            _sigmoid_value,
            _sigmoid_gradient,
            _sigmoid_direction,
        ),
        Loss(
            "squared_error",
            lambda z, y: 0.5 * jnp.sum((z - y) ** 2, axis=-1),
            lambda z, y: z - y,
            prox=lambda m, y, rho: (y + rho * m) / (1 + rho),
        ),
    )
}
"""The losses that `loss=` takes by name."""


def smooth_loss(value: RowLoss, gradient: RowLoss | None = None, *, name: str = "smooth") -> Loss:
    r"""Returns a loss for `tritia.tiam` made of a smooth function and its gradient.

    The output block uses Newton's method with the Jacobian of `gradient`, one k x k system a row,
    and the negative gradient where Newton's is not a direction of descent.

    Args:
      value: (z, y) to the loss of each row: (n, k) and the targets to (n,). Row i may depend on row
        i of its arguments alone. Targets reach it as they were given, in the dtype of the solver
        where they are floating.
      gradient: (z, y) to the gradient by z, (n, k); None takes it by `jax.grad`.
      name: how messages call it.

    Returns:
      A `Loss`.

    Examples:
      The Huber loss:

      >>> import optax, tritia
      >>> huber = tritia.alternating.smooth_loss(lambda z, y: optax.huber_loss(z, y).sum(-1))
      >>> solver = tritia.tiam(100, loss=huber)
    """
    if not callable(value) or not (gradient is None or callable(gradient)):
        raise TypeError("value and gradient must be functions of (outputs, targets).")

    def by_autodiff(z, y):
        return jax.grad(lambda z: jnp.sum(value(z, y)))(z)

    slope_of = by_autodiff if gradient is None else gradient

    return Loss(name, value, slope_of)


def prox(
    loss: Loss,
    y: Any,
    m: jax.Array,
    start: jax.Array,
    rho: float | jax.Array,
    *,
    iterations: int = 40,
) -> jax.Array:
    r"""Returns the z whose rows minimise :math:`R(z, y) + \frac\rho2 |z - m|^2`.

    Args:
      loss: R.
      y: targets, (n, k).
      m: the pre-activations that the last layer gives, (n, k).
      start: the current output pre-activations, (n, k): no row of the result is worse.
      rho: the penalty of |z - m|, > 0.
      iterations: the most Newton iterations; a step refused by a row counts as one.

    Returns:
      z, (n, k). Newton's method stops when every row's gradient is at most rounding times the size
      of its terms. Its derivatives are those of the exact minimiser; by `start` there is none.
    """
    if loss.prox is not None:
        return loss.prox(m, y, rho)

    def gradient(z, y, m, rho):
        return loss.gradient(z, y) + rho * (z - m)

    def solve(z, v, times, y, m, rho):
        del m
        return _solve_rows(times, v) if loss.direction is None else loss.direction(z, y, v, rho)

    found = jax.lax.stop_gradient(
        _minimise(loss, *jax.lax.stop_gradient((y, m, start, rho)), iterations)
    )
    return with_derivative(found, gradient, solve, y, m, rho)


def _minimise(loss: Loss, y: Any, m, start, rho, iterations: int) -> jax.Array:
    """Returns the minimiser of each row by Newton's method."""

    def evaluate(z):
        g = loss.gradient(z, y) + rho * (z - m)
        value = loss.value(z, y)[..., None] + 0.5 * rho * jnp.sum(
            (z - m) ** 2, axis=-1, keepdims=True
        )
        size = jnp.max(jnp.abs(g), axis=-1, keepdims=True)
        return value, direction(z, g), size

    def direction(z, g):
        if loss.direction is not None:
            return loss.direction(z, y, g, rho)
        return _descent_direction(loss.gradient, z, y, g, rho)

    # Early on m is the better start, later the current z: each row takes its own.
    nearer = evaluate(m)[0] < evaluate(start)[0]
    tolerance = 10 * float(jnp.finfo(m.dtype).eps)
    return damped_newton(
        evaluate,
        jnp.where(nearer, m, start),
        iterations=iterations,
        tolerance=tolerance,
        scale=1.0,
    )


def _descent_direction(gradient: RowLoss, z, y, g, rho):
    """Returns Newton's direction by the gradient's Jacobian, or g where that does not descend."""

    def times(u):
        return jax.jvp(lambda z: gradient(z, y) + rho * z, (z,), (u,))[1]

    d = _solve_rows(times, g)
    slope = jnp.sum(d * g, axis=-1, keepdims=True)
    descends = slope >= 1e-3 * rho * jnp.sum(d * d, axis=-1, keepdims=True)
    return jnp.where(descends, d, g / (1 + rho))


def _solve_rows(times: Callable[[jax.Array], jax.Array], v: jax.Array) -> jax.Array:
    """Returns H^-1 v, where `times` maps u to H u, row by row: a k x k system for each of n."""
    basis = jnp.broadcast_to(jnp.eye(v.shape[-1], dtype=v.dtype)[:, None], (v.shape[-1], *v.shape))
    hessian = jnp.moveaxis(jax.vmap(times)(basis), 0, -1)
    return jnp.linalg.solve(hessian, v[..., None])[..., 0]
