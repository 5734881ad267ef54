"""Derivatives of what JAX cannot differentiate in reverse mode as it stands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core


def differentiated_as(
    function: Callable[..., Any], computed: Callable[..., Any]
) -> Callable[..., Any]:
    """Returns `computed` with the derivatives of `function`, which computes the same.

    A function with a batching rule of its own has no reverse mode, nor has a loop without a bound.
    Neither function may close over traced values: see `hoisted`.
    """

    @jax.custom_jvp
    def call(*operands: Any) -> Any:
        return computed(*operands)

    @functools.partial(call.defjvp, symbolic_zeros=True)
    def derivative(primals: Any, tangents: Any) -> Any:
        flat, structure = jax.tree.flatten(primals)
        directions = jax.tree.leaves(tangents, is_leaf=_is_zero)
        # Only where there is a direction: eigenvectors have none for equal eigenvalues.
        moving = [i for i, direction in enumerate(directions) if not _is_zero(direction)]

        def moved(*values: Any) -> Any:
            leaves = list(flat)
            for i, value in zip(moving, values, strict=True):
                leaves[i] = value
            return function(*jax.tree.unflatten(structure, leaves))

        return jax.jvp(moved, [flat[i] for i in moving], [directions[i] for i in moving])

    return call


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def hoisted(
    function: Callable[..., Any], *examples: Any
) -> tuple[Callable[..., Any], Sequence[Any]]:
    """Makes what a function closes over its last argument.

    A custom derivative of a function that closes over traced values fails; `jax.closure_convert`
    hoists those of a floating dtype alone, which is not enough within `jax.lax.scan`.

    Args:
      function: of pytrees of arrays.
      *examples: arguments, whose shapes and dtypes are those of every call.

    Returns:
      A function of the same arguments and of a list of arrays, and that list.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*examples)

    def call(*arguments: Any) -> Any:
        *given, constants = arguments
        results = jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(given))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return call, closed.consts
