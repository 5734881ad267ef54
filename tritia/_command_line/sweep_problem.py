"""What `tritia sweep` trains: the comparison's network on one of its data sets, as a problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tritia._compare import datasets, network, training
from tritia._compare.optimizers import LearningTask, Optimizer
from tritia.sweeps import Problem, minibatches, plain_problem


class SweptTask(NamedTuple):
    """What is swept.

    Attributes:
      learning_task: what the optimizer is told when it is built.
      problem: the network and its loss, judged by the validation metric.
      data: training and validation rows.
      batch: the minibatches, or None for full batches.
      steps_per_epoch: how many.
      extra: further arguments of `update`, from a batch; None for none.
    """

    learning_task: LearningTask
    problem: Problem
    data: Any
    batch: Callable[..., Any] | None
    steps_per_epoch: int
    extra: Callable[[Any], dict[str, Any]] | None


def prepare(
    optimizer: Optimizer, dataset: datasets.Dataset, hidden: Sequence[int], batch_size: int | None
) -> SweptTask:
    """Builds the network and scales the data.

    All seeds share one division of the rows; they have their own initial weights and minibatches.

    Args:
      optimizer: from the comparison's registry.
      dataset: the data.
      hidden: widths of the hidden layers.
      batch_size: rows in a minibatch; None for the data set's own, 0 for all training rows.

    Returns:
      The `SweptTask`.
    """
    split = datasets.split(dataset, 0)
    net = network.build(dataset, hidden, copies=1)

    everything = training.Rows(dataset.inputs, dataset.targets)

    def rows(numbers: np.ndarray) -> dict[str, Any]:
        inputs, targets = training.gather(dataset, everything, split, numbers)
        return {"inputs": inputs, "targets": targets}

    def loss(params: Any, batch: Any) -> jax.Array:
        outputs = net.apply(params, batch["inputs"])
        return jnp.mean(network.row_losses(dataset.task, outputs, batch["targets"]))

    def evaluate(params: Any, data: Any) -> jax.Array:
        held_out = data["validation"]
        outputs = net.apply(params, held_out["inputs"])
        ones = jnp.ones(outputs.shape[0])
        total = network.sums(dataset.task, outputs, held_out["targets"], ones)
        value, metric = network.loss_and_metric(dataset.task, total)
        return jnp.where(value <= dataset.diverged_loss, metric, jnp.nan)

    data = {"training": rows(split.training), "validation": rows(split.validation)}
    count = len(split.training)
    asked = dataset.batch_size if batch_size is None else batch_size or count
    size = min(asked, count)
    full = optimizer.full_batch or size == count
    return SweptTask(
        LearningTask(count, dataset.task, dataset.outputs),
        plain_problem(net.initialise, loss, evaluate=evaluate),
        data,
        (lambda key, step, data: data["training"])
        if full
        else minibatches(size, rows=lambda data: data["training"]),
        1 if full else count // size,
        _examples if optimizer.extra == "examples" else None,
    )


def _examples(batch: Any) -> dict[str, Any]:
    return {"inputs": batch["inputs"], "targets": batch["targets"]}
