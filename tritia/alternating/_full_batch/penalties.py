"""The penalties of `tritia.tiam`: over the updates, and over the layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tritia._arguments import ScalarOrSchedule, value_at
from tritia.alternating._full_batch.problem import Numbers


def layer_penalties(
    sizes: tuple[int, ...],
    dtype: jnp.dtype,
    count: jax.Array,
    *,
    rho: ScalarOrSchedule,
    gamma: ScalarOrSchedule,
    mu: ScalarOrSchedule,
    growth: ScalarOrSchedule,
    tau: ScalarOrSchedule,
    eps: ScalarOrSchedule,
    scale_mu: bool,
) -> Numbers:
    """Returns each layer's penalties at an update.

    From the output down, rho_l and gamma_l fall by `growth` a layer, gamma half a step ahead.

    Args:
      sizes: the widths of the network, inputs first.
      dtype: the solver's dtype.
      count: the number of updates before this one, ().
      rho: of the last layer's fit; numbers or schedules, as all that follow.
      gamma: of |a - h(z)|^2, half a step of `growth` beyond the output.
      mu: the weight decay.
      growth: q, the ratio of the penalties of a layer and of the one before it.
      tau: the proximal penalty of the kernels, the same for every layer.
      eps: the width of the constraint, the same for every layer.
      scale_mu: whether mu is relative to rho_l and the width of the layer's inputs.
    """
    rho, gamma, mu, growth, tau, eps = (
        jnp.asarray(value_at(number, count), dtype) for number in (rho, gamma, mu, growth, tau, eps)
    )
    depth = len(sizes) - 1
    ratios = [growth ** (layer - depth) for layer in range(1, depth + 1)]
    return Numbers(
        rho=tuple(rho * ratio for ratio in ratios),
        gamma=tuple(gamma * jnp.sqrt(growth) * ratio for ratio in ratios[:-1]),
        mu=tuple(
            mu * rho * ratio * width if scale_mu else mu
            for ratio, width in zip(ratios, sizes[:-1], strict=True)
        ),
        tau=tau,
        eps=eps,
    )
