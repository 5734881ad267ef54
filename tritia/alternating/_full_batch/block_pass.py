"""One sweep over all blocks: the pure core under `tritia.tiam`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia.alternating._blocks import dense
from tritia.alternating._blocks.dense import Layer
from tritia.alternating._full_batch import safeguard
from tritia.alternating._full_batch.problem import (
    Data,
    History,
    Inertias,
    Method,
    Numbers,
    Rejected,
    Variables,
    objective,
)
from tritia.inertia import _extrapolation as extrapolation


class SweepResult(NamedTuple):
    """What a sweep returns.

    Attributes:
      variables: all blocks.
      fits: L arrays a_{l-1} W_l + b_l of these variables, (n, d_l); in rows of weight 0, anything.
      moved: L arrays: how far each kernel has moved.
      history: what the next sweep needs.
      objective: the objective after the sweep.
      loss: its term R alone.
      rejected: what the safeguard put back.
    """

    variables: Variables
    fits: tuple[jax.Array, ...]
    moved: tuple[jax.Array, ...]
    history: History
    objective: jax.Array
    loss: jax.Array
    rejected: Rejected


def sweep(
    method: Method,
    numbers: Numbers,
    inertias: Inertias,
    variables: Variables,
    history: History,
    data: Data,
    known_fits: Sequence[jax.Array] | None = None,
) -> SweepResult:
    """Visits every block once (twice where the sweep is "symmetric").

    Args:
      method: what shapes the computation.
      numbers: the penalties.
      inertias: the coefficients of each kind of block.
      variables: all blocks.
      history: displacements from the sweep before; zeros at the first.
      data: the examples.
      known_fits: L arrays a_{l-1} W_l + b_l of the variables, or None where they are not known.

    Returns:
      The variables after the sweep, with what changed on the way.
    """
    kernels, biases = list(variables.kernels), list(variables.biases)
    z, a = list(variables.pre_activations), list(variables.activations)
    old = variables
    depth = len(kernels)
    dtype = z[0].dtype
    rows = data.rows
    zero = jnp.zeros((), dtype)
    fits: list[jax.Array | None] = list(known_fits or [None] * depth)
    moved: list[Any] = [None] * depth
    tau = list(history.tau) if len(history.tau) else [zero] * depth
    rejected_weights, rejected_z = [zero] * depth, [zero] * depth
    rejected_a = [zero] * (depth - 1)

    def inputs_of(layer: int) -> jax.Array:
        return a[layer - 1] if layer else data.inputs

    def fit_of(layer: int) -> jax.Array:
        known = fits[layer]
        if known is None:
            known = dense.fit(inputs_of(layer), kernels[layer], biases[layer])
            fits[layer] = known
        return known

    def update_weights(layer: int) -> None:
        current = Layer(kernels[layer], biases[layer], fit_of(layer))
        displacement = history.kernels[layer] if history.kernels else None
        updated, step, tau[layer], rejected_weights[layer] = safeguard.weights(
            method,
            layer,
            inputs_of(layer),
            z[layer],
            current,
            displacement,
            inertias,
            rho=numbers.rho[layer],
            mu=numbers.mu[layer],
            tau=tau[layer] if method.weight_steps[layer] == "backtracking" else numbers.tau,
            rows=rows,
            spectrum=data.spectrum if layer == 0 else None,
        )
        kernels[layer], biases[layer], fits[layer] = updated
        moved[layer] = step if moved[layer] is None else moved[layer] + step

    def update_output() -> None:
        layer = depth - 1
        z[layer], rejected_z[layer] = safeguard.output(
            method, z[layer], fit_of(layer), data.targets, inertias.outputs, numbers.rho[layer]
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
        displacement = history.activations[layer] if history.activations else None
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

    if method.sweep in ("backward", "symmetric"):
        for layer in reversed(range(depth)):
            update_pre_activation(layer)
            update_weights(layer)
            if layer:
                update_activation(layer - 1)
    if method.sweep in ("forward", "symmetric"):
        for layer in range(depth):
            update_weights(layer)
            update_pre_activation(layer)
            if layer < depth - 1:
                update_activation(layer)

    new = Variables(tuple(kernels), tuple(biases), tuple(z), tuple(a))
    new_fits = tuple(fit_of(layer) for layer in range(depth))
    total, loss = objective(method, numbers, new, data, new_fits)
    return SweepResult(
        new,
        new_fits,
        tuple(moved),
        History(
            tuple(moved) if history.kernels else (),
            extrapolation.displacement(new.activations, old.activations)
            if history.activations
            else (),
            jnp.stack(tau) if len(history.tau) else (),
        ),
        total,
        loss,
        Rejected(
            jnp.stack(rejected_weights),
            jnp.stack(rejected_z),
            jnp.stack(rejected_a) if rejected_a else jnp.zeros((0,), dtype),
        ),
    )
