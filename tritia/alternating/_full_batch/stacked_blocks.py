"""A block B_l of `tritia.tiam` with all that belongs to it: one record, or a stack of equal ones.

What a visit reads of other blocks it is given, so that it can be mapped over a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia.alternating._blocks.rows import Spectrum
from tritia.alternating._examples import Examples
from tritia.alternating._full_batch.arrangement import Start
from tritia.alternating._full_batch.block_order import block_visits
from tritia.alternating._full_batch.block_pass import BlockPass
from tritia.alternating._full_batch.coefficients import Inertias
from tritia.alternating._full_batch.problem import (
    Displacements,
    Method,
    Numbers,
    coupling_residual,
)


class Block(NamedTuple):
    """A block B_l with what belongs to it, or a stack of such blocks.

    Attributes:
      kernel: W_l.
      bias: b_l, or None.
      z: z_l.
      a: a_{l-1}; None for the first layer.
      fit: a_{l-1} W_l + b_l.
      kernel_step: how the last pass moved the kernel, where that is read.
      activation_step: how it moved a, likewise.
      tau: what backtracking accepted last, or None.
      rho: the penalty of the fit.
      mu: the weight decay.
      gamma: the penalty of a_l - h(z_l); None for the last layer.
      gamma_below: that of a_{l-1} - h(z_{l-1}); None for the first.
    """

    kernel: Any
    bias: Any
    z: Any
    a: Any
    fit: Any
    kernel_step: Any
    activation_step: Any
    tau: Any
    rho: Any
    mu: Any
    gamma: Any
    gamma_below: Any


class Report(NamedTuple):
    """What the visits of a block report.

    Attributes:
      moved: how far the kernel has moved.
      tau: what backtracking accepted.
      rejected_kernel: 0 or 1, as of `Rejected`.
      rejected_z: a share.
      rejected_a: a share; 0 for the first layer.
    """

    moved: Any
    tau: Any
    rejected_kernel: Any
    rejected_z: Any
    rejected_a: Any


class Shared(NamedTuple):
    """What all blocks of a pass read."""

    method: Method
    inertias: Inertias
    examples: Examples
    spectrum: Spectrum | None
    tau: Any
    eps: Any


def visit_block(
    shared: Shared, layer: int, block: Block, z_below: jax.Array, a_above: jax.Array
) -> tuple[Block, Report]:
    """Updates a block; `layer` is where it stands in a network of its kind of layers."""
    below = layer - 1

    def at(*entries: tuple[int, Any]) -> Any:
        """What a pass over all layers has in tuples and lists."""
        return dict(entries)

    state = BlockPass(
        shared.method,
        Numbers(
            rho=at((layer, block.rho)),
            gamma=at((below, block.gamma_below), (layer, block.gamma)),
            mu=at((layer, block.mu)),
            tau=shared.tau,
            eps=shared.eps,
        ),
        shared.inertias,
        shared.examples,
        Displacements(
            () if block.kernel_step is None else at((layer, block.kernel_step)),
            () if block.activation_step is None else at((below, block.activation_step)),
        ),
        shared.spectrum if layer == 0 else None,
        kernels=at((layer, block.kernel)),
        biases=at((layer, block.bias)),
        z=at((below, z_below), (layer, block.z)),
        a=at((below, block.a), (layer, a_above)),
        fits=at((layer, block.fit)),
        moved=at((layer, None)),
        tau=at((layer, block.tau)),
        rejected_kernels={},
        rejected_z={},
        rejected_a=at((below, jnp.zeros((), block.z.dtype))),
    )
    for visit in block_visits(layer):
        state.update(visit)
    report = Report(
        state.moved[layer],
        state.tau[layer],
        state.rejected_kernels[layer],
        state.rejected_z[layer],
        state.rejected_a[below],
    )
    updated = block._replace(
        kernel=state.kernels[layer],
        bias=state.biases[layer],
        z=state.z[layer],
        a=state.a[below],
        fit=state.fits[layer],
    )
    return updated, report


def block_value(
    shared: Shared, layer: int, block: Block, z_below: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns a block's terms of the objective but the loss, and its coupling residual."""
    rows, method = shared.examples.rows, shared.method
    total = 0.5 * block.rho * rows.sum((block.z - block.fit) ** 2)
    total += 0.5 * block.mu * jnp.sum(block.kernel**2)
    if not layer:
        return total, jnp.zeros_like(total)
    activation = method.activations[layer - 1]
    if method.coupling == "penalty":
        total += 0.5 * block.gamma_below * rows.sum((block.a - activation.value(z_below)) ** 2)
    return total, coupling_residual(activation, z_below, block.a, rows)


def blocks_of(numbers: Numbers, start: Start) -> tuple[Block, Block, Block]:
    """Returns the first block, the stacked ones and the last."""
    kernels, biases, z, a = start.variables
    displacements, tau = start.displacements, start.tau
    steps: Any = displacements.kernels or (None,) * 3
    moved: Any = displacements.activations or (None,) * 2
    gamma = numbers.gamma or (None,) * (len(numbers.rho) - 1)

    def block(part: int, pick: Callable[[Sequence[Any]], Any], above: Any, below: Any) -> Block:
        return Block(
            kernels[part],
            biases[part],
            z[part],
            a[part - 1] if part else None,
            start.fits[part],
            steps[part],
            moved[part - 1] if part else None,
            pick(tau) if len(tau) else None,
            pick(numbers.rho),
            pick(numbers.mu),
            above,
            below,
        )

    def stacked(values: Sequence[Any]) -> jax.Array:
        return jnp.stack(list(values))

    return (
        block(0, lambda x: x[0], gamma[0], None),
        block(1, lambda x: stacked(x[1:-1]), stacked(gamma[1:]), stacked(gamma[:-1])),
        block(2, lambda x: x[-1], None, gamma[-1]),
    )


_OF_ROWS = ("z", "a", "fit", "activation_step")


def apart(block: Block) -> tuple[Block, Block]:
    """Returns what is the same on every device, and the arrays of one row per example."""
    empty = dict.fromkeys(Block._fields)
    of_rows = {name: getattr(block, name) for name in _OF_ROWS}
    return block._replace(**dict.fromkeys(_OF_ROWS)), Block(**{**empty, **of_rows})


def together(end: Block, of_rows: Block) -> Block:
    """Undoes `apart`."""
    return end._replace(**{name: getattr(of_rows, name) for name in _OF_ROWS})
