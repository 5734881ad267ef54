"""What `tritia.tiam` keeps between updates, and what a sweep starts from because of it.

The first sweep starts from a forward pass and takes the eigendecomposition of the first layer's
Gram matrix. Later ones go on from the state; the fits in it spare them the products of the forward
direction for as long as nothing else has touched what they were computed from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia._batching import lockstep_cond
from tritia.alternating import _examples as ex
from tritia.alternating._blocks.rows import Spectrum, spectrum
from tritia.alternating._full_batch import problem
from tritia.alternating._full_batch.diagnostics import Diagnostics
from tritia.alternating._full_batch.problem import Method
from tritia.alternating._network import Network, layers_of

_REFRESH = 64
"""Updates after which fits are computed anew, so that rounding does not add up in them."""


class TiamState(NamedTuple):
    """State of `tritia.tiam`.

    Attributes:
      count: number of updates so far, (), int32.
      pre_activations: L arrays z_l, (n, d_l), in float32 at least.
      activations: L - 1 arrays a_l, (n, d_l).
      fits: L arrays a_{l-1} W_l + b_l, (n, d_l), in rows that count. They spare an update the
        products where it is given the params that the last one led to, in float32 at least, and no
        row has the weight 0.
      fitted: those params, a tree like params in float32 at least.
      displacement: how the last update moved the params, a tree like params in float32 at least; ()
        where `predict` and `evaluate` of the weights are the number 0, which need no memory.
      activation_displacements: L - 1 arrays, or () likewise for the activations.
      tau: (L,), the tau that backtracking accepted last; () for the other weight steps.
      spectrum: the eigendecomposition of the first layer's Gram matrix, or () where none is kept.
      fingerprint: some entries of the inputs, to notice when others are passed.
      diagnostics: how the last update went.
    """

    count: jax.Array
    pre_activations: Any
    activations: Any
    fits: Any
    fitted: Any
    displacement: Any
    activation_displacements: Any
    tau: Any
    spectrum: Any
    fingerprint: jax.Array
    diagnostics: Diagnostics


def placeholder_state(params: Any, keeps_kernels: bool) -> TiamState:
    """Returns a state with one leaf in place of every field that is no copy of the params.

    How many layers there are is unknown here; a leaf stands for any tuple in `jax.tree.map`.

    Args:
      params: with placeholders for leaves.
      keeps_kernels: whether the weights keep a displacement.
    """
    fields = {name: jnp.zeros(()) for name in TiamState._fields}
    copies = {"fitted": params, "displacement": params if keeps_kernels else ()}
    return TiamState(**{**fields, **copies})


class Start(NamedTuple):
    """What a sweep starts from.

    Attributes:
      data: the examples, with the spectrum of the first layer's Gram matrix where one is kept.
      variables: the blocks.
      fits: L arrays a_{l-1} W_l + b_l of those blocks, (n, d_l).
      fingerprint: of the inputs of the first update.
      inputs_changed: whether any update so far has been given other inputs than the first, ().
    """

    data: problem.Data
    variables: problem.Variables
    fits: tuple[jax.Array, ...]
    fingerprint: jax.Array
    inputs_changed: jax.Array


def resume(
    method: Method, network: Network, state: TiamState, params: Any, examples: ex.Examples
) -> Start:
    """Returns what a sweep starts from.

    Args:
      method: how the sweep will go.
      network: the layers of params.
      state: of the update before.
      params: as the caller passes them, which need not be what that update led to.
      examples: as the caller passes them.
    """
    dtype, weights = examples.inputs.dtype, examples.rows.weights
    first = state.count == 0
    kernels, biases = layers_of(network, params, dtype)
    marks = ex.fingerprint(examples.inputs if weights is None else examples.inputs * weights)
    changed = ~first & jnp.any(marks != state.fingerprint)
    changed |= state.diagnostics.inputs_changed
    spectral = _spectrum(method, state.spectrum, examples, first, biases[0] is not None)

    known = layers_of(network, state.fitted, dtype)
    stale = changed | ~_agree((kernels, biases), known) | (state.count % _REFRESH == 0)
    if weights is not None:
        # A sweep leaves no fit in rows that count nothing; going on from none, they diverge.
        stale |= jnp.any(weights == 0)
    z, a, fits = _blocks(method, state, examples.inputs, kernels, biases, first, stale)
    return Start(
        problem.Data(examples.inputs, examples.targets, examples.rows, spectral),
        problem.Variables(kernels, biases, z, a),
        fits,
        jnp.where(first, marks, state.fingerprint),
        changed,
    )


def _spectrum(
    method: Method, kept: Any, examples: ex.Examples, first: jax.Array, centred: bool
) -> Spectrum | None:
    """The spectrum of the first layer's Gram matrix: taken at first, kept later."""
    if kept == ():
        return None
    return lockstep_cond(
        first,
        lambda inputs, rows, kept: spectrum(inputs, rows, centred, method.by_rows[0]),
        lambda inputs, rows, kept: kept,
        examples.inputs,
        examples.rows,
        kept,
    )


def _agree(layers: Any, others: Any) -> jax.Array:
    """Whether kernels and biases agree to rounding: what is added to params may be rounded anew."""

    def agrees(x: jax.Array, y: jax.Array) -> jax.Array:
        gap, size = (jnp.max(jnp.abs(array), initial=0) for array in (x - y, y))
        return gap <= 4 * jnp.finfo(y.dtype).eps * size

    pairs = jax.tree.map(agrees, layers, others)
    return jnp.all(jnp.stack(jax.tree.leaves(pairs)))


def _blocks(
    method: Method,
    state: TiamState,
    inputs: jax.Array,
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array | None, ...],
    first: jax.Array,
    stale: jax.Array,
) -> tuple[tuple[jax.Array, ...], ...]:
    """Returns z, a and their fits: a forward pass at first, later the state's.

    The state's fits are computed anew where they are stale.
    """

    def forward(inputs, kernels, biases, kept):
        passed = problem.forward(method, inputs, kernels, biases)
        return passed.pre_activations, passed.activations, passed.pre_activations

    def refit(inputs, kernels, biases, kept):
        z, a, _ = kept
        return z, a, problem.layer_fits(inputs, a, kernels, biases)

    def anew(first, *operands):
        return lockstep_cond(first, forward, refit, *operands)

    kept = (state.pre_activations, state.activations, state.fits)
    operands = (first, inputs, kernels, biases, kept)
    return lockstep_cond(first | stale, anew, lambda *operands: operands[-1], *operands)
