"""How XLA is brought to overwrite a buffer in place.

XLA does so only where it knows that everything that reads the buffer comes first; else it saves a
copy. It does not know the order of two writes to different slots, nor that a step is computed
before the memory is overwritten, unless one needs a result of the other. Conditionals give such
results: a `token` is a boolean that is always True.

Under `jax.vmap` a conditional whose predicate differs between members becomes a select of both
branches, as `jnp.where` would be: no slower for two ring slots, which then still need no copy, and
about as fast for more. `python -m benchmarks.scaling batch` times it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp


def conditional(predicate: Any, true_fn: Any, false_fn: Any, *operands: Any) -> Any:
    """`jax.lax.cond`, which outside of `jax.jit` compiles nothing: there the predicate is known."""
    if isinstance(predicate, jax.core.Tracer):
        return jax.lax.cond(predicate, true_fn, false_fn, *operands)
    return (true_fn if predicate else false_fn)(*operands)


def computed_before(
    never_negative: jax.Array, compute: Callable[[], Any], placeholder: Any
) -> tuple[Any, jax.Array]:
    """Computes a tree in a conditional, and returns it with the token of this computation.

    Args:
      never_negative: a number that XLA knows nothing of, such as a count or position.
      compute: returns the tree.
      placeholder: any tree of the same shapes and dtypes.
    """

    def done() -> tuple[Any, jax.Array]:
        return compute(), jnp.ones((), bool)

    return conditional(never_negative >= 0, done, lambda: (placeholder, jnp.zeros((), bool)))
