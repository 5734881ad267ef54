"""The layer-wise step as one optimizer."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import optax

from tritia._arguments import (
    ScalarOrSchedule,
    check_number,
    check_static,
    check_static_int,
    check_transform,
)
from tritia.inertia import PolyakAverageState, polyak_average
from tritia.layerwise._input_gram import scale_by_input_gram
from tritia.layerwise._matrices import Axes
from tritia.layerwise._newton_schulz import scale_by_newton_schulz
from tritia.layerwise._partition import IsMatrix, MatrixPartitionState, partition_matrices
from tritia.layerwise._spectral_clipping import scale_by_spectral_clipping


class SpectralMomentumState(NamedTuple):
    """State of `tritia.spectral_momentum`.

    Attributes:
      parts: of the optimizers of the matrices and of all else.
      average: of the iterates, for `tritia.eval_params`.
    """

    parts: MatrixPartitionState
    average: PolyakAverageState


def spectral_momentum(
    learning_rate: ScalarOrSchedule = 0.01,
    *,
    weight_decay: float | Any = 0.3,
    momentum: float | Any = 0.9,
    nesterov: bool = False,
    rank: int = 8,
    newton_schulz_steps: int = 0,
    input_gram: bool | optax.GradientTransformation = False,
    axes: Axes = None,
    others: optax.GradientTransformation | None = None,
    is_matrix: IsMatrix | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Trains every kernel by a step of a fixed size whose leading singular values are clipped.

    For each kernel, convolution or other array of two axes or more that is no embedding, with
    gradient g and m its smaller side as a matrix,

    .. math::

      M \leftarrow \mu M + (G + \lambda I)^{-1} g, \qquad
      W \leftarrow W - \eta \left( \sqrt m \frac{C(M)}{|C(M)|} + wd \cdot W \right)

    with C the clipping of `tritia.scale_by_spectral_clipping`, after which Newton-Schulz steps make
    all singular values alike where `newton_schulz_steps` asks for them, and G the Gram matrix of
    the layer's inputs where `input_gram` does. Vectors and embeddings go to `others`. An average of
    the iterates is kept besides: evaluate and save `tritia.eval_params(state, params)`.

    It is a chain of public parts, for one's own use and change::

      optax.chain(
        tritia.partition_matrices(
          optax.chain(
            tritia.scale_by_input_gram(axes=axes),  # where input_gram is True
            optax.trace(momentum, nesterov=nesterov),
            tritia.scale_by_spectral_clipping(rank, axes=axes),
            tritia.scale_by_newton_schulz(newton_schulz_steps, axes=axes),  # unless it is 0
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
          ),
          optax.adam(learning_rate),
        ),
        tritia.polyak_average(),
      )

    Args:
      learning_rate: eta, >= 0; a number or a schedule. It should fall to 0 towards the end, as a
        cosine does. One number suits layers of every width.
      weight_decay: wd, >= 0, of the kernels alone; decoupled from the gradient, times the learning
        rate.
      momentum: mu, in [0, 1).
      nesterov: whether the momentum is Nesterov's; static.
      rank: how many singular values are clipped, >= 0; static.
      newton_schulz_steps: how many steps of `tritia.scale_by_newton_schulz` follow, >= 0; static.
        0 suits dense layers on minibatches, where a step would cost as much as the gradient. With
        2 it is Muon at less than half of Muon's cost: take it for transformers and convolutional
        networks, with `nesterov` and a higher learning rate.
      input_gram: True preconditions by the Gram matrices of the layers' inputs, which helps most in
        the first epochs and needs a loss made by `tritia.with_layer_inputs`; an
        optimizer such as `tritia.scale_by_input_gram` with other settings is used as it is; static.
      axes: which axes of an array are the rows and the columns of a matrix: a dict from names of
        leaves to `tritia.MatrixAxes`, as `tritia.layer_axes` finds it; by default the columns are
        the last axis.
      others: the optimizer of vectors and embeddings; by default `optax.adam(learning_rate)`.
      is_matrix: a function of a leaf's name and the leaf, that tells what is trained as a matrix;
        None is `tritia.layerwise.is_matrix`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `SpectralMomentumState`; its update needs
      params, and `layer_inputs=` where `input_gram` is True.

    Raises:
      ValueError: a number outside its range.
      TypeError: an argument of the wrong type, or a static one that is traced.

    References:
      See `tritia.scale_by_spectral_clipping`, `tritia.scale_by_input_gram` and
      `tritia.polyak_average`.

      Loshchilov and Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> def loss(params, x, y):
      ...   return jnp.mean((jnp.tanh(x @ params["first"]) @ params["second"] - y) ** 2)
      >>> params = {"first": jnp.eye(4), "second": jnp.eye(4)}
      >>> x = jax.random.normal(jax.random.key(0), (20, 4))
      >>> rate = optax.linear_schedule(0.1, 0.0, transition_steps=50)
      >>> solver = tritia.spectral_momentum(rate, weight_decay=0.0, input_gram=True)
      >>> state = solver.init(params)
      >>> @jax.jit
      ... def step(params, state):
      ...   recorded = jax.value_and_grad(tritia.with_layer_inputs(loss), has_aux=True)
      ...   (value, inputs), grads = recorded(params, x, jnp.flip(x, axis=1) / 2)
      ...   updates, state = solver.update(grads, state, params, layer_inputs=inputs)
      ...   return optax.apply_updates(params, updates), state, value
      >>> for _ in range(50):
      ...   params, state, value = step(params, state)
      >>> bool(value < 0.1)
      True
    """
    check_number("learning_rate", learning_rate, minimum=0)
    check_static(
        nesterov=nesterov,
        rank=rank,
        newton_schulz_steps=newton_schulz_steps,
        input_gram=input_gram,
    )
    check_number("weight_decay", weight_decay, minimum=0, schedule=False)
    check_number("momentum", momentum, minimum=0, maximum=1, exclusive_maximum=True, schedule=False)
    preconditioner = []
    if input_gram is True:
        preconditioner = [scale_by_input_gram(axes=axes)]
    elif input_gram is not False:
        preconditioner = [check_transform("input_gram", input_gram)]
    newton_schulz_steps = check_static_int("newton_schulz_steps", newton_schulz_steps, minimum=0)
    orthogonal = (
        [scale_by_newton_schulz(newton_schulz_steps, axes=axes)] if newton_schulz_steps else []
    )
    matrices = optax.chain(
        *preconditioner,
        optax.trace(momentum, nesterov=nesterov),
        scale_by_spectral_clipping(rank, axes=axes),
        *orthogonal,
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    parts = partition_matrices(
        matrices, optax.adam(learning_rate) if others is None else others, is_matrix=is_matrix
    )
    average = polyak_average()

    def init_fn(params: optax.Params) -> SpectralMomentumState:
        return SpectralMomentumState(cast(Any, parts.init(params)), cast(Any, average.init(params)))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, SpectralMomentumState]:
        # Optax's Adam and its schedules compute with a count of steps as with a number.
        with jax.numpy_dtype_promotion("standard"):
            updates, first = parts.update(updates, state.parts, params, **extra)
            updates, second = average.update(updates, state.average, params)
        return updates, SpectralMomentumState(cast(Any, first), cast(Any, second))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
