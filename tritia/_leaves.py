"""Which leaves of params are trained, and what happens to the others.

Params may hold leaves that no gradient step can move: activation functions and other objects (an
Equinox module), integers and random keys. Their gradients are None (`equinox.filter_grad`) or of
dtype `float0` (`jax.grad(..., allow_int=True)`). Within a transform such leaves are None; their
updates come back as they came in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tritia._trees import is_none


def trained(params: optax.Params) -> optax.Params:
    """Returns params with None in place of all leaves but floating and complex numbers."""
    return jax.tree.map(lambda leaf: leaf if _is_inexact(leaf) else None, params)


def check_gradients(
    updates: optax.Updates, params: optax.Params | None
) -> tuple[optax.Updates, optax.Params | None]:
    """Returns updates and params without the leaves that are not trained.

    Leaves that are None or of dtype `float0` in `updates` are None in both where the param is not a
    floating or complex number. A floating param keeps its place: a transform may pass it over, or
    ask for zeros.

    Raises:
      TypeError: an integer param has a gradient; the message names it.
    """
    if params is None:
        _refuse_integers(updates)
        return trained(updates), None
    _refuse_integers(updates, params)
    updates = jax.tree.map(lambda u: None if _is_float0(u) else u, updates, is_leaf=is_none)
    # Of another structure is said by the transform, which knows what it needs.
    with contextlib.suppress(ValueError):
        params = jax.tree.map(
            lambda u, p: p if u is not None or _holds_numbers(p) else None,
            updates,
            params,
            is_leaf=is_none,
        )
    return updates, params


def passed_through(new: optax.Updates, given: optax.Updates) -> optax.Updates:
    """Returns the new updates with those that came in for leaves that are not trained.

    Solvers need no gradients: `given` may be of another structure, and then holds no such leaf.
    """
    leaves = jax.tree.leaves(given, is_leaf=is_none)
    if not any(leaf is None or _is_float0(leaf) for leaf in leaves):
        return new
    return jax.tree.map(lambda g, n: g if n is None else n, given, new, is_leaf=is_none)


def merged(point: optax.Params, params: optax.Params) -> optax.Params:
    """Returns a point of the flow with the leaves of `params` that are not trained in place."""
    return jax.tree.map(lambda p, w: p if w is None else w, params, point, is_leaf=is_none)


def _refuse_integers(updates: optax.Updates, params: optax.Params | None = None) -> None:
    untouched = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates, is_leaf=is_none)
        if leaf is None or _is_float0(leaf)
    }
    named = updates if params is None else params
    for path, leaf in jax.tree_util.tree_leaves_with_path(named):
        name = jax.tree_util.keystr(path)
        if name not in untouched and _is_number(leaf) and not _is_inexact(leaf):
            raise TypeError(
                f"params{name} is of dtype {jnp.result_type(leaf)}, which a gradient step would"
                " truncate; allowed: floating and complex dtypes. Cast it to float32, or give it no"
                " gradient: None, or float0 as jax.grad(loss, allow_int=True) makes it."
            )


def _is_float0(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == jax.dtypes.float0


def _is_number(leaf: Any) -> bool:
    """Whether it is a number or an array of numbers, of any kind."""
    if isinstance(leaf, (bool, int, float, complex)):
        return True
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_)


def _is_inexact(leaf: Any) -> bool:
    return _is_number(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _holds_numbers(subtree: Any) -> bool:
    """Whether there is something to train in what stands where an update is None."""
    return any(map(_is_inexact, jax.tree.leaves(subtree)))


def is_placeholder(params: Any) -> bool:
    """Whether these are the leafless params that optax.tree.map_params passes to init."""
    containers = (Mapping, Sequence, type(None))
    return not jax.tree.leaves(params) and not isinstance(params, containers)
