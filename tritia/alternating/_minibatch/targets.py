r"""Targets of the pre-activations of every layer on a minibatch.

Blocks start from a forward pass, where every coupling holds, and stay near it. With the loss R, a
proximal weight :math:`1/\eta` on every block and penalties :math:`\rho`, from the output down:

.. math::

  \begin{aligned}
    z_L^* &= \arg\min_z \; R(z) + \tfrac{1}{2\eta} |z - z_L|^2 \\
    a_l^* &= \arg\min_a \; \tfrac\rho2 |a W_{l+1} + b_{l+1} - \hat z_{l+1}|^2
             + \tfrac1{2\eta} |a - a_l|^2 \\
    z_l^* &= \arg\min_z \; \tfrac\rho2 |h(z) - \hat a_l|^2 + \tfrac1{2\eta} |z - z_l|^2
  \end{aligned}

where a block pulls the one below it towards :math:`\hat z = z + (z^* - z) / (\eta\rho)`: a
quadratic of curvature :math:`\rho` whose gradient at z is that of the proximal step,
:math:`(z - z^*) / \eta`. To first order in :math:`\eta` the displacements
:math:`z^* - z` are those of gradient descent,

.. math::

  z_L^* - z_L = -\eta R'(z_L), \quad a_l^* - a_l = (z_{l+1}^* - z_{l+1}) W_{l+1}^T, \quad
  z_l^* - z_l = h'(z_l) (a_l^* - a_l)

which is one backward pass. At :math:`\rho = 1/\eta`, where :math:`\hat z = z^*`, they are the
blocks of `tritia.tiam` with equal penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tritia.alternating._blocks import activations as act, dense, losses
from tritia.alternating._blocks.activations import Activation
from tritia.alternating._blocks.losses import Loss


def gradient_displacements(
    kernels: Sequence[jax.Array],
    activations: Sequence[Activation],
    loss: Loss,
    z: Sequence[jax.Array],
    targets: Any,
    rate: jax.Array,
) -> list[jax.Array]:
    """Returns z* - z of each layer to first order in the rate: one backward pass.

    Args:
      kernels: of the network.
      activations: of its hidden layers.
      loss: R.
      z: pre-activations of the forward pass, (n, d_l) each.
      targets: as the loss takes them.
      rate: eta.
    """
    moves = [-rate * loss.gradient(z[-1], targets)]
    for layer in reversed(range(len(activations))):
        moves.append(slope_times(activations[layer], z[layer], moves[-1] @ kernels[layer + 1].T))
    return moves[::-1]


def exact_displacements(
    kernels: Sequence[jax.Array],
    activations: Sequence[Activation],
    loss: Loss,
    z: Sequence[jax.Array],
    a: Sequence[jax.Array],
    targets: Any,
    rate: jax.Array,
    rho: jax.Array,
) -> list[jax.Array]:
    """Returns z* - z of each layer with every block solved exactly.

    Args:
      kernels: of the network.
      activations: of its hidden layers.
      loss: R.
      z: pre-activations of the forward pass, (n, d_l) each.
      a: the inputs of each layer, (n, d_{l-1}) each.
      targets: as the loss takes them.
      rate: eta > 0.
      rho: the curvature of a block's pull on the one below it, > 0.
    """
    moves = [losses.prox(loss, targets, z[-1], z[-1], 1 / rate) - z[-1]]
    pull = 1 / (rate * rho)
    for layer in reversed(range(len(activations))):
        kernel = kernels[layer + 1]
        zero = jnp.zeros_like(a[layer + 1])
        move = dense.activation_penalty(  # measured from a_l, nothing is lost to its rounding
            zero, kernel, None, pull * moves[-1], gamma=1 / rate, rho=rho
        )
        pulled = a[layer + 1] + pull * move
        moved = act.prox(activations[layer], pulled, z[layer], z[layer], rho, 1 / rate)
        moves.append(moved - z[layer])
    return moves[::-1]


def slope_times(activation: Activation, z: jax.Array, move: jax.Array) -> jax.Array:
    """Returns h'(z) times a displacement, elementwise."""
    return jax.vjp(activation.value, z)[1](move)[0]
