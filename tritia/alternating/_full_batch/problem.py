r"""What is minimised layer by layer, and the types that a pass over its blocks takes and returns.

With h the activations, R the loss and :math:`m_l = a_{l-1} W_l + b_l`:

.. math::

  \min \; R(z_L, y) + \sum_l \frac{\mu_l}{2} |W_l|^2 + \sum_l \frac{\rho_l}{2} |z_l - m_l|^2
      + \sum_{l < L} \frac{\gamma_l}{2} |a_l - h(z_l)|^2

(coupling "penalty"), or with :math:`|a_l - h(z_l)| \le \epsilon` in place of the last sum (coupling
"inequality").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from tritia.alternating._blocks import dense
from tritia.alternating._blocks.activations import Activation
from tritia.alternating._blocks.dense import Number
from tritia.alternating._blocks.losses import Loss
from tritia.alternating._blocks.rows import Rows
from tritia.alternating._examples import Examples
from tritia.alternating._full_batch.block_order import BlockOrder

Coupling = Literal["penalty", "inequality"]
KernelStep = Literal["auto", "exact", "line_search", "backtracking"]


class Variables(NamedTuple):
    """The blocks of a network of L layers on n examples.

    Attributes:
      kernels: L arrays W_l, (d_{l-1}, d_l).
      biases: L arrays b_l, (d_l,), or None for a layer without bias.
      pre_activations: L arrays z_l, (n, d_l).
      activations: L - 1 arrays a_l, (n, d_l).
    """

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array | None, ...]
    pre_activations: tuple[jax.Array, ...]
    activations: tuple[jax.Array, ...]


class Numbers(NamedTuple):
    """The numbers of one block pass.

    Attributes:
      rho: L penalties of |z_l - m_l|^2, > 0.
      gamma: L - 1 penalties of |a_l - h(z_l)|^2, > 0 (coupling "penalty").
      mu: L penalties of |W_l|^2, >= 0.
      tau: the proximal penalty of the exact kernel step, >= 0.
      eps: the width of |a_l - h(z_l)| <= eps, >= 0 (coupling "inequality").
    """

    rho: tuple[Number, ...]
    gamma: tuple[Number, ...]
    mu: tuple[Number, ...]
    tau: Number
    eps: Number


@dataclasses.dataclass(frozen=True)
class Method:
    """What shapes the computation of a block pass; hashable, static under `jax.jit`.

    Attributes:
      activations: L - 1 activations.
      loss: the output's loss.
      kernel_steps: L of "exact", "line_search", "backtracking".
      by_rows: L flags: whether the layer's Gram matrix is n x n (else d x d).
      coupling: "penalty" or "inequality".
      block_order: in which order the blocks are visited.
      safeguard: whether an accelerated block that raises the objective is replaced.
      activation_steps: projected gradient steps of an activation block in its box.
      restart: which rows of z and a are restarted from a forward pass before each block pass:
        "guarded" or "always", as `RestartRule` names them, or None.
    """

    activations: tuple[Activation, ...]
    loss: Loss
    kernel_steps: tuple[KernelStep, ...]
    by_rows: tuple[bool, ...]
    coupling: Coupling = "penalty"
    block_order: BlockOrder = "backward"
    safeguard: bool = True
    activation_steps: int = 5
    restart: str | None = None


class Displacements(NamedTuple):
    """How far the last block pass moved the blocks that read it.

    Attributes:
      kernels: L arrays like the kernels, or () where predict and evaluate are the number 0.
      activations: L - 1 arrays like the activations, or () likewise.
    """

    kernels: tuple[jax.Array, ...] = ()
    activations: tuple[jax.Array, ...] = ()


class Rejected(NamedTuple):
    """Which share of each block the safeguard put back to the plain or the old values.

    At the last visit, where a pass visits blocks twice; rows of weight 0 are counted like the rest.

    Attributes:
      kernels: (L,), 0 or 1.
      pre_activations: (L,), the share of elements (of rows for the last, the output).
      activations: (L - 1,), the share of rows.
    """

    kernels: jax.Array
    pre_activations: jax.Array
    activations: jax.Array


def layer_fits(
    inputs: jax.Array,
    activations: tuple[jax.Array, ...],
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array | None, ...],
) -> tuple[jax.Array, ...]:
    """Returns the L arrays a_{l-1} W_l + b_l, (n, d_l), of these blocks."""
    layers = zip((inputs, *activations), kernels, biases, strict=True)
    return tuple(dense.fit(a, kernel, bias) for a, kernel, bias in layers)


def objective(
    method: Method,
    numbers: Numbers,
    variables: Variables,
    examples: Examples,
    fits: Sequence[jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the objective and the loss alone, both summed over the rows.

    Args:
      method: holds the activations, the loss and the coupling.
      numbers: rho, gamma and mu.
      variables: all blocks.
      examples: the rows.
      fits: L arrays a_{l-1} W_l + b_l where they are known.
    """
    kernels, biases, _, a = variables
    if fits is None:
        fits = layer_fits(examples.inputs, a, kernels, biases)
    z, rows = variables.pre_activations, examples.rows
    loss = rows.sum(method.loss.value(z[-1], examples.targets)[:, None])
    total = rows.sum(row_objective(method, numbers, variables, examples, fits)[:, None])
    for layer, kernel in enumerate(kernels):
        total += 0.5 * numbers.mu[layer] * jnp.sum(kernel**2)
    return total, loss


def row_objective(
    method: Method,
    numbers: Numbers,
    variables: Variables,
    examples: Examples,
    fits: Sequence[jax.Array],
) -> jax.Array:
    """Returns each row's terms of the objective, (n,): all but the weight decay, unweighted.

    Args:
      method: holds the activations, the loss and the coupling.
      numbers: rho and gamma.
      variables: all blocks.
      examples: the rows.
      fits: L arrays a_{l-1} W_l + b_l.
    """
    z, a = variables.pre_activations, variables.activations
    total = method.loss.value(z[-1], examples.targets)
    for layer, fit in enumerate(fits):
        total += 0.5 * numbers.rho[layer] * jnp.sum((z[layer] - fit) ** 2, axis=-1)
    if method.coupling == "penalty":
        for layer, activation in enumerate(method.activations):
            gap = a[layer] - activation.value(z[layer])
            total += 0.5 * numbers.gamma[layer] * jnp.sum(gap**2, axis=-1)
    return total


def coupling_residual(activation: Activation, z: jax.Array, a: jax.Array, rows: Rows) -> jax.Array:
    """Returns the largest |a - h(z)| of a hidden layer in rows of positive weight, ()."""
    gap = jnp.abs(a - activation.value(z))
    return jnp.max(gap if rows.weights is None else jnp.where(rows.weights > 0, gap, 0))
