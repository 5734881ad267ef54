"""The gradients that a step takes beyond the one it is handed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from tritia.gradient_flow.trees import strong

GradFn = Callable[[optax.Params], optax.Updates]


def check_params(params: optax.Params | None) -> optax.Params:
    """Returns the params as arrays, or says that they are missing."""
    if params is None:
        raise ValueError(
            "Runge-Kutta steps need the params, to stand at the stages. Call"
            " optimizer.update(grads, state, params)."
        )
    return strong(params)


def check_grad_fn(grad_fn: Any, params: optax.Params, calls: int) -> GradFn:
    """Checks that the other stages can get their gradients."""
    if grad_fn is None:
        raise ValueError(
            f"A step needs {calls} more gradient{'s' if calls > 1 else ''} than the one passed, so"
            " it needs grad_fn, a function from params to gradients on the same minibatch. Call"
            " optimizer.update(grads, state, params, grad_fn=lambda params: jax.grad(loss)(params,"
            ' batch)); or, with a fixed step size, build the optimizer with mode="transparent".'
        )
    if not callable(grad_fn):
        raise TypeError(
            "grad_fn must be a function from params to gradients; got"
            f" {grad_fn!r} of type {type(grad_fn).__name__}."
        )
    is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    if any(map(is_masked, jax.tree.leaves(params, is_leaf=is_masked))):
        raise ValueError(
            "params contain optax.MaskedNode: this step stands inside optax.masked or"
            " optax.partition, where grad_fn would get masked params. Use"
            ' mode="transparent" there, or mask inside the preconditioner.'
        )
    return cast(GradFn, grad_fn)


def evaluate(grad_fn: GradFn | None, point: optax.Params) -> optax.Updates:
    """Calls grad_fn at a stage and checks what it returns."""
    assert grad_fn is not None  # check_grad_fn
    gradients = grad_fn(point)
    given, wanted = jax.tree.structure(gradients), jax.tree.structure(point)
    if given != wanted:
        raise ValueError(
            "grad_fn must return gradients with the structure of params. A function made with"
            f" jax.value_and_grad or has_aux=True returns more. Got {given}, expected {wanted}."
        )
    shapes = [[jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (gradients, point)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "grad_fn must return gradients with the shapes of params. Got"
            f" {shapes[0]}, expected {shapes[1]}."
        )
    return gradients
