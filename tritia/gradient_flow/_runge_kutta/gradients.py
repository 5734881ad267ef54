"""The gradients that a step takes beyond the one it is handed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from tritia._leaves import check_gradients, merged, trained
from tritia._trees import compute_dtype, constant_like, strong

GradFn = Callable[[optax.Params], optax.Updates]


def check_arguments(
    updates: optax.Updates, params: optax.Params | None
) -> tuple[optax.Updates, optax.Params, optax.Params]:
    """Returns gradients and params as arrays, without leaves that are not trained, and all params.

    Raises:
      ValueError: params are missing, or the gradients have not their structure.
      TypeError: an integer param has a gradient.
    """
    if params is None:
        raise ValueError(
            "Runge-Kutta steps need the params, to stand at the stages. Call"
            " optimizer.update(grads, state, params)."
        )
    whole = params
    updates, params = check_gradients(updates, params)
    given, wanted = jax.tree.structure(updates), jax.tree.structure(params)
    if given != wanted:
        raise ValueError(
            "updates must be gradients with the structure of params. A floating leaf without a"
            f" gradient needs zeros, not None. Got {given}, expected {wanted}."
        )
    return strong(updates), strong(params), whole


def check_grad_fn(
    grad_fn: Any, params: optax.Params, calls: int, if_missing: str, if_masked: str
) -> GradFn:
    """Checks that the other stages can get their gradients.

    Args:
      grad_fn: what the user passed.
      params: the params of the step.
      calls: how many gradients the step takes of it.
      if_missing: what else the user can do where it is missing: the rest of a sentence.
      if_masked: what the user can do where params are masked: a sentence.
    """
    leaves = jax.tree.leaves(params, is_leaf=_is_split)
    if any(map(_is_split, leaves)):
        raise ValueError(
            "params are split: this step stands inside optax.contrib.split_real_and_imaginary, and"
            " grad_fn would get pairs of real arrays. Runge-Kutta steps take complex params as they"
            " are: leave the wrapper out."
        )
    if grad_fn is None:
        raise ValueError(
            f"A step needs {calls} more gradient{'s' if calls > 1 else ''} than the one passed, so"
            " it needs grad_fn, a function from params to gradients on the same minibatch. Call"
            " optimizer.update(grads, state, params, grad_fn=lambda params: jax.grad(loss)(params,"
            f" batch)){if_missing} optax.contrib.sam and optax.contrib.split_real_and_imaginary do"
            " not hand grad_fn on."
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
            f" optax.partition, where grad_fn would get masked params. {if_masked}"
        )
    return cast(GradFn, grad_fn)


def _is_split(node: Any) -> bool:
    return type(node).__name__ == "SplitRealAndImaginaryArrays"


def combined_zeros(params: optax.Params, slope: Any) -> Any:
    """Zeros in the dtype of sums, laid out as a sum of params and slopes is: to start a loop."""

    def zeros(p: jax.Array, k: jax.Array) -> jax.Array:
        dtype = compute_dtype(p)
        return constant_like(0, p.astype(dtype) + k.astype(dtype), dtype)

    return jax.tree.map(zeros, params, slope)


def evaluate(grad_fn: GradFn | None, point: optax.Params, params: optax.Params) -> optax.Updates:
    """Calls grad_fn at a stage and checks what it returns.

    Args:
      grad_fn: the user's function.
      point: where the stage stands.
      params: the params of the step, of which the leaves that are not trained are taken.
    """
    assert grad_fn is not None  # check_grad_fn
    try:
        gradients = trained(grad_fn(merged(point, params)))
    except Exception as error:
        error.add_note(
            "Raised by grad_fn, called with a stage's params:"
            f" {jax.tree.map(jnp.shape, point)}. A wrapper that gives its transform other params"
            " than the loop's, such as optax.flatten, gives them to grad_fn too: wrap the"
            ' preconditioner instead, or take mode="transparent".'
        )
        raise
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
    return strong(gradients)
