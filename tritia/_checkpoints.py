"""Whether a saved state belongs to an optimizer, said leaf by leaf."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def check_restorable(saved: Any, expected: Any) -> None:
    """Compares what a checkpoint holds with what the optimizer expects, before it is restored.

    Orbax refuses a checkpoint of another structure, but does not name the array whose shape
    differs, and converts another dtype in silence. This names every leaf that differs. It can't see
    what leaves no trace in shapes and dtypes: numbers, which may be changed when a run goes on, and
    two Runge-Kutta schemes with the same memory, between which only a state at a step boundary
    (`tritia.at_step_boundary`) may be handed over.

    Args:
      saved: what `checkpointer.metadata(path)` of an `orbax.checkpoint.StandardCheckpointer`
        returns, or a restored tree.
      expected: what was saved, as the present program has it: a pytree of arrays or
        `jax.ShapeDtypeStruct`, such as `(params, optimizer.init(params))`.

    Raises:
      ValueError: a leaf is missing, too many, or has another shape or dtype; all are named.

    References:
      `Orbax: checkpointing PyTrees
      <https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpointing_pytrees.html>`_

    Examples:
      >>> import jax.numpy as jnp, tritia
      >>> from tritia._checkpoints import check_restorable
      >>> params = {"w": jnp.ones(2)}
      >>> saved = tritia.difference(0.1, steps=3).init(params)
      >>> check_restorable(saved, tritia.difference(0.2, steps=3).init(params))
      >>> check_restorable(saved, tritia.difference(0.1, steps=4).init(params))
      Traceback (most recent call last):
      ...
      ValueError: the checkpoint is of another configuration:
        displacements/2/w: saved nothing, expected (2,) float32
        step_sizes: saved (2,) float32, expected (3,) float32
    """
    # A step's metadata wraps the tree's.
    there, wanted = _leaves(getattr(saved, "item_metadata", saved)), _leaves(expected)
    lines = [
        f"  {name}: saved {there.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')}"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name)
    ]
    if lines:
        raise ValueError("\n".join(["the checkpoint is of another configuration:", *lines]))


def _leaves(tree: Any) -> dict[str, str]:
    """Returns shape and dtype of each leaf by its path, whatever the containers are."""
    tree = getattr(tree, "tree", tree)  # of Orbax's metadata
    paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_array)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{tuple(leaf.shape)} {leaf.dtype}" if _is_array(leaf) else _described(leaf)
        )
        for path, leaf in paths
    }


def _described(leaf: Any) -> str:
    # A number is saved as an array; its value may change when a run goes on.
    return f"() {np.asarray(leaf).dtype}" if isinstance(leaf, (int, float)) else repr(leaf)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
