"""What is trained: a Flax NNX multilayer perceptron, its loss and its metric."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tritia._compare.datasets import Dataset, Task


class MLP(nnx.Module):
    """Dense layers with ReLU between them and He initialisation (normal, truncated)."""

    def __init__(self, sizes: Sequence[int], *, rngs: nnx.Rngs):
        """Builds the layers of the given sizes, input and output included."""
        initial = nnx.initializers.he_normal()
        self.layers = nnx.List(
            [
                nnx.Linear(before, after, kernel_init=initial, rngs=rngs)
                for before, after in itertools.pairwise(sizes)
            ]
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps a batch of rows to a batch of outputs."""
        for layer in self.layers[:-1]:
            inputs = nnx.relu(layer(inputs))
        return self.layers[-1](inputs)


class PureNetwork(NamedTuple):
    """The network as pure functions, and what it is trained for.

    Attributes:
      initialise: from a key to parameters (an `nnx.State`).
      apply: from parameters and a batch of inputs to outputs.
      task: decides the loss and the metric.
    """

    initialise: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]
    task: Task


def build(dataset: Dataset, hidden: Sequence[int]) -> PureNetwork:
    """Builds the network that fits the data.

    Args:
      dataset: decides the width of input and output, and the task.
      hidden: the widths of the hidden layers.

    Returns:
      The `PureNetwork`.
    """
    sizes = (dataset.inputs.shape[1], *hidden, dataset.outputs)
    structure = nnx.graphdef(nnx.eval_shape(lambda: MLP(sizes, rngs=nnx.Rngs(0))))

    def initialise(key: jax.Array) -> Any:
        return nnx.state(MLP(sizes, rngs=nnx.Rngs(params=key)), nnx.Param)

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        return nnx.merge(structure, params)(inputs)

    return PureNetwork(initialise, apply, dataset.task)


def row_losses(task: Task, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The loss of each row: cross-entropy, or the squared error averaged over the outputs."""
    if task == "classification":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    return jnp.mean((outputs - targets) ** 2, axis=-1)


class Sums(NamedTuple):
    """What the loss and the metric are made of, added up over rows.

    Attributes:
      rows: how many.
      loss: the sum of the rows' losses.
      correct: how many rows are classified correctly (classification).
      error: the sum of squared errors, per output (regression).
      target: the sum of targets, per output (regression).
      square: the sum of squared targets, per output (regression).
    """

    rows: jax.Array
    loss: jax.Array
    correct: jax.Array
    error: jax.Array
    target: jax.Array
    square: jax.Array


def sums(task: Task, outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> Sums:
    """Adds up one batch; rows of weight 0 are padding."""
    losses = jnp.sum(jnp.where(weights > 0, row_losses(task, outputs, targets), 0.0))
    rows = jnp.sum(weights)
    if task == "classification":
        correct = jnp.sum(weights * (jnp.argmax(outputs, axis=-1) == targets))
        zero = jnp.zeros((1,), outputs.dtype)
        return Sums(rows, losses, correct, zero, zero, zero)
    weights = weights[:, None]
    error = jnp.sum(jnp.where(weights > 0, (outputs - targets) ** 2, 0.0), axis=0)
    target, square = jnp.sum(weights * targets, axis=0), jnp.sum(weights * targets**2, axis=0)
    return Sums(rows, losses, jnp.zeros(()), error, target, square)


def loss_and_metric(task: Task, total: Sums) -> tuple[jax.Array, jax.Array]:
    """The mean loss, and accuracy or R^2 (averaged over the outputs)."""
    loss = total.loss / total.rows
    if task == "classification":
        # argmax of NaN is 0, which would count as an answer.
        return loss, jnp.where(jnp.isfinite(loss), total.correct / total.rows, jnp.nan)
    variation = total.square - total.target**2 / total.rows
    return loss, jnp.mean(1.0 - total.error / variation)
