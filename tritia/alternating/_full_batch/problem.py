r"""What is minimised layer by layer, and the parts that a sweep hands around.

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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia.alternating._blocks import activations as act, dense, losses
from tritia.alternating._blocks.dense import Number
from tritia.alternating._blocks.rows import Rows, Spectrum
from tritia.inertia import Inertia


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
    """The numbers of one sweep.

    Attributes:
      rho: L penalties of |z_l - m_l|^2, > 0.
      gamma: L - 1 penalties of |a_l - h(z_l)|^2, > 0 (coupling "penalty").
      mu: L penalties of |W_l|^2, >= 0.
      tau: the proximal penalty of the exact weight step, >= 0.
      eps: the width of |a_l - h(z_l)| <= eps, >= 0 (coupling "inequality").
    """

    rho: tuple[Number, ...]
    gamma: tuple[Number, ...]
    mu: tuple[Number, ...]
    tau: Number
    eps: Number


class Inertias(NamedTuple):
    """Coefficients for each kind of block: numbers, not schedules."""

    weights: Inertia = Inertia()
    biases: Inertia = Inertia()
    pre_activations: Inertia = Inertia()
    activations: Inertia = Inertia()
    outputs: Inertia = Inertia()


@dataclasses.dataclass(frozen=True)
class Method:
    """What shapes the computation of a sweep; hashable, static under `jax.jit`.

    Attributes:
      activations: L - 1 activations.
      loss: the output's loss.
      weight_steps: L of "exact", "line_search", "backtracking".
      by_rows: L flags: whether the layer's Gram matrix is n x n (else d x d).
      coupling: "penalty" or "inequality".
      sweep: "forward", "backward" or "symmetric".
      safeguard: whether an accelerated block that raises the objective is replaced.
      activation_steps: projected gradient steps of an activation block in its box.
    """

    activations: tuple[act.Activation, ...]
    loss: losses.Loss
    weight_steps: tuple[str, ...]
    by_rows: tuple[bool, ...]
    coupling: str = "penalty"
    sweep: str = "backward"
    safeguard: bool = True
    activation_steps: int = 5


class History(NamedTuple):
    """What the blocks remember from sweep to sweep.

    Attributes:
      kernels: L displacements of the kernels, or () where predict and evaluate are the number 0.
      activations: L - 1 displacements of the activations, or () likewise.
      tau: (L,), the last tau that backtracking accepted, or () where no layer backtracks.
    """

    kernels: tuple[jax.Array, ...] = ()
    activations: tuple[jax.Array, ...] = ()
    tau: Any = ()


class Rejected(NamedTuple):
    """Which share of each block the safeguard put back to the plain or the old values.

    At the last visit, where a sweep visits blocks twice; rows of weight 0 count like any other.

    Attributes:
      weights: (L,), 0 or 1.
      pre_activations: (L,), the share of elements (of rows for the last, the output).
      activations: (L - 1,), the share of rows.
    """

    weights: jax.Array
    pre_activations: jax.Array
    activations: jax.Array


class Data(NamedTuple):
    """The examples of a sweep.

    Attributes:
      inputs: a_0, (n, d_0).
      targets: y, as the loss takes them.
      rows: how the rows count.
      spectrum: of the first layer's Gram matrix, or None.
    """

    inputs: jax.Array
    targets: jax.Array
    rows: Rows
    spectrum: Spectrum | None = None


def is_zero(number: Any) -> bool:
    """Whether a coefficient is the Python number 0, so that its block needs no history."""
    return isinstance(number, (int, float)) and number == 0


def needs_history(inertia: Inertia) -> bool:
    """Whether a block with these coefficients reads its displacement."""
    return not (is_zero(inertia.predict) and is_zero(inertia.evaluate))


def forward(
    method: Method,
    inputs: jax.Array,
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array | None, ...],
) -> Variables:
    """Returns the variables of a forward pass, where every coupling holds exactly.

    Args:
      method: holds the activations.
      inputs: a_0, (n, d_0).
      kernels: L kernels.
      biases: L biases or None.
    """
    z = [dense.fit(inputs, kernels[0], biases[0])]
    a = []
    for activation, kernel, bias in zip(method.activations, kernels[1:], biases[1:], strict=True):
        a.append(activation.value(z[-1]))
        z.append(dense.fit(a[-1], kernel, bias))
    return Variables(tuple(kernels), tuple(biases), tuple(z), tuple(a))


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
    data: Data,
    fits: Sequence[jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the objective and the loss alone, both summed over the rows.

    Args:
      method: holds the activations, the loss and the coupling.
      numbers: rho, gamma and mu.
      variables: all blocks.
      data: the examples.
      fits: L arrays a_{l-1} W_l + b_l where they are known.
    """
    kernels, biases, z, a = variables
    rows = data.rows
    if fits is None:
        fits = layer_fits(data.inputs, a, kernels, biases)
    loss = rows.sum(method.loss.value(z[-1], data.targets)[:, None])
    total = loss
    for layer, kernel in enumerate(kernels):
        total += 0.5 * numbers.rho[layer] * rows.sum((z[layer] - fits[layer]) ** 2)
        total += 0.5 * numbers.mu[layer] * jnp.sum(kernel**2)
    if method.coupling == "penalty":
        for layer, activation in enumerate(method.activations):
            gap = a[layer] - activation.value(z[layer])
            total += 0.5 * numbers.gamma[layer] * rows.sum(gap**2)
    return total, loss
