r"""Losses, and the block problem that the output pre-activation poses.

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
from typing import Any

import jax
import jax.numpy as jnp

from tritia.alternating._blocks.newton import damped_newton

RowLoss = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Loss:
    r"""A loss per row, with what the output block needs.

    Attributes:
      name: how messages call it.
      value: (z, y), both (n, k), to the loss of each row, (n,).
      gradient: (z, y) to the gradient of each row's loss by z, (n, k).
      direction: (z, y, g, rho) to the Newton direction of the row's loss plus
        :math:`\frac\rho2 |z - m|^2`, (n, k), where g is that sum's gradient; or None where
        `prox` solves the whole problem.
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
      >>> solver = tritia.alternating.tiam(100, loss=huber)
    """
    if not callable(value) or not (gradient is None or callable(gradient)):
        raise TypeError("value and gradient must be functions of (outputs, targets).")

    def by_autodiff(z, y):
        return jax.grad(lambda z: jnp.sum(value(z, y)))(z)

    slope_of = by_autodiff if gradient is None else gradient

    def direction(z, y, g, rho):
        def row(z_row, y_row):
            return slope_of(z_row[None], y_row[None])[0]

        hessian = jax.vmap(jax.jacfwd(row))(z, y) + rho * jnp.eye(z.shape[-1], dtype=z.dtype)
        d = jnp.linalg.solve(hessian, g[..., None])[..., 0]
        slope = jnp.sum(d * g, axis=-1, keepdims=True)
        descends = slope >= 1e-3 * rho * jnp.sum(d * d, axis=-1, keepdims=True)
        return jnp.where(descends, d, g / (1 + rho))

    return Loss(name, value, slope_of, direction)


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
      of its terms.
    """
    if loss.prox is not None:
        return loss.prox(m, y, rho)
    direction = loss.direction
    assert direction is not None

    def evaluate(z):
        g = loss.gradient(z, y) + rho * (z - m)
        value = loss.value(z, y)[..., None] + 0.5 * rho * jnp.sum(
            (z - m) ** 2, axis=-1, keepdims=True
        )
        size = jnp.max(jnp.abs(g), axis=-1, keepdims=True)
        return value, direction(z, y, g, rho), size

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
