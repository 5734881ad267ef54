"""Arithmetic on pytrees shaped like the params, in their precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

Tree = Any


def compute_dtype(*leaves: Any) -> Any:
    """The dtype in which leaves are added: the widest of theirs, but at least float32."""
    return jnp.promote_types(jnp.result_type(*leaves), jnp.float32)


def find_states(tree: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """Returns the optimizer states of these types, wherever they sit in a tree."""

    def is_state(node: Any) -> bool:
        return isinstance(node, kinds)

    return [node for node in jax.tree.leaves(tree, is_leaf=is_state) if is_state(node)]


def is_none(leaf: Any) -> bool:
    """Tells a leaf without an update, for `is_leaf`: None, as masks make it."""
    return leaf is None


def linear_combination(like: Tree, terms: Sequence[tuple[Any, Tree]]) -> Tree:
    """Returns the sum of coefficient times tree, shaped like `like`, in `compute_dtype`.

    Python coefficients that are 0 are left out, and what they multiply may be anything; those that
    are 1 multiply nothing.
    """
    terms = [(x, tree) for x, tree in terms if isinstance(x, jax.Array) or x != 0]

    def combine(leaf, *leaves):
        dtype = compute_dtype(leaf)
        total = None
        for (x, _), value in zip(terms, leaves, strict=True):
            # Coefficients may be traced: they must not promote a float32 leaf to float64.
            term = value.astype(dtype)
            if isinstance(x, jax.Array) or x != 1:
                term = jnp.asarray(x).astype(jnp.finfo(dtype).dtype) * term
            total = term if total is None else total + term
        return jnp.zeros(jnp.shape(leaf), dtype) if total is None else total

    return jax.tree.map(combine, like, *[tree for _, tree in terms])


def strong(tree: Tree) -> Tree:
    """Returns a tree of arrays without weak types, so that states made of it keep their types."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)


def cast_like(tree: Tree, like: Tree) -> Tree:
    """Returns `tree` with the dtypes of `like`."""
    return jax.tree.map(lambda x, y: x.astype(jnp.result_type(y)), tree, like)


def select(condition: jax.Array, if_true: Tree, if_false: Tree) -> Tree:
    """Returns one tree or the other, in the dtypes of `if_false`; leaves may be random keys."""

    def choose(x, y):
        chosen = jnp.where(condition, x, y)
        return chosen if chosen.dtype == y.dtype else chosen.astype(y.dtype)

    return jax.tree.map(choose, if_true, if_false)


def zeros_like(params: optax.Params, dtype: Any = None) -> Tree:
    """Returns zeros in the precision of `dtype`, or in the params' dtypes; never weakly typed.

    Real leaves stay real, and complex ones complex.
    """

    def zeros(leaf):
        target = jnp.result_type(leaf)
        if dtype is not None:
            is_complex = jnp.issubdtype(target, jnp.complexfloating)
            target = jnp.finfo(dtype).dtype
            target = jnp.promote_types(target, jnp.complex64) if is_complex else target
        return jnp.zeros_like(leaf, dtype=target)

    return jax.tree.map(zeros, params)


def times(number: jax.Array, leaf: jax.Array) -> jax.Array:
    """Multiplies by a scalar that must not promote the leaf's dtype."""
    return jnp.asarray(number).astype(jnp.finfo(leaf.dtype).dtype) * leaf


def move(params: optax.Params, h: jax.Array, offset: Tree) -> optax.Params:
    """Returns params - h * offset in the dtypes of the params: slopes are gradients here."""
    return jax.tree.map(
        lambda p, o: (p.astype(o.dtype) - times(h, o)).astype(p.dtype), params, offset
    )
