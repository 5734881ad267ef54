"""The block step of TIAM on minibatches: from a minibatch to a displacement of every layer."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import ScalarOrSchedule, value_at
from tritia._leaves import is_placeholder
from tritia._mesh import Axes, beside, vary, varying_axes, with_auto_axes
from tritia.alternating import _examples as ex
from tritia.alternating._arguments import Activations, activation_of_each, solver_dtype
from tritia.alternating._blocks.forward_pass import forward_pass
from tritia.alternating._blocks.losses import Loss
from tritia.alternating._minibatch import layer_grams as grams, targets as block_targets
from tritia.alternating._network import Network, find_layers, layers_of, like_params
from tritia.layerwise import InputGramState
from tritia.layerwise._damped_inverse import Inverse, times_columns, times_rows
from tritia.layerwise._running_gram import GramSettings, placeholder_state

NAME = "stochastic_tiam"


class StochasticTiamState(NamedTuple):
    """State of the block step of `tritia.stochastic_tiam`, which its step wraps.

    Attributes:
      loss: mean loss of the last minibatch, before its step, ().
      grams: the Gram matrices of the layers' inputs, an `InputGramState`; its count is the number
        of updates so far.
    """

    loss: jax.Array
    grams: InputGramState


class BlockSettings(NamedTuple):
    """What the block step needs to know.

    Attributes:
      proximal_rate: eta, the inverse weight of the proximal terms; a number or a schedule.
      exact: whether every block is minimised; otherwise targets are of first order in eta.
      rho: the curvature with which a block pulls the one below it, where they are exact.
      activations: of the hidden layers.
      loss: at the output.
      grams: how the Gram matrices are kept.
      input_gram: that of the first layer where it is known.
      layer_order: the paths of the layers, or None.
    """

    proximal_rate: ScalarOrSchedule
    exact: bool
    rho: ScalarOrSchedule
    activations: Activations
    loss: Loss
    grams: GramSettings
    input_gram: jax.Array | None
    layer_order: Any


def block_step(settings: BlockSettings) -> optax.GradientTransformationExtraArgs:
    """Returns the transform whose updates are the displacements, in the dtype of the solver."""

    def init_fn(params: optax.Params) -> StochasticTiamState:
        if is_placeholder(params):
            return StochasticTiamState(jnp.zeros(()), placeholder_state())
        network = find_layers(params, settings.layer_order, solver=NAME)
        activation_of_each(settings.activations, network)
        dtype = solver_dtype(params)
        state = StochasticTiamState(
            jnp.zeros((), dtype),
            grams.start(settings.grams, settings.input_gram, grams.widths(network), dtype),
        )
        return beside(params, vary(state, varying_axes(params)))

    def update_fn(
        updates: Any,
        state: Any,
        params: optax.Params | None = None,
        *,
        inputs: jax.typing.ArrayLike | None = None,
        targets: jax.typing.ArrayLike | None = None,
        weights: jax.typing.ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, StochasticTiamState]:
        del updates, extra
        network, examples = ex.receive(
            NAME,
            params,
            inputs,
            targets,
            weights,
            layer_order=settings.layer_order,
            num_examples=None,
            loss=settings.loss,
        )
        axes = varying_axes((params, state))
        rows = varying_axes(examples) - axes
        result = with_auto_axes(
            functools.partial(_displacement, settings, network, rows),
            (params, state),
            *vary((params, state, examples), axes),
        )
        return vary(result, axes)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _displacement(
    settings: BlockSettings,
    network: Network,
    axes: Axes,
    params: optax.Params,
    state: StochasticTiamState,
    examples: ex.Examples,
) -> tuple[optax.Updates, StochasticTiamState]:
    """The displacement of all layers, like params, and the state after the minibatch."""
    n, dtype = examples.inputs.shape[0], examples.inputs.dtype
    shares = grams.row_shares(examples.rows.weights, n, dtype, axes)

    def weighted(x: jax.Array) -> jax.Array:
        # A user's loss may be NaN on the zeros that replace padding.
        return shares * x if examples.rows.weights is None else jnp.where(shares > 0, shares * x, 0)

    activations = activation_of_each(settings.activations, network)
    kernels, biases = layers_of(network, params, dtype)
    z, a = forward_pass(kernels, biases, activations, examples.inputs)
    count = state.grams.count
    rate = jnp.asarray(value_at(settings.proximal_rate, count), dtype)
    if settings.exact:
        pull = jnp.asarray(value_at(settings.rho, count), dtype)
        moves = block_targets.exact_displacements(
            kernels, activations, settings.loss, z, a, examples.targets, rate, pull
        )
    else:
        moves = block_targets.gradient_displacements(
            kernels, activations, settings.loss, z, examples.targets, rate
        )
    layer_inputs = [grams.with_ones(x, bias) for x, bias in zip(a, biases, strict=True)]
    memory = grams.advance(
        settings.grams,
        state.grams,
        layer_inputs,
        shares,
        axes,
        known=settings.input_gram is not None,
    )
    steps = [
        grams.split(_kernel_step(inverse, x, weighted(move), axes), bias is not None)
        for inverse, x, move, bias in zip(memory.inverses, layer_inputs, moves, biases, strict=True)
    ]
    row_losses = settings.loss.value(z[-1], examples.targets)[:, None]
    return (
        like_params(network, params, *zip(*steps, strict=True)),
        StochasticTiamState(grams.total(weighted(row_losses), axes), memory),
    )


def _kernel_step(inverse: Inverse, a: jax.Array, moves: jax.Array, axes: Axes) -> jax.Array:
    """Returns inverse a^T moves, (d, k), multiplied in the cheaper order."""
    rows, outputs = moves.shape
    if rows < outputs:
        return grams.over_all_rows(times_rows(inverse, a).T @ moves, axes)
    return times_columns(inverse, grams.over_all_rows(a.T @ moves, axes))
