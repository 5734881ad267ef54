"""The Triple Momentum Method: the three extrapolations with optimal coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tritia._arguments import ScalarOrSchedule, check_number, value_at
from tritia._trees import compute_dtype
from tritia.inertia._triple_inertia import triple_inertia


def triple_momentum(
    smoothness: ScalarOrSchedule,
    *,
    strong_convexity: ScalarOrSchedule,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The Triple Momentum Method of Van Scoy, Freeman and Lynch.

    For a function whose gradient is L-Lipschitz (`smoothness`) and which is mu-strongly convex,
    with :math:`\kappa = L / \mu` and :math:`r = 1 - 1/\sqrt{\kappa}`, it is `triple_inertia` with

    .. math::

      \begin{aligned}
        \text{step}     &: (1 + r) / L \\
        \text{predict}  &: r^2 / (2 - r) \\
        \text{evaluate} &: r^2 / ((1 + r)(2 - r)) \\
        \text{output}   &: u + \tfrac{r^2}{1 - r^2} (u - u_{prev})
      \end{aligned}

    The distance of the output point to the minimiser falls by r per step, on every such function:
    the best rate known for a method of this kind. Nesterov's method with its own optimal
    coefficients guarantees :math:`\sqrt{1 - 1/\sqrt\kappa}` and gradient descent
    :math:`(\kappa - 1)/(\kappa + 1)`.

    As with `triple_inertia`, the loop's params are the point where gradients are taken, and
    `tritia.eval_params(state, params)` gives the output point, which is never fed back.

    The guarantee needs both constants: too small a `smoothness` diverges, too large a
    `strong_convexity` loses the rate. Where they are not known, `tritia.estimate_smoothness`
    estimates L, and the weight of an L2 penalty is a lower bound of mu for a convex loss.

    Args:
      smoothness: L > 0, a number, scalar array or schedule: the largest curvature, in units of
        loss per squared param.
      strong_convexity: mu, 0 < mu <= L, likewise: the smallest curvature.
      accumulator_dtype: dtype of the displacement; by default the params'.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `TripleInertiaState`. It has no learning
      rate of its own: `smoothness` plays that part.

    Raises:
      TypeError: an argument is not a number, a scalar array or a schedule.
      ValueError: a concrete constant is not positive and finite, or mu > L.

    References:
      Van Scoy, Freeman and Lynch, `The Fastest Known Globally Convergent First-Order Method for
      Minimizing Strongly Convex Functions <https://doi.org/10.1109/LCSYS.2017.2722406>`_, 2018

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> loss = lambda w: 0.5 * (16.0 * w[0] ** 2 + w[1] ** 2)
      >>> solver = tritia.triple_momentum(16.0, strong_convexity=1.0)  # r = 0.75
      >>> params = jnp.array([1.0, 1.0])
      >>> state = solver.init(params)
      >>> for _ in range(30):
      ...   updates, state = solver.update(jax.grad(loss)(params), state, params)
      ...   params = optax.apply_updates(params, updates)
      >>> bool(jnp.linalg.norm(tritia.eval_params(state, params)) < 1e-2)
      True
    """
    for name, constant in (("smoothness", smoothness), ("strong_convexity", strong_convexity)):
        check_number(name, constant, minimum=0.0, exclusive_minimum=True)
    concrete = (int, float, np.number)
    if (
        isinstance(smoothness, concrete)
        and isinstance(strong_convexity, concrete)
        and float(strong_convexity) > float(smoothness)
    ):
        raise ValueError(
            f"strong_convexity is {strong_convexity!r} and smoothness is {smoothness!r}; allowed:"
            " strong_convexity <= smoothness."
        )

    def number(formula: Callable[[Any, Any], Any]) -> ScalarOrSchedule:
        """Makes a number of L and r, or a schedule where one of the constants is."""

        def at(count: Any) -> Any:
            L, mu = _wide(smoothness, count), _wide(strong_convexity, count)
            return formula(L, _rate(L, mu))

        return at if callable(smoothness) or callable(strong_convexity) else at(0)

    return triple_inertia(
        optax.sgd(number(lambda L, r: (1 + r) / L)),
        predict=number(lambda L, r: r**2 / (2 - r)),
        evaluate=number(lambda L, r: r**2 / ((1 + r) * (2 - r))),
        correct=0.0,
        output=number(lambda L, r: r**2 / (1 - r**2)),
        accumulator_dtype=accumulator_dtype,
    )


def _rate(L: Any, mu: Any) -> Any:
    """Returns r = 1 - sqrt(mu / L), in double precision where both are concrete."""
    ratio = mu / L
    return 1 - (jnp.sqrt(ratio) if isinstance(ratio, jax.Array) else math.sqrt(ratio))


def _wide(constant: Any, count: Any) -> Any:
    """Returns the constant at step `count`: an array in float32 at least, or a Python number."""
    # inject_hyperparams hands over the params' dtype, a schedule what it likes, and in bfloat16
    # r = 0.999 is 1.
    value: Any = value_at(constant, count)
    if isinstance(value, jax.Array):
        return value.astype(compute_dtype(value))
    return float(value)
