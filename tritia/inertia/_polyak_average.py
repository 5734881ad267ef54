"""An average of the iterates, to evaluate and to save."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import ScalarOrSchedule, check_number, value_at
from tritia._leaves import check_gradients, trained
from tritia._mesh import beside
from tritia._trees import compute_dtype, times


class PolyakAverageState(NamedTuple):
    """State of `tritia.polyak_average`.

    Attributes:
      count: number of updates so far, (), int32.
      average: the average of the params, like them, in float32 at least.
    """

    count: jax.Array
    average: Any


def growing_decay(largest: float = 0.995, delay: float = 10.0) -> optax.Schedule:
    """Returns the decay that makes an average of a growing number of iterates.

    At step t it is min(largest, t / (t + delay)): the average reaches back over a fixed share of
    the steps, and later over the last 1 / (1 - largest).

    Args:
      largest: the limit, in [0, 1].
      delay: the number of steps at which the decay is one half, > 0.

    Returns:
      The schedule.

    Raises:
      ValueError: a number outside its range.
      TypeError: an argument of the wrong type.

    Examples:
      >>> import tritia
      >>> [round(float(tritia.growing_decay()(t)), 3) for t in (0, 10, 90, 10_000)]
      [0.0, 0.5, 0.9, 0.995]
    """
    check_number("largest", largest, minimum=0, maximum=1, schedule=False)
    check_number("delay", delay, minimum=0, exclusive_minimum=True, schedule=False)
    return lambda count: jnp.minimum(largest, count / (count + delay))


def polyak_average(
    decay: ScalarOrSchedule = growing_decay(),  # noqa: B008
) -> optax.GradientTransformation:
    r"""Keeps an average of the iterates; the updates pass through unchanged.

    .. math::

      u_t = e_t u_{t-1} + (1 - e_t) w_t, \qquad w_t = w_{t-1} + \text{update}_t

    Put it last in a chain. `tritia.eval_params` returns u, for validation and for saving: its
    gradient noise is averaged out, so that it is better than w wherever the learning rate has not
    yet fallen to 0.

    Args:
      decay: e, in [0, 1]; a number or a schedule. By default `tritia.growing_decay()`, which
        averages over about the last tenth of a short run and never over more than the last 200
        steps or so.

    Returns:
      An `optax.GradientTransformation` with a `PolyakAverageState`; its update needs params.

    Raises:
      ValueError: a number outside its range, or no params in `update`.
      TypeError: an argument of the wrong type.

    References:
      Polyak and Juditsky, `Acceleration of Stochastic Approximation by Averaging
      <https://doi.org/10.1137/0330046>`_, 1992

    Examples:
      >>> import jax.numpy as jnp, optax, tritia
      >>> solver = optax.chain(optax.sgd(0.5), tritia.polyak_average(0.5))
      >>> params = {"w": jnp.array([2.0])}
      >>> state = solver.init(params)
      >>> updates, state = solver.update({"w": jnp.array([1.0])}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(params["w"], tritia.eval_params(state, params)["w"])
      [1.5] [1.75]
    """
    check_number("decay", decay, minimum=0, maximum=1)

    def init_fn(params: optax.Params) -> PolyakAverageState:
        average = jax.tree.map(lambda w: jnp.array(w, compute_dtype(w), copy=True), trained(params))
        return beside(params, PolyakAverageState(jnp.zeros((), jnp.int32), average))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, PolyakAverageState]:
        if params is None:
            raise ValueError(
                "polyak_average averages params: call solver.update(grads, state, params)."
            )
        checked, params = check_gradients(updates, params)
        share = 1 - jnp.asarray(value_at(decay, state.count))

        def averaged(average: jax.Array, new: jax.Array) -> jax.Array:
            return average + times(share, new.astype(average.dtype) - average)

        average = jax.tree.map(
            averaged, state.average, optax.apply_updates(cast(optax.Params, params), checked)
        )
        return updates, PolyakAverageState(
            cast(jax.Array, optax.safe_increment(state.count)), average
        )

    return optax.GradientTransformation(init_fn, update_fn)
