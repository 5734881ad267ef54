"""From the params of the training loop to the iterate of its inertia."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from tritia._trees import find_states
from tritia.inertia._extrapolation import extrapolate
from tritia.inertia._polyak_average import PolyakAverageState
from tritia.inertia._triple_inertia import TripleInertiaState

EVALUATED_STATES = (TripleInertiaState, PolyakAverageState)
"""Those that hold an iterate to evaluate, of which `eval_params` makes params."""


def eval_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    r"""Returns the iterate of `triple_inertia` or the average of `polyak_average`, to save.

    With `polyak_average` it is the average of the loop's params. With `triple_inertia` these are
    :math:`e = u + p_2 d`, the point where gradients are taken, and it is :math:`u` (for
    `triple_momentum`, its output point), in exact arithmetic:

    .. math::

      u + q d = e + (q - p_2) d

    Args:
      state: the optimizer's state. The transform's own state may sit anywhere in it: bare, in
        `optax.chain`, `optax.masked`, `optax.partition`, `optax.inject_hyperparams`,
        `optax.MultiSteps` or `optax.apply_if_finite`, in the `opt_state` of a Flax `TrainState` or
        of an `nnx.Optimizer`.
      params: the loop's params; with NNX, `nnx.state(model, nnx.Param)`.

    Returns:
      A pytree like `params`. Leaves that neither transform has (because they are masked, or
      belong to another label of a partition) come back unchanged.

    Raises:
      ValueError: `state` holds no state of `triple_inertia` or `polyak_average`, two of them for
        one leaf, or one for other params than these.

    Examples:
      >>> import jax.numpy as jnp, optax, tritia
      >>> solver = optax.chain(
      ...   optax.clip(1.0), tritia.triple_inertia(optax.sgd(0.5), predict=0.9, evaluate=0.9))
      >>> params = {"w": jnp.array([2.0])}
      >>> state = solver.init(params)
      >>> updates, state = solver.update({"w": jnp.array([1.0])}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(params["w"], tritia.eval_params(state, params)["w"])
      [1.05] [1.5]
    """
    wrappers = find_states(state, EVALUATED_STATES)
    if not wrappers:
        raise ValueError(
            "state holds no state of tritia.triple_inertia, tritia.triple_momentum or"
            " tritia.polyak_average. Pass the optimizer's state first and the params second:"
            " eval_params(state, params), with nnx.Optimizer"
            " eval_params(optimizer.opt_state, nnx.state(model, nnx.Param)). Got a state of"
            f" type {type(state).__name__}."
        )

    # Matched by path, not by structure: masked leaves are missing from the displacement, and Flax
    # stores it in variables of another class than the params'.
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in paths_and_leaves}
    moved = set()
    for wrapper in wrappers:
        averaged = isinstance(wrapper, PolyakAverageState)
        one_for_each = [wrapper.count] if averaged else [wrapper.evaluate, wrapper.output]
        (first, *_) = numbers = [leaf for part in one_for_each for leaf in jax.tree.leaves(part)]
        if jnp.ndim(first) > 0:
            raise ValueError(
                f"state is a batch of states, of shape {jnp.shape(first)}: call"
                " jax.vmap(tritia.eval_params)(state, params)."
            )
        kept = wrapper.average if averaged else wrapper.displacement
        for path, memory in jax.tree_util.tree_flatten_with_path(kept)[0]:
            name = jax.tree_util.keystr(path)
            _check_leaf(name, memory, leaves, moved)
            moved.add(name)
            if averaged:
                leaves[name] = memory.astype(jnp.result_type(leaves[name]))
            else:
                evaluate, output = numbers
                leaves[name] = extrapolate(leaves[name], memory, output - evaluate)
    return jax.tree.unflatten(structure, leaves.values())


def _check_leaf(name: str, memory: Any, leaves: dict[str, Any], moved: set[str]) -> None:
    if name not in leaves or jnp.shape(leaves[name]) != jnp.shape(memory):
        found = f"shape {jnp.shape(leaves[name])}" if name in leaves else "none"
        raise ValueError(
            "state belongs to other params than these: it has memory of shape"
            f" {jnp.shape(memory)} for the leaf params{name}; params has {found}."
        )
    if name in moved:
        raise ValueError(
            f"state holds two states of tritia.triple_inertia or tritia.polyak_average for"
            f" params{name}, so that no iterate is defined: use one, last in the chain."
        )
