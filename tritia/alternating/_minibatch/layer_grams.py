"""The Gram matrices of the inputs of dense layers, on minibatches of weighted rows."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from tritia._arguments import value_at
from tritia._batching import lockstep_cond
from tritia._mesh import Axes
from tritia.alternating._network import Network
from tritia.layerwise import _running_gram as running_gram
from tritia.layerwise._damped_inverse import damped_inverse, zero_inverse
from tritia.layerwise._running_gram import GramSettings, InputGramState


def widths(network: Network) -> tuple[int, ...]:
    """Returns the number of inputs of each layer, the constant one of a bias included."""
    return tuple(
        size + (bias is not None)
        for size, bias in zip(network.sizes[:-1], network.biases, strict=True)
    )


def with_ones(a: jax.Array, bias: int | jax.Array | None) -> jax.Array:
    """Returns a, (n, d), with a column of ones last for a layer that has a bias."""
    return a if bias is None else jnp.pad(a, ((0, 0), (0, 1)), constant_values=1)


def start(
    settings: GramSettings,
    input_gram: jax.Array | None,
    sizes: Sequence[int],
    dtype: jnp.dtype,
) -> InputGramState:
    """Returns the state before the first minibatch.

    Args:
      settings: how the Gram matrices are kept.
      input_gram: that of the first layer where it is known.
      sizes: the inputs of each layer, the constant one of a bias included.
      dtype: of the state.

    Raises:
      ValueError: `input_gram` does not fit the first layer.
    """

    def zeros(size: int) -> jax.Array:
        return jnp.zeros((size,) if size > settings.max_gram else (size, size), dtype)

    grams = [zeros(size) for size in sizes]
    if input_gram is not None:
        shape = tuple(jnp.shape(input_gram))
        if shape != (sizes[0], sizes[0]):
            raise ValueError(
                f"input_gram has shape {shape}, but the first layer needs"
                f" ({sizes[0]}, {sizes[0]}): a row for each input, and a last one for the bias if"
                " it has one."
            )
        given = jnp.array(input_gram, dtype, copy=True)
        grams[0] = given if grams[0].ndim == 2 else jnp.diagonal(given).copy()
    return InputGramState(
        count=jnp.zeros((), jnp.int32),
        next_refresh=jnp.zeros((), jnp.int32),
        next_factor=jnp.zeros((), jnp.int32),
        mass=jnp.zeros((), dtype),
        grams=tuple(grams),
        inverses=tuple(
            zero_inverse(size, dtype, diagonal=size > settings.max_gram, rank=settings.rank)
            for size in sizes
        ),
    )


def check_input_gram(input_gram: jax.Array | None) -> None:
    """Checks the Gram matrix of all rows of the inputs, where one is given.

    Raises:
      ValueError: it is not a square matrix.
    """
    if input_gram is not None:
        shape = tuple(jnp.shape(input_gram))
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                f"input_gram has shape {shape}; it must be a square matrix, a^T a / n of all"
                " inputs a with a column of ones last where the first layer has a bias."
            )


def advance(
    settings: GramSettings,
    state: InputGramState,
    inputs: Sequence[jax.Array],
    shares: jax.Array,
    axes: Axes,
    *,
    known: bool,
) -> InputGramState:
    """Returns the state after a minibatch: refreshed and factored if that is due.

    Args:
      settings: how the Gram matrices are kept.
      state: before the minibatch.
      inputs: of each layer, (n, d) with the column of ones.
      shares: the share of each row in a mean, as `row_shares` returns them.
      axes: of `jax.shard_map`, over which the rows are spread.
      known: whether the first Gram matrix stays what it is.
    """

    def minibatch(grams, operands):
        inputs, shares = operands
        news = tuple(
            mean_gram(a, shares, axes, diagonal=gram.ndim == 1)
            for gram, a in zip(grams, inputs, strict=True)
        )
        return total(shares, axes) > 0, news  # a batch of weight 0 has no Gram matrix

    first = int(known)
    averaged = state._replace(grams=state.grams[first:], inverses=state.inverses[first:])
    after = running_gram.advance(
        settings, averaged, minibatch, (tuple(inputs[first:]), shares), damped_inverse
    )
    if not known:
        return after
    inverse = lockstep_cond(
        state.count == 0,
        lambda damping, gram, kept: damped_inverse(gram, damping, kept),
        lambda damping, gram, kept: kept,
        jnp.asarray(value_at(settings.damping, state.count), state.mass.dtype),
        state.grams[0],
        state.inverses[0],
    )
    return after._replace(grams=(state.grams[0], *after.grams), inverses=(inverse, *after.inverses))


def row_shares(weights: jax.Array | None, n: int, dtype: jnp.dtype, axes: Axes) -> jax.Array:
    """Returns the share of each row in a mean, (n, 1); zeros where all weights are 0.

    Args:
      weights: (n,) or (n, 1), or None where all are 1.
      n: the number of rows.
      dtype: of the result.
      axes: of `jax.shard_map`, over which the rows are spread.
    """
    ones = jnp.ones((n, 1), dtype) if weights is None else weights.reshape(n, 1)
    mass = total(ones, axes)
    return ones / jnp.where(mass > 0, mass, 1)


def total(x: jax.Array, axes: Axes) -> jax.Array:
    """Returns the sum of an array, (), over these axes of `jax.shard_map` too."""
    return over_all_rows(jnp.sum(x), axes)


def over_all_rows(x: jax.Array, axes: Axes) -> jax.Array:
    """Returns a sum over rows, summed over the axes of `jax.shard_map` that spread them as well."""
    return jax.lax.psum(x, tuple(sorted(axes))) if axes else x


def mean_gram(a: jax.Array, shares: jax.Array, axes: Axes, *, diagonal: bool) -> jax.Array:
    """Returns the mean over the rows of a^T a, (d, d), or its diagonal, (d,)."""
    weighted = shares * a
    gram = jnp.sum(weighted * a, axis=0) if diagonal else weighted.T @ a
    return over_all_rows(gram, axes)


def split(matrix: jax.Array, has_bias: bool) -> tuple[jax.Array, jax.Array | None]:
    """Returns the kernel and the bias of a matrix whose last row is the bias, if there is one."""
    return (matrix[:-1], matrix[-1]) if has_bias else (matrix, None)
