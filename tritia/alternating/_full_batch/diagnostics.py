"""What `tritia.tiam` reports of its last update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia._trees import find_states
from tritia.alternating._arguments import (
    activation_of_each,
    resolve_activations,
    resolve_loss,
)
from tritia.alternating._blocks.activations import Activation, ActivationName
from tritia.alternating._blocks.forward_pass import forward_pass
from tritia.alternating._blocks.losses import Loss, LossName
from tritia.alternating._examples import receive
from tritia.alternating._full_batch.block_pass import BlockPassResult
from tritia.alternating._full_batch.problem import Rejected
from tritia.alternating._full_batch.restart import Restart
from tritia.alternating._network import layers_of


class Diagnostics(NamedTuple):
    """How an update of `tritia.tiam` went, for logging.

    Attributes:
      objective: (), the objective after the update: loss, penalties and weight decay, summed over
        the rows.
      loss: (), the loss alone of the output pre-activations, summed over the rows. These are not
        the network's outputs until every coupling holds.
      coupling_residual: (L - 1,), the largest :math:`|a_l - h(z_l)|` of each hidden layer.
      rejected: which share of each block the safeguard put back; see `Rejected`.
      step_norms: (L,), the Frobenius norm of the change of each kernel.
      finite: (), bool: whether the objective is finite. NaN in the examples, a class label out of
        range or a negative weight makes it False.
      inputs_changed: (), bool: whether any update so far was given other inputs or weights than
        the first. The state belongs to the first ones.
      network_loss: (), the loss of the outputs that the network itself gives, summed over the rows,
        with the params that the update was given: far above `loss`, it shows that the auxiliary
        variables have left the network. () where `restart` is None; `tiam_network_loss` computes it
        on demand.
      restarted: (), the share of rows whose auxiliary variables were restarted from the network; or
        () likewise.
    """

    objective: jax.Array
    loss: jax.Array
    coupling_residual: jax.Array
    rejected: Rejected
    step_norms: jax.Array
    finite: jax.Array
    inputs_changed: jax.Array
    network_loss: jax.Array | tuple[()] = ()
    restarted: jax.Array | tuple[()] = ()


def diagnose(result: BlockPassResult, changed: jax.Array, restarted: Restart | None) -> Diagnostics:
    """Returns the diagnostics of a block pass.

    Args:
      result: what the pass returned.
      changed: (), bool: whether the inputs have changed.
      restarted: the restart before the pass, or None.
    """
    return Diagnostics(
        objective=result.objective,
        loss=result.loss,
        coupling_residual=result.coupling_residual,
        rejected=result.rejected,
        step_norms=result.step_norms,
        finite=jnp.isfinite(result.objective),
        inputs_changed=changed,
        network_loss=() if restarted is None else restarted.network_loss,
        restarted=() if restarted is None else restarted.restarted,
    )


def no_diagnostics(depth: int, dtype: jnp.dtype, *, restarts: bool) -> Diagnostics:
    """Returns the diagnostics of a network of `depth` layers before the first update."""

    def zeros(*shape):
        return jnp.zeros(shape, dtype)

    return Diagnostics(
        zeros(),
        zeros(),
        zeros(depth - 1),
        Rejected(zeros(depth), zeros(depth), zeros(depth - 1)),
        zeros(depth),
        jnp.ones((), bool),
        jnp.zeros((), bool),
        zeros() if restarts else (),
        zeros() if restarts else (),
    )


def tiam_diagnostics(state: optax.OptState) -> Diagnostics:
    """Returns what the last update of `tritia.tiam` reported.

    Args:
      state: the optimizer's state. The solver's own state may sit anywhere in it, such as in
        `optax.chain`, `optax.inject_hyperparams` or the `opt_state` of an `nnx.Optimizer`.

    Returns:
      `Diagnostics` of arrays; before the first update zeros, and `finite` True.

    Raises:
      ValueError: `state` holds no state of `tritia.tiam`, or more than one.

    Examples:
      >>> import jax.numpy as jnp, tritia
      >>> params = {"kernel": jnp.zeros((2, 1))}
      >>> solver = tritia.tiam(3, loss="squared_error")
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), jnp.array([[1.0], [2.0], [3.0]])
      >>> _, state = solver.update(None, solver.init(params), params, inputs=x, targets=y)
      >>> bool(tritia.tiam_diagnostics(state).finite)
      True
    """
    found = find_states(state, Diagnostics)
    if len(found) != 1:
        raise ValueError(
            f"state holds {len(found)} states of tritia.tiam; tiam_diagnostics needs exactly one."
            f" Got a state of type {type(state).__name__}."
        )
    # Unwrapped: nnx.Optimizer keeps each array in a variable.
    leaves = jax.tree.leaves(found[0])
    return Diagnostics(*leaves[:3], Rejected(*leaves[3:6]), *leaves[6:])  # type: ignore


def tiam_network_loss(
    params: optax.Params,
    *,
    inputs: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    weights: jax.typing.ArrayLike | None = None,
    activation: ActivationName | Activation | Sequence[ActivationName | Activation] = "relu",
    loss: LossName | Loss = "softmax_cross_entropy",
    layer_order: Sequence[str] | None = None,
) -> jax.Array:
    """Returns the loss of the outputs that the network itself gives, summed over the rows.

    Beside `tiam_diagnostics(state).loss`, that of the auxiliary variables, it shows a stall: once
    it stays far above, z and a have left the network, and `restart="always"` may help. It costs a
    forward pass, which an update without restarts does not make.

    Args:
      params: a pytree of dense layers, as `tritia.tiam` takes them.
      inputs: (n, d_0), any number of rows: of the training rows, to compare with the diagnostics.
      targets: as of `tritia.tiam`.
      weights: (n,), sample weights >= 0; rows of weight 0 may hold anything.
      activation: as of `tritia.tiam`.
      loss: as of `tritia.tiam`.
      layer_order: as of `tritia.tiam`.

    Returns:
      (), in the dtype of the params, float32 at least.

    Raises:
      ValueError: as `tritia.tiam` and its `update`.
      TypeError: likewise.

    Examples:
      >>> import jax.numpy as jnp, tritia
      >>> params = {"kernel": jnp.array([[1.0], [1.0]])}
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [3.0]])
      >>> print(tritia.tiam_network_loss(params, inputs=x, targets=y, loss="squared_error"))
      2.0
    """
    the_loss = resolve_loss(loss)
    hidden = resolve_activations(activation, invertible=False)
    network, examples = receive(
        "tiam_network_loss",
        params,
        inputs,
        targets,
        weights,
        layer_order=layer_order,
        num_examples=None,
        loss=the_loss,
    )
    activations = activation_of_each(hidden, network)
    layers = layers_of(network, params, examples.inputs.dtype)
    outputs = forward_pass(*layers, activations, examples.inputs)[0][-1]
    return examples.rows.sum(the_loss.value(outputs, examples.targets)[:, None])
