"""Restarting z and a from the network, before a block pass.

Pass by pass, auxiliary variables may leave the network: they meet the targets, and the kernels fit
what the network cannot reach. A restart replaces them by a forward pass, where every coupling holds
but that of the output, which takes the prox of the loss around the network's outputs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from tritia.alternating._blocks import dense, losses
from tritia.alternating._examples import Examples
from tritia.alternating._full_batch.problem import Method, Numbers, Variables, row_objective

RestartRule = Literal["guarded", "always"]


class Restart(NamedTuple):
    """What a block pass starts from after a restart.

    Attributes:
      variables: all blocks.
      fits: L arrays a_{l-1} W_l + b_l of them, (n, d_l).
      network_loss: (), the loss of the network's outputs, summed over the rows.
      restarted: (), the share of rows that were restarted.
    """

    variables: Variables
    fits: tuple[jax.Array, ...]
    network_loss: jax.Array
    restarted: jax.Array


def restart(
    method: Method,
    numbers: Numbers,
    variables: Variables,
    fits: tuple[jax.Array, ...],
    examples: Examples,
) -> Restart:
    """Restarts every row, or under "guarded" those whose part of the objective does not rise.

    Given the kernels, the objective is a sum over rows, so that each is judged alone.

    Args:
      method: the activations, the loss, the coupling and the rule.
      numbers: the penalties.
      variables: all blocks.
      fits: L arrays a_{l-1} W_l + b_l of them, (n, d_l).
      examples: the rows.
    """
    kernels, biases, old_z, old_a = variables
    z, a = [fits[0]], []  # the first layer's inputs are never restarted
    for layer, activation in enumerate(method.activations, start=1):
        a.append(activation.value(z[-1]))
        z.append(dense.fit(a[-1], kernels[layer], biases[layer]))
    new_fits = tuple(z)
    outputs = z[-1]
    z[-1] = losses.prox(method.loss, examples.targets, outputs, old_z[-1], numbers.rho[-1])
    new = Variables(kernels, biases, tuple(z), tuple(a))

    network_loss = examples.rows.sum(method.loss.value(outputs, examples.targets)[:, None])
    rows = jnp.ones((outputs.shape[0], 1), bool)
    if method.restart == "guarded":
        before = row_objective(method, numbers, variables, examples, fits)
        after = row_objective(method, numbers, new, examples, new_fits)
        rows = (after <= before)[:, None]  # False for NaN

    def choose(news: tuple[jax.Array, ...], olds: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(jnp.where(rows, x, y) for x, y in zip(news, olds, strict=True))

    chosen = Variables(kernels, biases, choose(new.pre_activations, old_z), choose(tuple(a), old_a))
    share = examples.rows.mean(rows.astype(outputs.dtype))[0]
    return Restart(chosen, choose(new_fits, fits), network_loss, share)
