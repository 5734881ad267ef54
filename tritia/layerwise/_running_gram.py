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

from collections.abc import Callable
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
from tritia.layerwise._damped_inverse import Inverse

Grams = Any
"""A dict or a tuple with a Gram matrix for each layer."""


class GramSettings(NamedTuple):
    """How Gram matrices are kept: the checked arguments that `check_settings` returns.

    Attributes:
      damping: lambda over the mean diagonal entry of G.
      decay: of the running average, at each refresh.
      refresh_period: steps from one refresh to the next.
      factor_period: steps from one factorisation to the next.
      max_gram: the widest Gram matrix that is kept whole.
      rank: of low-rank inverses, or None for whole ones.
    """

    damping: ScalarOrSchedule
    decay: ScalarOrSchedule
    refresh_period: ScalarOrSchedule
    factor_period: ScalarOrSchedule
    max_gram: int
    rank: int | None


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
        eigenvectors, a `tritia.layerwise._damped_inverse.LowRank`; likewise.
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
) -> GramSettings:
    """Checks the arguments that say how Gram matrices are kept.

    Raises:
      ValueError: a number outside its range.
      TypeError: an argument of the wrong type.
    """
    check_number("damping", damping, minimum=0)
    check_number("decay", decay, minimum=0, maximum=1, exclusive_maximum=True)
    for name, period in (("refresh_period", refresh_period), ("factor_period", factor_period)):
        check_number(name, period, minimum=1)
    check_static(max_gram=max_gram, rank=rank)
    largest = check_static_int("max_gram", max_gram, minimum=0)
    rank = None if rank is None else check_static_int("rank", rank, minimum=1)
    return GramSettings(damping, decay, refresh_period, factor_period, largest, rank)


def advance(
    settings: GramSettings,
    state: InputGramState,
    minibatch: Callable[[Grams, Any], tuple[jax.Array, Grams]],
    operands: Any,
    invert: Callable[[jax.Array, jax.Array, Inverse], Inverse],
) -> InputGramState:
    """Returns the state after a minibatch: refreshed and factored if that is due.

    Args:
      settings: how the Gram matrices are kept.
      state: before the minibatch.
      minibatch: (the averages, operands) -> whether the minibatch has any rows, and its own Gram
        matrices, None for a layer that it did not pass through. Called where a refresh is due.
      operands: arrays that `minibatch` needs.
      invert: (Gram matrix, damping, last inverse) -> inverse of a layer's damped Gram matrix.
    """
    dtype = state.mass.dtype

    def period(number: ScalarOrSchedule) -> jax.Array:
        steps = jnp.round(jnp.asarray(value_at(number, state.count)))
        return state.count + jnp.maximum(steps.astype(jnp.int32), 1)

    def refresh(decay, mass, grams, operands):
        usable, news = minibatch(grams, operands)
        for new in jax.tree.leaves(news):  # NaN would never leave an average again
            usable &= jnp.all(jnp.isfinite(new))
        share = jnp.where(usable, 1 - decay, 0)
        averages = jax.tree.map(
            lambda gram, new: (
                gram if new is None else jnp.where(usable, gram + share * (new - gram), gram)
            ),
            grams,
            news,
        )
        return usable, mass + share * (1 - mass), averages

    refreshed, mass, grams = lockstep_cond(
        state.count >= state.next_refresh,
        refresh,
        lambda decay, mass, grams, operands: (mass < 0, mass, grams),  # False, of the other's type
        jnp.asarray(value_at(settings.decay, state.count), dtype),
        state.mass,
        state.grams,
        operands,
    )
    factored = (state.count >= state.next_factor) & (mass > 0)
    inverses = lockstep_cond(
        factored,
        lambda damping, mass, grams, kept: jax.tree.map(
            lambda gram, last: invert(gram / jnp.where(mass > 0, mass, 1), damping, last),
            grams,
            kept,
        ),
        lambda damping, mass, grams, kept: kept,
        jnp.asarray(value_at(settings.damping, state.count), dtype),
        mass,
        grams,
        state.inverses,
    )
    return InputGramState(
        count=cast(jax.Array, optax.safe_increment(state.count)),
        next_refresh=jnp.where(refreshed, period(settings.refresh_period), state.next_refresh),
        next_factor=jnp.where(factored, period(settings.factor_period), state.next_factor),
        mass=mass,
        grams=grams,
        inverses=inverses,
    )


def placeholder_state() -> InputGramState:
    """Returns a state with one leaf in every field, for `optax.tree.map_params`.

    The number of layers is unknown here; in `jax.tree.map` a leaf matches any tuple, and none of
    these is a copy of the params.
    """
    return InputGramState(*(jnp.zeros(()) for _ in InputGramState._fields))
