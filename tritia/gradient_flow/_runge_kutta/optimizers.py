"""The Runge-Kutta optimizers used most, by their names: `tritia.rk4(0.1)` and the like.

Each is `tritia.runge_kutta` with one scheme, and takes its other arguments.
"""

from __future__ import annotations

import jax
import optax

from tritia._arguments import ScalarOrSchedule
from tritia.gradient_flow._runge_kutta.chebyshev import ChebyshevScheme
from tritia.gradient_flow._runge_kutta.fixed_step import Mode, runge_kutta


def midpoint(
    learning_rate: ScalarOrSchedule,
    *,
    mode: Mode = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The midpoint rule: order 2, two gradients per step, learning rates as for SGD.

    .. math::
      w_{t+1} = w_t + h f\big(w_t + \tfrac h2 f(w_t)\big)

    All of the step comes from the second gradient, so noise enters as it does in SGD (gain 1).

    Args:
      learning_rate: the step size h, or a schedule over completed steps.
      mode: `"opaque"` or `"transparent"`: see `tritia.runge_kutta`.
      preconditioner: turns every stage's gradient into a direction.
      accumulator_dtype: the dtype of what transparent mode keeps between stages.

    Returns:
      An `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: as `tritia.runge_kutta`.
      TypeError: as `tritia.runge_kutta`.

    References:
      Runge, Math. Ann. 46, 1895

    Examples:
      >>> import jax, tritia
      >>> gradient = jax.grad(lambda w: 0.5 * w**2)
      >>> optimizer = tritia.midpoint(0.5)
      >>> w = jax.numpy.asarray(1.0)
      >>> updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
      >>> print(f"{w + updates:.4f} {1 - 0.5 + 0.5**2 / 2:.4f}")
      0.6250 0.6250
    """
    return runge_kutta(
        learning_rate,
        "midpoint",
        mode=mode,
        preconditioner=preconditioner,
        accumulator_dtype=accumulator_dtype,
    )


def heun(
    learning_rate: ScalarOrSchedule,
    *,
    mode: Mode = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Heun's method: order 2, two gradients per step, learning rates as for SGD.

    .. math::
      k_1 = f(w_t), \quad k_2 = f(w_t + h k_1), \quad w_{t+1} = w_t + \tfrac h2 (k_1 + k_2)

    The explicit trapezium rule. In transparent mode with a fresh minibatch for each stage it
    averages noise best of the methods with two stages (gain 1/2). In opaque mode both stages see
    the same minibatch, and its noise enters as it does in SGD (gain 1).

    Args:
      learning_rate: the step size h, or a schedule over completed steps.
      mode: `"opaque"` or `"transparent"`: see `tritia.runge_kutta`.
      preconditioner: turns every stage's gradient into a direction.
      accumulator_dtype: the dtype of what transparent mode keeps between stages.

    Returns:
      An `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: as `tritia.runge_kutta`.
      TypeError: as `tritia.runge_kutta`.

    References:
      Heun, Z. Math. Phys. 45, 1900

    Examples:
      >>> import jax, tritia
      >>> gradient = jax.grad(lambda w: 0.5 * w**2)
      >>> optimizer = tritia.heun(0.5)
      >>> w = jax.numpy.asarray(1.0)
      >>> updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
      >>> print(f"{w + updates:.4f} {1 - 0.5 + 0.5**2 / 2:.4f}")
      0.6250 0.6250
    """
    return runge_kutta(
        learning_rate,
        "heun",
        mode=mode,
        preconditioner=preconditioner,
        accumulator_dtype=accumulator_dtype,
    )


def rk4(
    learning_rate: ScalarOrSchedule,
    *,
    mode: Mode = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The classical Runge-Kutta method: order 4, four gradients per step.

    .. math::
      \begin{aligned}
      k_1 &= f(w_t), \quad k_2 = f\big(w_t + \tfrac h2 k_1\big), \quad
      k_3 = f\big(w_t + \tfrac h2 k_2\big), \quad k_4 = f(w_t + h k_3), \\
      w_{t+1} &= w_t + \tfrac h6 (k_1 + 2 k_2 + 2 k_3 + k_4)
      \end{aligned}

    Its stability interval is 2.79, against SGD's 2: it follows the flow far more closely, but does
    not take steps four times as long for its four gradients. It also covers a piece of the
    imaginary axis (up to 2.83), which is why it does not spiral out of a game.

    Args:
      learning_rate: the step size h, or a schedule over completed steps.
      mode: `"opaque"` or `"transparent"`: see `tritia.runge_kutta`.
      preconditioner: turns every stage's gradient into a direction.
      accumulator_dtype: the dtype of what transparent mode keeps between stages.

    Returns:
      An `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: as `tritia.runge_kutta`.
      TypeError: as `tritia.runge_kutta`.

    References:
      Kutta, Z. Math. Phys. 46, 1901

    Examples:
      >>> import jax, tritia
      >>> gradient = jax.grad(lambda w: 0.5 * w**2)
      >>> optimizer = tritia.rk4(0.5)
      >>> w = jax.numpy.asarray(1.0)
      >>> updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
      >>> print(f"{w + updates:.4f} {1 - 0.5 + 0.5**2 / 2 - 0.5**3 / 6 + 0.5**4 / 24:.4f}")
      0.6068 0.6068
    """
    return runge_kutta(
        learning_rate,
        "rk4",
        mode=mode,
        preconditioner=preconditioner,
        accumulator_dtype=accumulator_dtype,
    )


def rkc(
    learning_rate: ScalarOrSchedule,
    stages: int,
    order: int = 2,
    *,
    damping: float | None = None,
    mode: Mode = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""A Runge-Kutta-Chebyshev step: s gradients for a step up to about s^2 times SGD's.

    .. math::
      d_0 = 0, \qquad d_j = \mu_j d_{j-1} + \nu_j d_{j-2}
          + \tilde\mu_j h f(w_t + d_{j-1}) + \tilde\gamma_j h f(w_t), \qquad w_{t+1} = w_t + d_s

    with the coefficients of `tritia.ChebyshevScheme`. Learning rate times sharpness may be
    `tritia.ChebyshevScheme(s, order).stability_interval`: about :math:`1.94 s^2` at order 1 and
    :math:`0.65 (s^2 - 1)` at order 2 with the usual damping.

    It is for losses whose sharpness limits the learning rate while the progress lies in flat
    directions. The memory does not grow with s; opaque mode compiles `grad_fn` once for all stages.

    Args:
      learning_rate: the step size h, or a schedule over completed steps.
      stages: the number s >= 2 of stages, static.
      order: 1 (longest steps) or 2 (closer to the flow), static.
      damping: epsilon >= 0, static; None is 0.05 for order 1 and 2/13 for order 2.
      mode: `"opaque"` or `"transparent"`: see `tritia.runge_kutta`.
      preconditioner: turns every stage's gradient into a direction.
      accumulator_dtype: the dtype of what transparent mode keeps between stages.

    Returns:
      An `optax.GradientTransformationExtraArgs`.

    Raises:
      ValueError: `stages`, `order` or `damping` is out of range; else as `tritia.runge_kutta`.
      TypeError: one of them is traced; else as `tritia.runge_kutta`.

    References:
      Verwer, Hundsdorfer, Sommeijer, `Convergence properties of the Runge-Kutta-Chebyshev method
      <https://doi.org/10.1007/BF01386405>`_, 1990

    Examples:
      Eight gradients for a step that gradient descent would need 62 stable steps for:

      >>> import jax, tritia
      >>> gradient = jax.grad(lambda w: 0.5 * 100 * w[0]**2 + 0.5 * w[1]**2)
      >>> optimizer = tritia.rkc(1.2, stages=8, order=1)
      >>> w = jax.numpy.asarray([1.0, 1.0])
      >>> updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
      >>> bool(jax.numpy.all(abs(w + updates) < 1))
      True
    """
    scheme = ChebyshevScheme(stages, order, damping)
    return runge_kutta(
        learning_rate,
        scheme,
        mode=mode,
        preconditioner=preconditioner,
        accumulator_dtype=accumulator_dtype,
    )
