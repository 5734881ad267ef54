"""Conditionals and LAPACK calls under `jax.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tritia._derivatives import differentiated_as


def lockstep_cond(
    predicate: jax.Array,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    *operands: Any,
) -> Any:
    """`jax.lax.cond` that stays a conditional under `jax.vmap`.

    A batched predicate turns `lax.cond` into a select that computes both sides at every step, also
    what is due in the first step only, or in every hundredth. Here the batch computes `true_fn`
    where the predicate of any member is true, and each member selects its own result; for members
    whose counts agree, as in a sweep, that is never more than without the batch.

    Args:
      predicate: (), bool.
      true_fn: of the operands; must not close over traced values, which `jax.vmap` would not see.
      false_fn: the same, with results of the same shapes and dtypes; cheap.
      *operands: pytrees of arrays.

    Returns:
      What the chosen function returns.
    """

    @jax.custom_batching.custom_vmap
    def conditional(predicate: jax.Array, operands: Any) -> Any:
        return choose(predicate, *operands)

    def choose(predicate: jax.Array, *operands: Any) -> Any:
        return jax.lax.cond(predicate, true_fn, false_fn, *operands)

    @conditional.def_vmap
    def batch(axis_size: int, batched: Any, predicate: jax.Array, operands: Any) -> Any:
        axes = jax.tree.map(lambda flag: 0 if flag else None, tuple(batched[1]))

        def over_batch(function: Callable[..., Any]) -> Callable[..., Any]:
            return jax.vmap(function, in_axes=axes, axis_size=axis_size)

        if not batched[0]:
            result = lockstep_cond(predicate, over_batch(true_fn), over_batch(false_fn), *operands)
        else:

            def each_its_own(wanted: jax.Array, *operands: Any) -> Any:
                def choose(yes: jax.Array, no: jax.Array) -> jax.Array:
                    shape = wanted.shape + (1,) * (yes.ndim - 1)
                    return jnp.where(wanted.reshape(shape), yes, no)

                yes, no = (over_batch(side)(*operands) for side in (true_fn, false_fn))
                return jax.tree.map(choose, yes, no)

            def none(wanted: jax.Array, *operands: Any) -> Any:
                del wanted
                return over_batch(false_fn)(*operands)

            result = lockstep_cond(jnp.any(predicate), each_its_own, none, predicate, *operands)
        return result, jax.tree.map(lambda _: True, result)

    def in_lockstep(predicate: jax.Array, *operands: Any) -> Any:
        return conditional(predicate, operands)

    return differentiated_as(choose, in_lockstep)(predicate, *operands)


def one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `jax.vmap` call a function of arrays once per member on the CPU, batched elsewhere.

    For LAPACK: a batched call hands its members to XLA's thread pool and waits for them inside that
    pool, so two batched calls that run at once on two cores can deadlock
    (https://github.com/jax-ml/jax/issues/39292 describes related failures). Called one at a time
    they don't use the pool.
    """

    @jax.custom_batching.custom_vmap
    def called(*operands: Any) -> Any:
        return function(*operands)

    @called.def_vmap
    def batch(axis_size: int, batched: Any, *operands: Any) -> Any:
        spread = tuple(
            operand if flag else jnp.broadcast_to(operand, (axis_size, *operand.shape))
            for flag, operand in zip(batched, operands, strict=True)
        )

        def in_turn(*spread: Any) -> Any:
            return jax.lax.map(lambda member: called(*member), spread)

        result = jax.lax.platform_dependent(*spread, cpu=in_turn, default=jax.vmap(function))
        return result, jax.tree.map(lambda _: True, result)

    return differentiated_as(function, called)
