"""How the layers' arrays are arranged in the state of `tritia.tiam`, and in the passes over them.

Here stands the arrangement of each layer by itself.

`tritia.alternating._full_batch.layer_parallel` has the other arrangement, of layers over devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from tritia.alternating._blocks.forward_pass import forward_pass
from tritia.alternating._blocks.rows import Spectrum
from tritia.alternating._examples import Examples
from tritia.alternating._full_batch.block_pass import BlockPassResult, update_blocks
from tritia.alternating._full_batch.coefficients import Inertias
from tritia.alternating._full_batch.problem import (
    Displacements,
    Method,
    Numbers,
    Variables,
    layer_fits,
)
from tritia.alternating._full_batch.standard import Standard
from tritia.alternating._network import Network, layers_of, like_params

Arrays = tuple[jax.Array, ...]
Biases = tuple[jax.Array | None, ...]


class Start(NamedTuple):
    """What a block pass starts from.

    Attributes:
      examples: the rows, with standardised inputs where they are standardised.
      variables: the blocks, of these inputs.
      fits: L arrays a_{l-1} W_l + b_l of those blocks, (n, d_l).
      displacements: of the last pass.
      tau: (L,), what backtracking tries first, or ().
      spectrum: of the first layer's Gram matrix, or None where none is kept.
      standard: of the columns of the inputs, or ().
      fingerprint: of the inputs of the first update.
      inputs_changed: whether any update so far has been given other inputs than the first, ().
    """

    examples: Examples
    variables: Variables
    fits: tuple[jax.Array, ...]
    displacements: Displacements
    tau: Any
    spectrum: Spectrum | None
    standard: Standard | tuple[()]
    fingerprint: jax.Array
    inputs_changed: jax.Array


class Arrangement(Protocol):
    """What a block pass works on, and how it is made from params and made into params."""

    def layers_of(self, params: optax.Params, dtype: Any) -> tuple[Arrays, Biases]:
        """Returns the kernels and the biases of a tree like params."""
        ...

    def like_params(
        self, params: optax.Params, kernels: Sequence[jax.Array], biases: Sequence[jax.Array | None]
    ) -> optax.Params:
        """Returns a tree like params with these kernels and biases."""
        ...

    def zeros(self, num_examples: int, dtype: Any) -> tuple[Arrays, Arrays]:
        """Returns pre-activations, and activations, of zeros, where they are to lie."""
        ...

    def place(self, arrays: Arrays) -> Arrays:
        """Returns arrays of one row per example where they are to lie."""
        ...

    def forward(
        self, method: Method, inputs: jax.Array, kernels: Arrays, biases: Biases
    ) -> tuple[Arrays, Arrays]:
        """Returns the pre-activations and the activations of a forward pass."""
        ...

    def fits(
        self, inputs: jax.Array, activations: Arrays, kernels: Arrays, biases: Biases
    ) -> Arrays:
        """Returns a_{l-1} W_l + b_l of every layer."""
        ...

    def update(
        self, method: Method, numbers: Numbers, inertias: Inertias, start: Start
    ) -> BlockPassResult:
        """Visits every block, as `update_blocks`."""
        ...


class OneByOne(NamedTuple):
    """An array for each layer.

    Attributes:
      network: the layers of params.
      put: gives an array of one row per example its sharding.
    """

    network: Network
    put: Callable[[jax.Array], jax.Array]

    def layers_of(self, params: optax.Params, dtype: Any) -> tuple[Arrays, Biases]:
        return layers_of(self.network, params, dtype)

    def like_params(
        self, params: optax.Params, kernels: Sequence[jax.Array], biases: Sequence[jax.Array | None]
    ) -> optax.Params:
        return like_params(self.network, params, kernels, biases)

    def zeros(self, num_examples: int, dtype: Any) -> tuple[Arrays, Arrays]:
        z = tuple(jnp.zeros((num_examples, width), dtype) for width in self.network.sizes[1:])
        # Not the same arrays: a donated state may hold each but once.
        return self.place(z), self.place(tuple(map(jnp.zeros_like, z[:-1])))

    def place(self, arrays: Arrays) -> Arrays:
        return tuple(map(self.put, arrays))

    def forward(
        self, method: Method, inputs: jax.Array, kernels: Arrays, biases: Biases
    ) -> tuple[Arrays, Arrays]:
        z, a = forward_pass(kernels, biases, method.activations, inputs)
        return z, a[1:]

    def fits(
        self, inputs: jax.Array, activations: Arrays, kernels: Arrays, biases: Biases
    ) -> Arrays:
        return layer_fits(inputs, activations, kernels, biases)

    def update(
        self, method: Method, numbers: Numbers, inertias: Inertias, start: Start
    ) -> BlockPassResult:
        return update_blocks(
            method,
            numbers,
            inertias,
            start.variables,
            start.examples,
            displacements=start.displacements,
            tau=start.tau,
            spectrum=start.spectrum,
            known_fits=start.fits,
        )
