"""One pass over all blocks: what `tritia.tiam` does at an update, as a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia.alternating._blocks import dense
from tritia.alternating._blocks.dense import Layer
from tritia.alternating._blocks.rows import Spectrum
from tritia.alternating._examples import Examples
from tritia.alternating._full_batch import safeguard
from tritia.alternating._full_batch.block_order import visits
from tritia.alternating._full_batch.coefficients import Inertias
from tritia.alternating._full_batch.problem import (
    Displacements,
    Method,
    Numbers,
    Rejected,
    Variables,
    objective,
)


class BlockPassResult(NamedTuple):
    """What `update_blocks` returns.

    Attributes:
      variables: all blocks.
      fits: L arrays a_{l-1} W_l + b_l of these variables, (n, d_l); in rows of weight 0, anything.
      displacements: how far each kernel has moved, and each activation where the next pass reads
        it.
      tau: (L,), the tau that backtracking accepted; or () as it was passed.
      objective: the objective after the pass.
      loss: its term R alone.
      rejected: what the safeguard put back.
    """

    variables: Variables
    fits: tuple[jax.Array, ...]
    displacements: Displacements
    tau: Any
    objective: jax.Array
    loss: jax.Array
    rejected: Rejected


def update_blocks(
    method: Method,
    numbers: Numbers,
    inertias: Inertias,
    variables: Variables,
    examples: Examples,
    *,
    displacements: Displacements = Displacements(),  # noqa: B008
    tau: Any = (),
    spectrum: Spectrum | None = None,
    known_fits: Sequence[jax.Array] | None = None,
) -> BlockPassResult:
    """Visits every block once (twice where the order is "symmetric").

    Args:
      method: what shapes the computation.
      numbers: the penalties.
      inertias: the coefficients of each kind of block.
      variables: all blocks.
      examples: the rows.
      displacements: from the pass before; zeros at the first.
      tau: (L,), what backtracking accepted last; () where no layer backtracks.
      spectrum: of the first layer's Gram matrix, or None.
      known_fits: L arrays a_{l-1} W_l + b_l of the variables, or None where they are not known.

    Returns:
      The variables after the pass, with what changed on the way.
    """
    kernels, biases = list(variables.kernels), list(variables.biases)
    z, a = list(variables.pre_activations), list(variables.activations)
    depth = len(kernels)
    dtype = z[0].dtype
    rows = examples.rows
    zero = jnp.zeros((), dtype)
    fits: list[jax.Array | None] = list(known_fits or [None] * depth)
    moved: list[Any] = [None] * depth
    taus = list(tau) if len(tau) else [zero] * depth
    rejected_kernels, rejected_z = [zero] * depth, [zero] * depth
    rejected_a = [zero] * (depth - 1)

    def inputs_of(layer: int) -> jax.Array:
        return a[layer - 1] if layer else examples.inputs

    def fit_of(layer: int) -> jax.Array:
        known = fits[layer]
        if known is None:
            known = dense.fit(inputs_of(layer), kernels[layer], biases[layer])
            fits[layer] = known
        return known

    def update_kernel(layer: int) -> None:
        current = Layer(kernels[layer], biases[layer], fit_of(layer))
        displacement = displacements.kernels[layer] if displacements.kernels else None
        updated, step, taus[layer], rejected_kernels[layer] = safeguard.kernel(
            method,
            layer,
            inputs_of(layer),
            z[layer],
            current,
            displacement,
            inertias,
            rho=numbers.rho[layer],
            mu=numbers.mu[layer],
            tau=taus[layer] if method.kernel_steps[layer] == "backtracking" else numbers.tau,
            rows=rows,
            spectrum=spectrum if layer == 0 else None,
        )
        kernels[layer], biases[layer], fits[layer] = updated
        moved[layer] = step if moved[layer] is None else moved[layer] + step

    def update_output() -> None:
        layer = depth - 1
        z[layer], rejected_z[layer] = safeguard.output(
            method, z[layer], fit_of(layer), examples.targets, inertias.outputs, numbers.rho[layer]
        )

    def update_pre_activation(layer: int) -> None:
        if layer == depth - 1:
            return update_output()
        block = (
            safeguard.pre_activation_penalty
            if method.coupling == "penalty"
            else safeguard.pre_activation_box
        )
        z[layer], rejected_z[layer] = block(
            method, layer, z[layer], fit_of(layer), a[layer], inertias.pre_activations, numbers
        )
        return None

    def update_activation(layer: int) -> None:
        following = Layer(kernels[layer + 1], biases[layer + 1], fit_of(layer + 1))
        displacement = displacements.activations[layer] if displacements.activations else None
        block = (
            safeguard.activation_penalty
            if method.coupling == "penalty"
            else safeguard.activation_box
        )
        a[layer], fits[layer + 1], rejected_a[layer] = block(
            method,
            layer,
            a[layer],
            displacement,
            z[layer],
            following,
            z[layer + 1],
            inertias.activations,
            numbers,
        )

    update = {
        "pre_activation": update_pre_activation,
        "kernel": update_kernel,
        "activation": update_activation,
    }
    for block, layer in visits(method.block_order, depth):
        update[block](layer)

    new = Variables(tuple(kernels), tuple(biases), tuple(z), tuple(a))
    new_fits = tuple(fit_of(layer) for layer in range(depth))
    total, loss = objective(method, numbers, new, examples, new_fits)
    return BlockPassResult(
        new,
        new_fits,
        Displacements(
            tuple(moved),
            optax.tree.sub(new.activations, variables.activations)
            if displacements.activations
            else (),
        ),
        jnp.stack(taus) if len(tau) else (),
        total,
        loss,
        Rejected(
            jnp.stack(rejected_kernels),
            jnp.stack(rejected_z),
            jnp.stack(rejected_a) if rejected_a else jnp.zeros((0,), dtype),
        ),
    )
