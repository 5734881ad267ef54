r"""Running averages of the Gram matrices of layer inputs, and their damped inverses.

A dense layer with inputs a (n, d), a column of ones among them where it has a bias, and output
displacements s (n, k) has the proximal least squares problem

.. math:: \min_D \; \frac{1}{2n} |a D - s|^2 + \frac\lambda2 |D|^2
    \quad\Longrightarrow\quad D = (G + \lambda I)^{-1} \frac{a^T s}{n}, \qquad G = \frac{a^T a}{n}

Because :math:`a^T s / n` is a gradient by the kernel when s is one by the outputs, the matrix
preconditions gradients as well. Minibatches give G as a running average. Refreshing and factoring
it is costly, but due only once in several steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import (
    ScalarOrSchedule,
    check_number,
    check_static,
    check_static_int,
    value_at,
)
from tritia._batching import lockstep_cond
from tritia._mesh import Axes
from tritia.alternating._minibatch.damped_inverse import damped_inverse, zero_inverse
from tritia.alternating._network import Network


class GramSettings(NamedTuple):
    """How Gram matrices are kept: the checked arguments that `check_settings` returns.

    Attributes:
      damping: lambda over the mean diagonal entry of G.
      decay: of the running average, at each refresh.
      refresh_period: steps from one refresh to the next.
      factor_period: steps from one factorisation to the next.
      max_gram: the widest Gram matrix that is kept whole.
      rank: of low-rank inverses, or None for whole ones.
      input_gram: the first layer's, or None.
    """

    damping: ScalarOrSchedule
    decay: ScalarOrSchedule
    refresh_period: ScalarOrSchedule
    factor_period: ScalarOrSchedule
    max_gram: int
    rank: int | None
    input_gram: jax.Array | None


class InputGramState(NamedTuple):
    r"""State of `tritia.scale_by_input_gram`, and a part of that of `tritia.stochastic_tiam`.

    Attributes:
      count: number of updates so far, (), int32.
      next_refresh: the count at which the Gram matrices take in a minibatch next, (), int32.
      next_factor: the count at which they are factored next, (), int32.
      mass: the share of the averages that minibatches have filled, :math:`1 - decay^k` after k of
        them, (): the averages are divided by it.
      grams: for each layer the running average of :math:`a^T a / n`: (d, d), or its diagonal, (d,),
        where d is above `max_gram`; d counts the column of ones. Of `scale_by_input_gram` a dict by
        the leaf's name, with one more axis in front for the matrices that it holds.
      inverses: for each layer :math:`(G + \lambda I)^{-1}`: (d, d), (d,), or by leading
        eigenvectors, a `tritia.alternating._minibatch.damped_inverse.LowRank`; likewise.
    """

    count: jax.Array
    next_refresh: jax.Array
    next_factor: jax.Array
    mass: jax.Array
    grams: Any
    inverses: Any


def check_settings(
    *,
    damping: ScalarOrSchedule,
    decay: ScalarOrSchedule,
    refresh_period: ScalarOrSchedule,
    factor_period: ScalarOrSchedule,
    max_gram: int,
    rank: int | None,
    input_gram: jax.Array | None,
) -> GramSettings:
    """Checks the arguments that say how Gram matrices are kept.

    Raises:
      ValueError: a number outside its range, or `input_gram` is not a square matrix.
      TypeError: an argument of the wrong type.
    """
    check_number("damping", damping, minimum=0)
    check_number("decay", decay, minimum=0, maximum=1, exclusive_maximum=True)
    for name, period in (("refresh_period", refresh_period), ("factor_period", factor_period)):
        check_number(name, period, minimum=1)
    check_static(max_gram=max_gram, rank=rank)
    largest = check_static_int("max_gram", max_gram, minimum=0)
    rank = None if rank is None else check_static_int("rank", rank, minimum=1)
    if input_gram is not None:
        shape = tuple(jnp.shape(input_gram))
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                f"input_gram has shape {shape}; it must be a square matrix, a^T a / n of all"
                " inputs a with a column of ones last where the first layer has a bias."
            )
    return GramSettings(damping, decay, refresh_period, factor_period, largest, rank, input_gram)


def widths(network: Network) -> tuple[int, ...]:
    """Returns the number of inputs of each layer, the constant one of a bias included."""
    return tuple(
        size + (bias is not None)
        for size, bias in zip(network.sizes[:-1], network.biases, strict=True)
    )


def with_ones(a: jax.Array, bias: int | jax.Array | None) -> jax.Array:
    """Returns a, (n, d), with a column of ones last for a layer that has a bias."""
    return a if bias is None else jnp.pad(a, ((0, 0), (0, 1)), constant_values=1)


def start(settings: GramSettings, sizes: Sequence[int], dtype: jnp.dtype) -> InputGramState:
    """Returns the state before the first minibatch.

    Raises:
      ValueError: `input_gram` does not fit the first layer.
    """

    def zeros(size: int) -> jax.Array:
        return jnp.zeros((size,) if size > settings.max_gram else (size, size), dtype)

    grams = [zeros(size) for size in sizes]
    if settings.input_gram is not None:
        shape = tuple(jnp.shape(settings.input_gram))
        if shape != (sizes[0], sizes[0]):
            raise ValueError(
                f"input_gram has shape {shape}, but the first layer needs"
                f" ({sizes[0]}, {sizes[0]}): a row for each input, and a last one for the bias if"
                " it has one."
            )
        given = jnp.array(settings.input_gram, dtype, copy=True)
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


def advance(
    settings: GramSettings,
    state: InputGramState,
    inputs: Sequence[jax.Array],
    shares: jax.Array,
    axes: Axes,
) -> InputGramState:
    """Returns the state after a minibatch: refreshed and factored if that is due.

    Args:
      settings: how the Gram matrices are kept.
      state: before the minibatch.
      inputs: of each layer, (n, d) with the column of ones.
      shares: the share of each row in a mean, as `row_shares` returns them.
      axes: of `jax.shard_map`, over which the rows are spread.
    """
    dtype = state.mass.dtype
    known = settings.input_gram is not None  # the first Gram matrix stays what it is
    first = int(known)

    def period(number: ScalarOrSchedule) -> jax.Array:
        steps = jnp.round(jnp.asarray(value_at(number, state.count)))
        return state.count + jnp.maximum(steps.astype(jnp.int32), 1)

    def refresh(decay, mass, grams, inputs, shares):
        news = tuple(
            mean_gram(a, shares, axes, diagonal=gram.ndim == 1)
            for gram, a in zip(grams, inputs, strict=True)
        )
        # A batch of weight 0 has no Gram matrix, and NaN would never leave an average again.
        usable = total(shares, axes) > 0
        for new in news:
            usable &= jnp.all(jnp.isfinite(new))
        share = jnp.where(usable, 1 - decay, 0)
        grams = tuple(
            jnp.where(usable, gram + share * (new - gram), gram)
            for gram, new in zip(grams, news, strict=True)
        )
        return usable, mass + share * (1 - mass), grams

    refreshed, mass, grams = lockstep_cond(
        state.count >= state.next_refresh,
        refresh,
        lambda decay, mass, grams, inputs, shares: (jnp.zeros_like(mass, bool), mass, grams),
        jnp.asarray(value_at(settings.decay, state.count), dtype),
        state.mass,
        state.grams[first:],
        tuple(inputs[first:]),
        shares,
    )
    damping = jnp.asarray(value_at(settings.damping, state.count), dtype)
    factored = (state.count >= state.next_factor) & (mass > 0)
    inverses = lockstep_cond(
        factored,
        lambda damping, mass, grams, kept: tuple(
            damped_inverse(gram / jnp.where(mass > 0, mass, 1), damping, last)
            for gram, last in zip(grams, kept, strict=True)
        ),
        lambda damping, mass, grams, kept: kept,
        damping,
        mass,
        grams,
        state.inverses[first:],
    )
    if known:
        inverse = lockstep_cond(
            state.count == 0,
            lambda damping, gram, kept: damped_inverse(gram, damping, kept),
            lambda damping, gram, kept: kept,
            damping,
            state.grams[0],
            state.inverses[0],
        )
        grams, inverses = (state.grams[0], *grams), (inverse, *inverses)
    return InputGramState(
        count=cast(jax.Array, optax.safe_increment(state.count)),
        next_refresh=jnp.where(refreshed, period(settings.refresh_period), state.next_refresh),
        next_factor=jnp.where(factored, period(settings.factor_period), state.next_factor),
        mass=mass,
        grams=grams,
        inverses=inverses,
    )


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


def joined(kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns a kernel with its bias as the last row."""
    return kernel if bias is None else jnp.concatenate([kernel, bias[None]])


def split(matrix: jax.Array, has_bias: bool) -> tuple[jax.Array, jax.Array | None]:
    """Returns the kernel and the bias of a matrix that `joined` made."""
    return (matrix[:-1], matrix[-1]) if has_bias else (matrix, None)


def placeholder_state() -> InputGramState:
    """Returns a state with one leaf in every field, for `optax.tree.map_params`.

    The number of layers is unknown here; in `jax.tree.map` a leaf matches any tuple, and none of
    these is a copy of the params.
    """
    return InputGramState(*(jnp.zeros(()) for _ in InputGramState._fields))
