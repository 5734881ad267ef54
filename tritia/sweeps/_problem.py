"""What is trained in a sweep, as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia._arguments import check_static_int


class Problem(NamedTuple):
    """Something to train, for one seed.

    Attributes:
      init: from a key to (params, rest). What is no parameter is in the rest: running averages, the
        keys of dropout, or ().
      loss: (params, rest, batch) -> (scalar, rest).
      evaluate: (params, rest, data) -> a scalar that is recorded and judged, or None to judge by
        the training loss.
    """

    init: Callable[[jax.Array], tuple[Any, Any]]
    loss: Callable[[Any, Any, Any], tuple[jax.Array, Any]]
    evaluate: Callable[[Any, Any, Any], jax.Array] | None


def plain_problem(
    init: Callable[[jax.Array], Any],
    loss: Callable[[Any, Any], jax.Array],
    *,
    evaluate: Callable[[Any, Any], jax.Array] | None = None,
) -> Problem:
    """Makes a problem from plain functions of params, Linen's `module.apply` among them.

    Args:
      init: from a key to params, `lambda key: module.init(key, x)["params"]` with Linen.
      loss: (params, batch) -> scalar.
      evaluate: (params, data) -> scalar; None to judge by the training loss.

    Returns:
      The `Problem`.

    Examples:
      >>> import jax, jax.numpy as jnp, tritia.sweeps
      >>> problem = tritia.sweeps.plain_problem(
      ...   init=lambda key: jax.random.normal(key, (3,)),
      ...   loss=lambda params, batch: jnp.sum((params - batch) ** 2))
    """
    return Problem(
        lambda key: (init(key), ()),
        lambda params, rest, batch: (loss(params, batch), rest),
        None if evaluate is None else lambda params, rest, data: evaluate(params, data),
    )


def nnx_problem(
    model: Callable[[Any], Any],
    loss: Callable[[Any, Any], jax.Array],
    *,
    evaluate: Callable[[Any, Any], jax.Array] | None = None,
    wrt: Any = None,
) -> Problem:
    """Makes a problem from a Flax NNX model; needs Flax.

    Args:
      model: from `nnx.Rngs` to the module, such as `lambda rngs: Net(rngs=rngs)`.
      loss: (model, batch) -> scalar; what it changes in the model (running averages, the keys of
        dropout) is kept.
      evaluate: (model, data) -> scalar, with the model in `eval()` mode; None to judge by the
        training loss.
      wrt: what is trained, as in `nnx.Optimizer`; None for `nnx.Param`.

    Returns:
      The `Problem`.

    Examples:
      >>> import jax.numpy as jnp, tritia.sweeps
      >>> from flax import nnx
      >>> problem = tritia.sweeps.nnx_problem(
      ...   lambda rngs: nnx.Linear(2, 1, rngs=rngs),
      ...   lambda model, batch: jnp.mean((model(batch["x"]) - batch["y"]) ** 2))
    """
    from flax import nnx

    wrt = nnx.Param if wrt is None else wrt
    structure = nnx.graphdef(nnx.eval_shape(lambda: model(nnx.Rngs(0))))

    def init(key: jax.Array) -> tuple[Any, Any]:
        _, params, rest = nnx.split(model(nnx.Rngs(key)), wrt, ...)
        return nnx.as_pure(params), nnx.as_pure(rest)

    def of_model(params: Any, rest: Any, batch: Any) -> tuple[jax.Array, Any]:
        merged = nnx.merge(structure, params, rest)
        value = loss(merged, batch)
        return value, nnx.as_pure(nnx.split(merged, wrt, ...)[2])

    def evaluation(params: Any, rest: Any, data: Any) -> jax.Array:
        assert evaluate is not None
        merged = nnx.merge(structure, params, rest)
        merged.eval()
        return evaluate(merged, data)

    return Problem(init, of_model, None if evaluate is None else evaluation)


def minibatches(
    size: int, *, rows: Callable[[Any], Any] = lambda data: data
) -> Callable[[jax.Array, Any, Any], Any]:
    """Returns a `batch` function that draws rows at random, with replacement.

    Args:
      size: rows in a minibatch.
      rows: from data to the pytree of arrays whose rows are drawn; the data themselves unless
        given, `lambda data: data["training"]` where validation rows are among them.

    Returns:
      A function (key, step, data) -> minibatch.

    Raises:
      ValueError: `size` is below 1.
      TypeError: `size` is not an int.

    Examples:
      >>> import jax, jax.numpy as jnp, tritia.sweeps
      >>> batch = tritia.sweeps.minibatches(2)
      >>> batch(jax.random.key(0), 0, {"x": jnp.ones((5, 3))})["x"].shape
      (2, 3)
    """
    size = check_static_int("size", size, minimum=1)

    def batch(key: jax.Array, step: Any, data: Any) -> Any:
        table = rows(data)
        count = jnp.shape(jax.tree.leaves(table)[0])[0]
        drawn = jax.random.randint(jax.random.fold_in(key, step), (size,), 0, count)
        return jax.tree.map(lambda column: column[drawn], table)

    return batch
