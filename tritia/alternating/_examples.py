"""The examples of a solver: inputs, targets and weights, checked and converted.

Shapes and dtypes are checked whenever `update` is traced. Values can be checked only where they are
concrete; `tiam` does that at the first update outside of `jax.jit`, and its diagnostics say at
every update whether the objective is finite and whether the inputs are still the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from tritia.alternating._arguments import solver_dtype
from tritia.alternating._blocks.losses import LOSSES, Loss
from tritia.alternating._blocks.rows import Rows
from tritia.alternating._network import Network, find_layers

CALL = "updates, state = solver.update(None, state, params, inputs=x, targets=y)"


class Examples(NamedTuple):
    """Converted examples.

    Attributes:
      inputs: (n, d_0), in the solver's dtype.
      targets: as the loss takes them, (n, k) for those that have a name.
      rows: their sample weights.
    """

    inputs: jax.Array
    targets: jax.Array
    rows: Rows


def receive(
    solver: str,
    params: optax.Params | None,
    inputs: jax.typing.ArrayLike | None,
    targets: jax.typing.ArrayLike | None,
    weights: jax.typing.ArrayLike | None,
    *,
    layer_order: Sequence[str] | None,
    num_examples: int | None,
    loss: Loss,
) -> tuple[Network, Examples]:
    """Checks what `update` is given: finds the layers, and converts the examples to fit them.

    Args:
      solver: its name, for the messages.
      params: as `find_layers`; None where the user passed none.
      inputs: (n, d_0), real.
      targets: (n,) class labels or (n, k) probabilities for "softmax_cross_entropy"; (n, k), or
        (n,) for k = 1, for the other losses.
      weights: (n,), >= 0, or None.
      layer_order: as `find_layers`.
      num_examples: n, or None where any number of rows will do.
      loss: decides what targets mean.

    Raises:
      ValueError: an argument is missing, or a shape does not fit; names it with both shapes.
      TypeError: not arrays, or targets of the wrong kind.
    """
    if params is None:
        raise ValueError(f"{solver} needs params: call {CALL}.")
    network, dtype = find_layers(params, layer_order, solver=solver), solver_dtype(params)
    sizes = network.sizes
    for name, value in (("inputs", inputs), ("targets", targets)):
        if value is None:
            raise ValueError(f"{solver} needs the examples, but {name} is missing: call {CALL}.")
        if isinstance(value, (list, tuple)):
            raise TypeError(f"{name} is a {type(value).__name__}; {solver} needs an array.")
    assert inputs is not None
    shape = tuple(jnp.shape(inputs))
    if len(shape) != 2:
        raise ValueError(
            f"inputs has shape {shape}; {solver} needs rows,"
            f" ({num_examples or 'rows'}, {sizes[0]}): reshape it."
        )
    if num_examples is None:
        num_examples = shape[0]
    elif shape[0] != num_examples:
        raise ValueError(
            f"inputs has {shape[0]} rows (shape {shape}), but the solver was made for"
            f" num_examples={num_examples}: its state belongs to those examples, all of them at"
            " every update."
        )
    if shape[1] != sizes[0]:
        raise ValueError(
            f"inputs has shape {shape}, but the first layer takes {sizes[0]} inputs (its kernel has"
            f" shape {sizes[:2]})."
        )
    kind = jnp.result_type(inputs)
    if not any(jnp.issubdtype(kind, real) for real in (jnp.floating, jnp.integer, jnp.bool_)):
        raise TypeError(f"inputs has dtype {kind}; {solver} needs real numbers.")
    inputs = jnp.asarray(inputs, dtype)
    targets = _targets(targets, num_examples, sizes[-1], loss, dtype)
    if weights is None:
        return network, Examples(inputs, targets, Rows())
    if tuple(jnp.shape(weights)) != (num_examples,):
        raise ValueError(
            f"weights has shape {tuple(jnp.shape(weights))}; {solver} needs one number for each"
            f" row, ({num_examples},)."
        )
    column = jnp.asarray(weights, dtype)[:, None]
    column = jnp.where(
        column >= 0, column, jnp.nan
    )  # a traced value can't be refused, but NaN is reported
    # A padded row may hold anything, NaN too: 0 * NaN would spread it.
    inputs = jnp.where(column > 0, inputs, 0)
    mask = (column > 0).reshape((num_examples,) + (1,) * (targets.ndim - 1))
    return network, Examples(inputs, jnp.where(mask, targets, 0), Rows(column))


def _targets(targets: Any, n: int, k: int, loss: Loss, dtype: Any) -> jax.Array:
    shape, kind = tuple(jnp.shape(targets)), jnp.result_type(targets)
    integer = jnp.issubdtype(kind, jnp.integer)
    if not shape or shape[0] != n:
        raise ValueError(f"targets has shape {shape}; it must have as many rows as inputs, {n}.")
    if loss.name == "softmax_cross_entropy" and len(shape) == 1:
        if not integer:
            raise TypeError(
                f"targets has shape {shape} and dtype {kind}; softmax_cross_entropy takes integer"
                f" class labels ({n},) or probabilities ({n}, {k})."
            )
        labels = jnp.asarray(targets)
        valid = ((labels >= 0) & (labels < k))[:, None]
        # A label out of range must give NaN, not a row of zeros.
        return jnp.where(valid, jax.nn.one_hot(labels, k, dtype=dtype), jnp.nan)
    if loss.name not in LOSSES:
        return jnp.asarray(targets, dtype) if not integer else jnp.asarray(targets)
    if len(shape) == 1 and k == 1:
        return jnp.asarray(targets, dtype)[:, None]
    if shape != (n, k):
        labels = " or class labels" if loss.name == "softmax_cross_entropy" else ""
        raise ValueError(
            f"targets has shape {shape}, but the last layer has {k} outputs: {loss.name} takes"
            f" targets of shape ({n}, {k}){labels}."
        )
    return jnp.asarray(targets, dtype)


def is_concrete(*values: Any) -> bool:
    """Whether the values can be looked at now, outside of any trace."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def check_values(inputs: Any, targets: Any, weights: Any, loss: Loss, classes: int) -> None:
    """Checks concrete examples; for `tiam`'s first update.

    Raises:
      ValueError: weights are negative or not finite; inputs or targets are not finite in a row of
        positive weight (the message names it), or targets are out of their range.
    """
    x, y = np.asarray(inputs), np.asarray(targets)
    counted = np.ones(len(x), bool)
    if weights is not None:
        w = np.asarray(weights, np.float64)
        if not np.all(np.isfinite(w)) or np.any(w < 0):
            row = int(np.argmax(~(np.isfinite(w) & (w >= 0))))
            raise ValueError(f"weights is {w[row]} in row {row}; allowed: finite numbers >= 0.")
        counted = w > 0

    def refuse(name: str, wrong: np.ndarray, array: np.ndarray, allowed: str) -> None:
        wrong = wrong.reshape(len(array), -1) & counted[:, None]
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            value = array.reshape(len(array), -1)[row, column]
            raise ValueError(f"{name} is {value} in row {row}; allowed: {allowed}.")

    refuse("inputs", ~np.isfinite(np.asarray(x, np.float64)), x, "finite numbers")
    labels = loss.name == "softmax_cross_entropy" and y.ndim == 1
    if labels:
        refuse("targets", (y < 0) | (y >= classes), y, f"class labels 0 .. {classes - 1}")
        return
    refuse("targets", ~np.isfinite(np.asarray(y, np.float64)), y, "finite numbers")
    if loss.name in ("softmax_cross_entropy", "sigmoid_cross_entropy"):
        refuse("targets", (y < 0) | (y > 1), y, "probabilities in [0, 1]")


def fingerprint_size(num_examples: int, width: int) -> int:
    """Returns the number of entries that `fingerprint` takes."""
    return min(1024, num_examples * width)


def fingerprint(inputs: jax.Array) -> jax.Array:
    """Returns entries of the inputs, spread over rows and columns, to recognise them by.

    Args:
      inputs: (n, d).

    Returns:
      (fingerprint_size(n, d),).
    """
    count = fingerprint_size(*inputs.shape)
    if count == inputs.size:
        return inputs.reshape(-1)
    entries = np.random.default_rng(0).choice(inputs.size, count, replace=False)
    return inputs[entries // inputs.shape[1], entries % inputs.shape[1]]
