"""What is raced on: data, network, loss, and for how long."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks.layerwise_race import data, models


class Objective(NamedTuple):
    """How outputs are judged.

    Attributes:
      loss: (outputs, targets) -> mean over the rows; trained on.
      score: (outputs, targets) -> what a user would look at, greater is better; None for the loss.
      name: of the score.
    """

    loss: Callable[[jax.Array, jax.Array], jax.Array]
    score: Callable[[jax.Array, jax.Array], jax.Array] | None
    name: str


class Task(NamedTuple):
    """One competition.

    Attributes:
      title: for the table.
      load: (folders, seed) -> rows.
      model: builds the network from its random numbers.
      objective: the loss and the score.
      batch: rows of a step.
      steps: of a whole run; a tuning run takes a part of them.
      tuning_steps: of a tuning run.
      round_steps: of a round, after which the run is judged; a divisor of both.
      goals: scores to which steps and seconds are counted.
      refit: whether the race trains on the validation rows too.
      epoch: steps of an epoch where the table counts in epochs, or None.
      folder: the name of the folder that its data are in, or None where they are always at hand.
      rate_scale: multiplies the learning rates of every method's grid.
    """

    title: str
    load: Callable[[data.Folders, int], data.Data]
    model: Callable[[nnx.Rngs], nnx.Module]
    objective: Objective
    batch: int
    steps: int
    tuning_steps: int
    round_steps: int
    goals: tuple[float, ...] = ()
    refit: bool = True
    epoch: int | None = None
    folder: str | None = None
    rate_scale: float = 1.0


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over rows, and over places where a row has several labels."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def accuracy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of labels that the greatest output hits."""
    return jnp.mean(outputs.argmax(-1) == labels)


def bernoulli(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of independent pixels given as logits, summed over them."""
    return optax.sigmoid_binary_cross_entropy(outputs, targets).sum(-1).mean()


def squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Half the mean square."""
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, -1))


def r_squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The share of the targets' variance that is explained."""
    total = jnp.sum((targets - targets.mean(0)) ** 2)
    return 1 - jnp.sum((outputs - targets) ** 2) / total


CLASSES = Objective(cross_entropy, accuracy, "accuracy")
SYMBOLS = Objective(cross_entropy, None, "nats a character")
PIXELS = Objective(bernoulli, None, "nats an image")
NUMBERS = Objective(squared, r_squared, "R²")

_EPOCH = 60_000 // 128
_MNIST_GOALS = (0.97, 0.975, 0.98, 0.985)


def _perceptron(*widths: int, tanh: bool = False) -> Callable[[nnx.Rngs], nnx.Module]:
    return functools.partial(models.Perceptron, widths, tanh=tanh)


def _mnist(*hidden: int) -> Task:
    title = f"MNIST, 784-{'-'.join(map(str, hidden))}-10"
    if len(hidden) > 3:
        title = f"MNIST, {len(hidden)} hidden layers of {hidden[0]}"
    return Task(
        title,
        data.mnist,
        _perceptron(784, *hidden, 10),
        CLASSES,
        batch=128,
        steps=8 * _EPOCH,
        tuning_steps=3 * _EPOCH,
        round_steps=_EPOCH,
        goals=_MNIST_GOALS,
        epoch=_EPOCH,
        folder="mnist",
    )


def _small(name: str, features: int, outputs: int, steps: int, goal: float) -> Task:
    return Task(
        f"{name}, {features}-100-100-{outputs}",
        functools.partial(data.small, name),
        _perceptron(features, 100, 100, outputs),
        NUMBERS if name == "diabetes" else CLASSES,
        batch=32,
        steps=steps,
        tuning_steps=steps,  # they are cheap
        round_steps=steps // 20,
        goals=(goal,),
    )


TASKS: Mapping[str, Task] = {
    "mnist3": _mnist(256, 256),
    "mnist6": _mnist(*[128] * 6),
    "mnist10": _mnist(*[128] * 10),
    "cnn": Task(
        "MNIST, two convolutions and two dense layers",
        data.mnist_images,
        models.Convolutional,
        CLASSES,
        batch=128,
        steps=_EPOCH,
        tuning_steps=_EPOCH // 3,
        round_steps=_EPOCH // 12,
        goals=(0.97, 0.98),
        folder="mnist",
    ),
    "transformer": Task(
        "Characters of Python's library, a transformer of 2 layers, width 64, context 64",
        data.library_text,
        lambda rngs: models.Transformer(data.SYMBOLS, data.WINDOW, 64, 2, 4, rngs),
        SYMBOLS,
        batch=32,
        steps=600,
        tuning_steps=200,
        round_steps=50,
        refit=False,
        rate_scale=2.0,  # all optima are above those of the perceptrons
    ),
    "autoencoder": Task(
        "Autoencoder of MNIST, 784-256-128-64-16 and back, tanh",
        data.mnist_to_itself,
        _perceptron(784, 256, 128, 64, 16, 64, 128, 256, 784, tanh=True),
        PIXELS,
        batch=128,
        steps=4 * _EPOCH,
        tuning_steps=4 * _EPOCH // 3,
        round_steps=_EPOCH // 3,
        folder="mnist",
    ),
    "cora": Task(
        "Cora, words smoothed over the graph, 7165-100-100-7",
        data.cora,
        _perceptron(7165, 100, 100, 7),
        CLASSES,
        batch=140,
        steps=100,
        tuning_steps=50,
        round_steps=5,
        goals=(0.8,),
        folder="cora",
        refit=False,
    ),
    "digits": _small("digits", 64, 10, 900, 0.96),
    "wine": _small("wine", 13, 3, 100, 0.95),
    "breast_cancer": _small("breast_cancer", 30, 2, 300, 0.95),
    "diabetes": _small("diabetes", 10, 1, 220, 0.4),
}
