"""What the solvers' arguments mean: activations and losses by name, the dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tritia._arguments import check_choice
from tritia._trees import compute_dtype
from tritia.alternating._blocks.activations import ACTIVATIONS, Activation
from tritia.alternating._blocks.losses import LOSSES, Loss
from tritia.alternating._network import Network

Activations = Activation | tuple[Activation, ...]
"""One activation for all hidden layers, or one for each."""


def resolve_loss(loss: str | Loss) -> Loss:
    """Returns the loss of a name, or the loss itself.

    Raises:
      ValueError: the name is unknown.
      TypeError: neither a name nor a loss.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(
            f"loss must be a name ({', '.join(map(repr, LOSSES))}) or what"
            f" tritia.alternating.smooth_loss returns; got {loss!r}."
        )
    check_choice("loss", loss, LOSSES)
    return LOSSES[loss]


def resolve_activations(
    activation: str | Activation | Sequence[str | Activation], *, invertible: bool
) -> Activations:
    """Returns what `activation` says: a name, an `Activation`, or a sequence of these.

    Args:
      activation: as the user gave it.
      invertible: whether the solver needs inverses, as coupling "inequality" does.

    Raises:
      ValueError: a name is unknown, or an inverse is needed and missing.
      TypeError: neither names nor activations.
    """

    def resolve(one: Any) -> Activation:
        if isinstance(one, str):
            check_choice("activation", one, ACTIVATIONS)
            one = ACTIVATIONS[one]
        if not isinstance(one, Activation):
            raise TypeError(
                "activation must be a name, what tritia.alternating.monotone_activation or"
                f" leaky_relu returns, or a sequence of these; got {one!r}."
            )
        if invertible and one.inverse is None:
            raise ValueError(
                f"activation is {one.name!r}, which is not monotone: coupling='inequality' needs"
                " its inverse; use coupling='penalty'."
            )
        return one

    if isinstance(activation, Sequence) and not isinstance(activation, str):
        return tuple(resolve(one) for one in activation)
    return resolve(activation)


def activation_of_each(activations: Activations, network: Network) -> tuple[Activation, ...]:
    """Returns one activation for each hidden layer of a network.

    Raises:
      ValueError: another number of activations than hidden layers.
    """
    depth = len(network.names)
    if isinstance(activations, Activation):
        return (activations,) * (depth - 1)
    if len(activations) != depth - 1:
        raise ValueError(
            f"activation lists {len(activations)} activations, but params has {depth} layers"
            f" {list(network.names)}: it needs {depth - 1}, one after each layer but the last."
        )
    return activations


def check_row_sharding(sharding: jax.sharding.Sharding | None, num_examples: int) -> None:
    """Checks a sharding for arrays whose rows are spread over devices.

    Raises:
      ValueError: it does not divide the rows.
      TypeError: neither a sharding nor None.
    """
    if sharding is None:
        return
    if not isinstance(sharding, jax.sharding.Sharding):
        raise TypeError(f"row_sharding must be a jax.sharding.Sharding or None; got {sharding!r}.")
    devices = sharding.num_devices
    parts = devices // sharding.shard_shape((devices, devices))[0]
    if num_examples % parts:
        padded = -(-num_examples // parts) * parts
        raise ValueError(
            f"num_examples is {num_examples}, and row_sharding spreads the rows in {parts} equal"
            f" parts: pad inputs and targets to {padded} rows, with anything, and pass"
            " update(weights=) that are 0 there and 1 elsewhere."
        )


def check_layer_sharding(
    sharding: jax.sharding.NamedSharding | None,
    rows: jax.sharding.Sharding | None,
    block_order: str,
    restart: str | None,
) -> None:
    """Checks the argument `layer_sharding` of `tritia.tiam`, beside the others that it goes with.

    Raises:
      ValueError: it does not name one axis, or another argument does not go with it.
      TypeError: neither a `jax.sharding.NamedSharding` nor None.
    """
    if sharding is None:
        return
    if not isinstance(sharding, jax.sharding.NamedSharding):
        raise TypeError(
            f"layer_sharding must be a jax.sharding.NamedSharding or None; got {sharding!r}."
        )
    if len(sharding.spec) != 1 or not isinstance(sharding.spec[0], str):
        raise ValueError(
            f"layer_sharding has the spec {sharding.spec}; allowed: one axis of the mesh, over"
            ' which layers are spread, such as PartitionSpec("layers").'
        )
    if block_order != "red_black":
        raise ValueError(
            f"block_order is {block_order!r}; with layer_sharding, 'red_black' alone is allowed, in"
            " which layers are updated at the same time."
        )
    if restart is not None:
        raise ValueError(
            f"restart is {restart!r}; with layer_sharding None alone is allowed, because a forward"
            " pass goes through one device after the other."
        )
    if rows is not None:
        raise ValueError(
            f"row_sharding is {rows!r}; with layer_sharding None alone is allowed: every device has"
            " all rows."
        )
    # Some devices make steps that others do not: sums over a further axis could come in another
    # order on one device than on its partner, and wait for each other.
    if sharding.mesh.size != sharding.mesh.shape[sharding.spec[0]]:
        raise ValueError(
            f"layer_sharding lies on a mesh of {dict(sharding.mesh.shape)} devices; allowed: a mesh"
            f" whose axes other than {sharding.spec[0]!r} have the size 1."
        )


def solver_dtype(params: Any) -> Any:
    """Returns the dtype of the solver: that of the params, float32 at least."""
    return compute_dtype(*map(jnp.result_type, jax.tree.leaves(params)))
