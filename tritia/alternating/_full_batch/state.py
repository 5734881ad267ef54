"""The state of `tritia.tiam`: how it is made, what a block pass starts from, and the next state.

The first block pass starts from a forward pass and takes the eigendecomposition of the first
layer's Gram matrix. Later ones start from the state. Its fits save them the products of the forward
direction as long as what they were computed from has not changed.

Where inputs are standardised, everything in the state is of the standardised ones, and `fitted` is
what the params become for them; the params that come in and the updates that go out are of the
inputs as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from tritia._batching import lockstep_cond
from tritia.alternating._blocks.rows import Spectrum, spectrum
from tritia.alternating._examples import Examples, fingerprint, fingerprint_size
from tritia.alternating._full_batch.arrangement import Arrangement, Start
from tritia.alternating._full_batch.block_pass import BlockPassResult
from tritia.alternating._full_batch.diagnostics import Diagnostics, diagnose, no_diagnostics
from tritia.alternating._full_batch.problem import Displacements, Method, Variables
from tritia.alternating._full_batch.restart import Restart
from tritia.alternating._full_batch.standard import (
    Standard,
    for_inputs,
    for_standardised,
    in_units,
    measure,
    standardised,
)

_REFRESH = 64
"""Updates after which fits are computed anew, so that rounding does not add up in them."""

_FIRST_TAU = 1.0
_SMALLEST_TAU = 1e-10


class TiamState(NamedTuple):
    """State of `tritia.tiam`.

    With `layer_sharding` arrays are stacked as the layers are. Of the first layer, of the stack and
    of the last layer, pre-activations and fits are (devices, n, d), (layers, n, d) and (devices, n,
    d_L): of the first only the first device's part is used, of the last only the last one's. The
    activations are those that enter the stack, and the last layer.

    Attributes:
      count: number of updates so far, (), int32.
      pre_activations: L arrays z_l, (n, d_l), in float32 at least.
      activations: L - 1 arrays a_l, (n, d_l).
      fits: L arrays a_{l-1} W_l + b_l, (n, d_l), in rows of positive weight. An update reuses them
        where it is given the params that the last one returned, in float32 at least, and no row has
        the weight 0.
      fitted: those params, as they are for standardised inputs where those are standardised; a tree
        like params in float32 at least.
      displacement: how the last update moved `fitted`, a tree like params in float32 at least; ()
        where `predict` and `evaluate` of the kernels are the number 0, which need no memory.
      activation_displacements: L - 1 arrays, or () likewise for the activations.
      tau: (L,), the tau that backtracking accepted last; () for the other kernel steps.
      spectrum: the eigendecomposition of the first layer's Gram matrix, or () where none is kept.
      standard: the mean and the scale of each column of the inputs, (d_0,) each; () where
        `standardize` is False.
      fingerprint: some entries of the inputs, to notice when others are passed.
      diagnostics: how the last update went.
    """

    count: jax.Array
    pre_activations: tuple[jax.Array, ...]
    activations: tuple[jax.Array, ...]
    fits: tuple[jax.Array, ...]
    fitted: optax.Params
    displacement: optax.Params
    activation_displacements: tuple[jax.Array, ...]
    tau: jax.Array | tuple[()]
    spectrum: Spectrum | tuple[()]
    standard: Standard | tuple[()]
    fingerprint: jax.Array
    diagnostics: Diagnostics


class Kept(NamedTuple):
    """Which parts of the state, that not every method reads, are kept.

    Attributes:
      displacement: of the params.
      activation_displacements: of the activations.
      tau: of backtracking.
      standard: of the columns of the inputs.
    """

    displacement: bool
    activation_displacements: bool
    tau: bool
    standard: bool


def initial_state(
    method: Method,
    arrangement: Arrangement,
    params: optax.Params,
    kept: Kept,
    *,
    sizes: tuple[int, ...],
    num_examples: int,
    keeps_spectrum: bool,
    dtype: jnp.dtype,
) -> TiamState:
    """Returns the state before the first update.

    Args:
      method: what shapes the block passes to come.
      arrangement: of the layers.
      params: the params.
      kept: what is kept.
      sizes: the widths of the network, inputs first.
      num_examples: n.
      keeps_spectrum: whether the eigendecomposition of the first layer's Gram matrix is kept.
      dtype: the solver's.
    """
    n, depth = num_examples, len(sizes) - 1
    # Three times anew: a donated state may hold an array but once.
    z, a = arrangement.zeros(n, dtype)
    spectral: Any = ()
    if keeps_spectrum:
        size = n if method.by_rows[0] else sizes[0]
        spectral = Spectrum(
            jnp.zeros(size, dtype), jnp.zeros((size, size), dtype), jnp.zeros(sizes[0], dtype)
        )
    return TiamState(
        count=jnp.zeros((), jnp.int32),
        pre_activations=z,
        activations=a,
        fits=arrangement.zeros(n, dtype)[0],
        fitted=optax.tree.zeros_like(params, dtype=dtype),
        displacement=optax.tree.zeros_like(params, dtype=dtype) if kept.displacement else (),
        activation_displacements=(
            arrangement.zeros(n, dtype)[1] if kept.activation_displacements else ()
        ),
        tau=jnp.full(depth, _FIRST_TAU, dtype) if kept.tau else (),
        spectrum=spectral,
        standard=(
            Standard(jnp.zeros(sizes[0], dtype), jnp.ones(sizes[0], dtype)) if kept.standard else ()
        ),
        fingerprint=jnp.zeros(fingerprint_size(n, sizes[0]), dtype),
        diagnostics=no_diagnostics(depth, dtype, restarts=method.restart is not None),
    )


def placeholder_state(params: optax.Params, kept: Kept) -> TiamState:
    """Returns a state with one leaf in place of every field that is not a copy of the params.

    The number of layers is unknown here; in `jax.tree.map` a leaf matches any tuple.

    Args:
      params: with placeholders for leaves, as `optax.tree.map_params` makes them.
      kept: what is kept.
    """
    fields = {name: jnp.zeros(()) for name in TiamState._fields}
    copies = {"fitted": params, "displacement": params if kept.displacement else ()}
    return TiamState(**{**fields, **copies})


def resume(
    method: Method,
    arrangement: Arrangement,
    params: optax.Params,
    kept: Kept,
    state: TiamState,
    examples: Examples,
) -> Start:
    """Returns what a block pass starts from.

    Args:
      method: what shapes the pass.
      arrangement: of the layers.
      params: as the caller passes them, which need not be those of the last update.
      kept: what is kept.
      state: of the update before.
      examples: as the caller passes them.
    """
    dtype, weights = examples.inputs.dtype, examples.rows.weights
    first = state.count == 0
    layers = arrangement.layers_of(params, dtype)
    marks = fingerprint(examples.inputs if weights is None else examples.inputs * weights)
    changed = ~first & jnp.any(marks != state.fingerprint)
    changed |= state.diagnostics.inputs_changed

    known = arrangement.layers_of(state.fitted, dtype)
    standard = _standard(state.standard, examples, first, layers[1][0] is not None)
    if standard:
        examples = examples._replace(inputs=standardised(standard, examples.inputs))
        returned, passed = for_inputs(standard, known), layers
        agree = _agree(in_units(standard, passed), in_units(standard, returned))
        # Going there and back again would round the params at every update. The derivative goes.
        layers = jax.tree.map(
            lambda new, old: new + jax.lax.stop_gradient(jnp.where(agree, old - new, 0)),
            for_standardised(standard, passed),
            known,
        )
    else:
        agree = _agree(layers, known)
    kernels, biases = layers
    stale = changed | ~agree | (state.count % _REFRESH == 0)
    if weights is not None:
        # A pass leaves no fit in rows of weight 0; reused, such fits diverge.
        stale |= jnp.any(weights == 0)
    z, a, fits = _blocks(method, arrangement, state, examples.inputs, kernels, biases, first, stale)
    return Start(
        examples,
        Variables(kernels, biases, z, a),
        fits,
        Displacements(
            arrangement.layers_of(state.displacement, dtype)[0] if kept.displacement else (),
            state.activation_displacements,
        ),
        jnp.maximum(cast(jax.Array, state.tau), 2 * _SMALLEST_TAU) if kept.tau else (),
        _spectrum(method, state.spectrum, examples, first, biases[0] is not None),
        standard,
        jnp.where(first, marks, state.fingerprint),
        changed,
    )


def advance(
    arrangement: Arrangement,
    params: optax.Params,
    kept: Kept,
    state: TiamState,
    start: Start,
    result: BlockPassResult,
    restarted: Restart | None,
) -> tuple[optax.Updates, TiamState]:
    """Returns the updates of the params, in the solver's dtype, and the next state.

    Args:
      arrangement: of the layers.
      params: as the caller passed them.
      kept: what is kept.
      state: of the update before.
      start: what the pass started from.
      result: what it returned.
      restarted: the restart before the pass, or None.
    """
    new = result.variables
    layers = (new.kernels, new.biases)
    moved = (
        result.displacements.kernels,
        jax.tree.map(jnp.subtract, new.biases, start.variables.biases),
    )
    displacement = updates = arrangement.like_params(params, *moved)
    if start.standard:
        # To the params that are meant, whatever rounding has made of those that were passed.
        passed = arrangement.layers_of(params, new.kernels[0].dtype)
        first = jax.tree.map(jnp.subtract, for_inputs(start.standard, layers), passed)
        updates = arrangement.like_params(
            params,
            *(of_first[:1] + of_all[1:] for of_first, of_all in zip(first, moved, strict=True)),
        )
    return updates, TiamState(
        count=cast(jax.Array, optax.safe_increment(state.count)),
        pre_activations=arrangement.place(new.pre_activations),
        activations=arrangement.place(new.activations),
        fits=arrangement.place(result.fits),
        fitted=arrangement.like_params(params, new.kernels, new.biases),
        displacement=displacement if kept.displacement else (),
        activation_displacements=result.displacements.activations,
        tau=result.tau,
        spectrum=() if start.spectrum is None else start.spectrum,
        standard=start.standard,
        fingerprint=start.fingerprint,
        diagnostics=diagnose(result, start.inputs_changed, restarted),
    )


def _spectrum(
    method: Method, kept: Any, examples: Examples, first: jax.Array, centred: bool
) -> Spectrum | None:
    """The spectrum of the first layer's Gram matrix: computed at first, kept later."""
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


def _standard(
    kept: Standard | tuple[()], examples: Examples, first: jax.Array, centred: bool
) -> Standard | tuple[()]:
    """The mean and the scale of the columns: computed at first, kept later."""
    if not isinstance(kept, Standard):
        return ()
    return lockstep_cond(
        first,
        lambda inputs, rows, kept: measure(inputs, rows, centred),
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
    arrangement: Arrangement,
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
        z, a = arrangement.forward(method, inputs, kernels, biases)
        return z, a, z

    def refit(inputs, kernels, biases, kept):
        z, a, _ = kept
        return z, a, arrangement.fits(inputs, a, kernels, biases)

    def anew(first, *operands):
        return lockstep_cond(first, forward, refit, *operands)

    kept = (state.pre_activations, state.activations, state.fits)
    operands = (first, inputs, kernels, biases, kept)
    return lockstep_cond(first | stale, anew, lambda *operands: operands[-1], *operands)
