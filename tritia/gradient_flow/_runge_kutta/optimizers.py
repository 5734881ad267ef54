"""Runge-Kutta optimizers by their names: `tritia.rk4(0.1)` and the like.

Each takes the arguments of `tritia.runge_kutta` but for the tableau, and is that function with it.
"""

from __future__ import annotations

from typing import Any

import optax

from tritia._arguments import ScalarOrSchedule
from tritia.gradient_flow._runge_kutta.chebyshev import ChebyshevScheme
from tritia.gradient_flow._runge_kutta.fixed_step import runge_kutta
from tritia.gradient_flow._runge_kutta.named_tableaus import TABLEAUS


def midpoint(
    learning_rate: ScalarOrSchedule,
    mode: str = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
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
    return runge_kutta(learning_rate, TABLEAUS["midpoint"], mode, preconditioner, accumulator_dtype)


def heun(
    learning_rate: ScalarOrSchedule,
    mode: str = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
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
    return runge_kutta(learning_rate, TABLEAUS["heun"], mode, preconditioner, accumulator_dtype)


def ralston(
    learning_rate: ScalarOrSchedule,
    mode: str = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Ralston's method: order 2, two gradients per step, the least error of all such methods.

    .. math::
      k_1 = f(w_t), \quad k_2 = f\big(w_t + \tfrac23 h k_1\big), \quad
      w_{t+1} = w_t + \tfrac h4 (k_1 + 3 k_2)

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
      Ralston, `Runge-Kutta methods with minimum error bounds
      <https://doi.org/10.1090/S0025-5718-1962-0150954-0>`_, 1962

    Examples:
      >>> import jax, tritia
      >>> gradient = jax.grad(lambda w: 0.5 * w**2)
      >>> optimizer = tritia.ralston(0.5)
      >>> w = jax.numpy.asarray(1.0)
      >>> updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
      >>> print(f"{w + updates:.4f} {1 - 0.5 + 0.5**2 / 2:.4f}")
      0.6250 0.6250
    """
    return runge_kutta(learning_rate, TABLEAUS["ralston"], mode, preconditioner, accumulator_dtype)


def ssp_rk3(
    learning_rate: ScalarOrSchedule,
    mode: str = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Shu and Osher's method: order 3, three gradients, a convex combination of Euler steps.

    .. math::
      \begin{aligned}
      u_1 &= w_t + h f(w_t), \quad u_2 = \tfrac34 w_t + \tfrac14 \big(u_1 + h f(u_1)\big), \\
      w_{t+1} &= \tfrac13 w_t + \tfrac23 \big(u_2 + h f(u_2)\big)
      \end{aligned}

    Strong-stability preserving: what an Euler step of size h keeps (a convex set, a norm that does
    not grow), this step keeps.

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
      Shu, Osher, `Efficient implementation of essentially non-oscillatory shock-capturing schemes
      <https://doi.org/10.1016/0021-9991(88)90177-5>`_, 1988

    Examples:
      >>> import jax, tritia
      >>> gradient = jax.grad(lambda w: 0.5 * w**2)
      >>> optimizer = tritia.ssp_rk3(0.5)
      >>> w = jax.numpy.asarray(1.0)
      >>> updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
      >>> print(f"{w + updates:.4f} {1 - 0.5 + 0.5**2 / 2 - 0.5**3 / 6:.4f}")
      0.6042 0.6042
    """
    return runge_kutta(learning_rate, TABLEAUS["ssp_rk3"], mode, preconditioner, accumulator_dtype)


def kutta3(
    learning_rate: ScalarOrSchedule,
    mode: str = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Kutta's method of order 3: three gradients per step.

    .. math::
      \begin{aligned}
      k_1 &= f(w_t), \quad k_2 = f\big(w_t + \tfrac h2 k_1\big), \quad
      k_3 = f(w_t - h k_1 + 2 h k_2), \\
      w_{t+1} &= w_t + \tfrac h6 (k_1 + 4 k_2 + k_3)
      \end{aligned}

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
      >>> optimizer = tritia.kutta3(0.5)
      >>> w = jax.numpy.asarray(1.0)
      >>> updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
      >>> print(f"{w + updates:.4f} {1 - 0.5 + 0.5**2 / 2 - 0.5**3 / 6:.4f}")
      0.6042 0.6042
    """
    return runge_kutta(learning_rate, TABLEAUS["kutta3"], mode, preconditioner, accumulator_dtype)


def rk4(
    learning_rate: ScalarOrSchedule,
    mode: str = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
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
    return runge_kutta(learning_rate, TABLEAUS["rk4"], mode, preconditioner, accumulator_dtype)


def rk38(
    learning_rate: ScalarOrSchedule,
    mode: str = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Kutta's 3/8 rule: order 4, four gradients per step, a little more accurate than `rk4`.

    .. math::
      \begin{aligned}
      k_1 &= f(w_t), \quad k_2 = f\big(w_t + \tfrac h3 k_1\big), \quad
      k_3 = f\big(w_t - \tfrac h3 k_1 + h k_2\big), \quad
      k_4 = f(w_t + h k_1 - h k_2 + h k_3), \\
      w_{t+1} &= w_t + \tfrac h8 (k_1 + 3 k_2 + 3 k_3 + k_4)
      \end{aligned}

    In transparent mode it keeps one copy of the params more than `rk4`.

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
      >>> optimizer = tritia.rk38(0.5)
      >>> w = jax.numpy.asarray(1.0)
      >>> updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
      >>> print(f"{w + updates:.4f} {1 - 0.5 + 0.5**2 / 2 - 0.5**3 / 6 + 0.5**4 / 24:.4f}")
      0.6068 0.6068
    """
    return runge_kutta(learning_rate, TABLEAUS["rk38"], mode, preconditioner, accumulator_dtype)


def rkc(
    learning_rate: ScalarOrSchedule,
    stages: int,
    order: int = 2,
    damping: float | None = None,
    mode: str = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""A Runge-Kutta-Chebyshev step: s gradients for a step up to about s^2 times SGD's.

    .. math::
      d_0 = 0, \qquad d_j = \mu_j d_{j-1} + \nu_j d_{j-2}
          + \tilde\mu_j h f(w_t + d_{j-1}) + \tilde\gamma_j h f(w_t), \qquad w_{t+1} = w_t + d_s

    with the coefficients of `tritia.ChebyshevScheme`. Learning rate times sharpness may be
    `tritia.stability_interval(tritia.ChebyshevScheme(s, order))`: about :math:`1.94 s^2` at order 1
    and :math:`0.65 (s^2 - 1)` at order 2 with the usual damping.

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
    return runge_kutta(learning_rate, scheme, mode, preconditioner, accumulator_dtype)
