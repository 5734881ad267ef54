"""One pass over all blocks: what `tritia.tiam` does at an update, as a pure function."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia.alternating._blocks.dense import Layer
from tritia.alternating._blocks.rows import Spectrum
from tritia.alternating._examples import Examples
from tritia.alternating._full_batch import safeguard
from tritia.alternating._full_batch.block_order import Visit, visits
from tritia.alternating._full_batch.coefficients import Inertias
from tritia.alternating._full_batch.problem import (
    Displacements,
    Method,
    Numbers,
    Rejected,
    Variables,
    coupling_residual,
    layer_fits,
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
      coupling_residual: (L - 1,), the largest :math:`|a_l - h(z_l)|` of each hidden layer.
      step_norms: (L,), the Frobenius norm of the change of each kernel.
    """

    variables: Variables
    fits: tuple[jax.Array, ...]
    displacements: Displacements
    tau: Any
    objective: jax.Array
    loss: jax.Array
    rejected: Rejected
    coupling_residual: jax.Array
    step_norms: jax.Array


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
    state = _first_state(
        method, numbers, inertias, variables, examples, displacements, tau, spectrum, known_fits
    )
    for visit in visits(method.block_order, len(variables.kernels)):
        state.update(visit)

    new = Variables(tuple(state.kernels), tuple(state.biases), tuple(state.z), tuple(state.a))
    fits = tuple(state.fits)
    total, loss = objective(method, numbers, new, examples, fits)
    moved = Displacements(
        tuple(state.moved),
        optax.tree.sub(new.activations, variables.activations) if displacements.activations else (),
    )
    gaps = [
        coupling_residual(*hidden, examples.rows)
        for hidden in zip(method.activations, new.pre_activations, new.activations, strict=False)
    ]
    return BlockPassResult(
        new,
        fits,
        moved,
        jnp.stack(state.tau) if len(tau) else (),
        total,
        loss,
        Rejected(
            jnp.stack(state.rejected_kernels),
            jnp.stack(state.rejected_z),
            jnp.stack(state.rejected_a) if state.rejected_a else jnp.zeros((0,), total.dtype),
        ),
        jnp.stack(gaps) if gaps else jnp.zeros((0,), total.dtype),
        jnp.stack([jnp.linalg.norm(step) for step in moved.kernels]),
    )


def _first_state(
    method: Method,
    numbers: Numbers,
    inertias: Inertias,
    variables: Variables,
    examples: Examples,
    displacements: Displacements,
    tau: Any,
    spectrum: Spectrum | None,
    known_fits: Sequence[jax.Array] | None,
) -> BlockPass:
    """Returns a pass that has visited nothing yet; the arguments are those of `update_blocks`."""
    kernels, biases, z, a = variables
    depth = len(kernels)
    zero = jnp.zeros((), z[0].dtype)
    return BlockPass(
        method,
        numbers,
        inertias,
        examples,
        displacements,
        spectrum,
        kernels=list(kernels),
        biases=list(biases),
        z=list(z),
        a=list(a),
        fits=list(known_fits or layer_fits(examples.inputs, a, kernels, biases)),
        moved=[None] * depth,
        tau=list(tau) if len(tau) else [zero] * depth,
        rejected_kernels=[zero] * depth,
        rejected_z=[zero] * depth,
        rejected_a=[zero] * (depth - 1),
    )


ByLayer = Any
"""A list, or a dict by layer."""


@dataclasses.dataclass
class BlockPass:
    """A pass under way: what it reads, and what every visit updates in place, by layer.

    Where only some blocks are visited, it holds in dicts what those visits read.
    """

    method: Method
    numbers: Numbers
    inertias: Inertias
    examples: Examples
    displacements: Displacements
    spectrum: Spectrum | None
    kernels: ByLayer
    biases: ByLayer
    z: ByLayer
    a: ByLayer
    fits: ByLayer
    moved: ByLayer
    tau: ByLayer
    rejected_kernels: ByLayer
    rejected_z: ByLayer
    rejected_a: ByLayer

    def update(self, visit: Visit) -> None:
        """Updates the block of a visit."""
        if visit.block == "kernel":
            self._kernel(visit.layer)
        elif visit.block == "activation":
            self._activation(visit.layer)
        elif visit.layer == len(self.method.kernel_steps) - 1:
            self._output(visit.layer)
        else:
            self._pre_activation(visit.layer)

    def _layer(self, layer: int) -> Layer:
        return Layer(self.kernels[layer], self.biases[layer], self.fits[layer])

    def _kernel(self, layer: int) -> None:
        past = self.displacements.kernels
        backtracks = self.method.kernel_steps[layer] == "backtracking"
        updated, step, tau, self.rejected_kernels[layer] = safeguard.kernel(
            self.method,
            layer,
            self.a[layer - 1] if layer else self.examples.inputs,
            self.z[layer],
            self._layer(layer),
            past[layer] if past else None,
            self.inertias,
            rho=self.numbers.rho[layer],
            mu=self.numbers.mu[layer],
            tau=self.tau[layer] if backtracks else self.numbers.tau,
            rows=self.examples.rows,
            spectrum=self.spectrum if layer == 0 else None,
        )
        self.kernels[layer], self.biases[layer], self.fits[layer] = updated
        before = self.moved[layer]
        self.moved[layer] = step if before is None else before + step
        self.tau[layer] = tau

    def _output(self, layer: int) -> None:
        self.z[layer], self.rejected_z[layer] = safeguard.output(
            self.method,
            self.z[layer],
            self.fits[layer],
            self.examples.targets,
            self.inertias.outputs,
            self.numbers.rho[layer],
        )

    def _pre_activation(self, layer: int) -> None:
        penalty = self.method.coupling == "penalty"
        block = safeguard.pre_activation_penalty if penalty else safeguard.pre_activation_box
        self.z[layer], self.rejected_z[layer] = block(
            self.method,
            layer,
            self.z[layer],
            self.fits[layer],
            self.a[layer],
            self.inertias.pre_activations,
            self.numbers,
        )

    def _activation(self, layer: int) -> None:
        past = self.displacements.activations
        penalty = self.method.coupling == "penalty"
        block = safeguard.activation_penalty if penalty else safeguard.activation_box
        self.a[layer], self.fits[layer + 1], self.rejected_a[layer] = block(
            self.method,
            layer,
            self.a[layer],
            past[layer] if past else None,
            self.z[layer],
            self._layer(layer + 1),
            self.z[layer + 1],
            self.inertias.activations,
            self.numbers,
        )
