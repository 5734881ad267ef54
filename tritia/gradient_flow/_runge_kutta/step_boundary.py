"""Where the params of a transparent Runge-Kutta method are a finished step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tritia._trees import find_states
from tritia.gradient_flow._runge_kutta.adaptive_step import AdaptiveRungeKuttaState
from tritia.gradient_flow._runge_kutta.fixed_step import RungeKuttaState, TransparentRungeKuttaState

STATES = (RungeKuttaState, TransparentRungeKuttaState, AdaptiveRungeKuttaState)


def at_step_boundary(state: Any) -> jax.Array:
    """Tells whether the params are a finished step, where `runge_kutta` is transparent.

    Args:
      state: an optimizer state, wherever the Runge-Kutta state sits in it: bare, in a chain, masked
        or partitioned, under injected hyperparameters or `optax.MultiSteps`; or any pytree that
        holds one, such as a Flax `TrainState`.

    Returns:
      A boolean scalar, which may be traced: True where the next gradient begins a step. Opaque
      and adaptive states are always there. Of several states, all must be there.

    Raises:
      ValueError: there is no Runge-Kutta state in `state`.

    Examples:
      >>> import optax, tritia
      >>> optimizer = optax.chain(optax.clip(1.0), tritia.heun(0.1, mode="transparent"))
      >>> w = jax.numpy.zeros(2)
      >>> state = optimizer.init(w)
      >>> for _ in range(3):
      ...     print(tritia.at_step_boundary(state))
      ...     _, state = optimizer.update(w, state, w)
      True
      False
      True
    """
    found = find_states(state, STATES)
    if not found:
        raise ValueError(
            "state holds no Runge-Kutta state, so there is no step boundary to tell. Pass the"
            " optimizer state made by tritia.runge_kutta, or a pytree that contains it; got"
            f" {type(state).__name__}."
        )
    stages = [x.stage for x in found if isinstance(x, TransparentRungeKuttaState)]
    return jnp.all(jnp.asarray([jnp.asarray(stage) == 0 for stage in stages], bool))
