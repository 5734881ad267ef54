"""The forward pass of a network of dense layers."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from tritia.alternating._blocks import dense
from tritia.alternating._blocks.activations import Activation


def forward_pass(
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array | None],
    activations: Sequence[Activation],
    inputs: jax.Array,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Returns the pre-activations and the inputs of each layer.

    Args:
      kernels: L kernels, (d_{l-1}, d_l).
      biases: L biases, (d_l,), or None for a layer without one.
      activations: L - 1 of them, one after each layer but the last.
      inputs: a_0, (n, d_0).

    Returns:
      z_1 .. z_L, (n, d_l), and a_0 .. a_{L-1}, (n, d_{l-1}).
    """
    z, a = [], [inputs]
    for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        z.append(dense.fit(a[-1], kernel, bias))
        if layer < len(activations):
            a.append(activations[layer].value(z[-1]))
    return tuple(z), tuple(a)
