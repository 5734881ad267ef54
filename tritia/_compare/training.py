"""How it is trained: one compiled scan per epoch, all seeds (and settings) as one computation.

Seeds, and settings where they are tuned, are divided among the devices of the bench, and nothing
travels between them. Where they are no multiple of the devices, the last one is repeated, and what
comes of the repetitions is thrown away.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from tritia._arguments import with_extra_args
from tritia._compare import datasets, network
from tritia._compare.datasets import Dataset
from tritia._compare.optimizers import LearningTask, Optimizer
from tritia.sweeps._lanes import Lanes, first_device

Progress = Callable[[], None]
"""Called after each epoch."""

Part = Literal["training", "validation", "test"]
"""What a row is for."""

# How many numbers of features one chunk of an evaluation may gather.
_CHUNK_ENTRIES = 2**20


class Rows(NamedTuple):
    """The data on the device, shared by all seeds.

    Attributes:
      inputs: raw features, shape (rows, features).
      targets: shape (rows,) or (rows, outputs).
    """

    inputs: jax.Array | np.ndarray
    targets: jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Bench:
    """Everything that the optimizers of one comparison share.

    Attributes:
      dataset: the data.
      net: the network.
      rows: the data on the device.
      splits: a `datasets.Split` whose arrays have a leading axis, one entry per seed.
      initial: parameters, likewise; the same for every optimizer.
      seeds: how many.
      batch_size: rows per minibatch, at most the training rows.
      mesh: the devices that train, as `sweeps._lanes.checked_mesh` returns.
      first_seed: the number of the first.
    """

    dataset: Dataset
    net: network.PureNetwork
    rows: Rows
    splits: datasets.Split
    initial: Any
    seeds: int
    batch_size: int
    mesh: Mesh
    first_seed: int = 0

    @property
    def training_rows(self) -> int:
        """How many rows one seed trains on."""
        return self.splits.training.shape[1]

    def only(self, start: int, stop: int) -> Bench:
        """The same with the seeds from `start` to before `stop`, counted from the first."""
        if (start, stop) == (0, self.seeds):
            return self
        splits, initial = jax.tree.map(lambda leaf: leaf[start:stop], (self.splits, self.initial))
        return dataclasses.replace(
            self,
            splits=splits,
            initial=initial,
            seeds=stop - start,
            first_seed=self.first_seed + start,
        )

    def steps_per_epoch(self, optimizer: Optimizer) -> int:
        """How many steps an epoch has; rows that don't fill a batch wait for another epoch."""
        return 1 if optimizer.full_batch else self.training_rows // self.batch_size

    def batches(self, optimizer: Optimizer, epoch: int) -> np.ndarray:
        """The minibatches of an epoch: positions among the training rows, shuffled by seed.

        Returns:
          int32 of shape (seeds, steps, batch); the same for every optimizer that takes minibatches.
        """
        if optimizer.full_batch:
            positions = np.arange(self.training_rows, dtype=np.int32)
            return np.broadcast_to(positions, (self.seeds, 1, self.training_rows))
        steps = self.steps_per_epoch(optimizer)
        return np.stack(
            [
                np.random.default_rng((seed, epoch))
                .permutation(self.training_rows)[: steps * self.batch_size]
                .reshape(steps, self.batch_size)
                .astype(np.int32)
                for seed in range(self.first_seed, self.first_seed + self.seeds)
            ]
        )


def prepare(
    dataset: Dataset,
    hidden: tuple[int, ...],
    seeds: int,
    batch_size: int | None,
    mesh: Mesh | None = None,
) -> Bench:
    """Splits the rows, puts them on the device and initialises the networks.

    Args:
      dataset: the data.
      hidden: widths of the hidden layers.
      seeds: how many; seed s decides the initial weights, the order of the rows and, where the
        data set leaves it open, which rows train.
      batch_size: rows in a minibatch; None for the data set's own, 0 for all training rows.
      mesh: the devices that train; None for the first alone.

    Returns:
      The `Bench`.
    """
    net = network.build(dataset, hidden, seeds)
    if dataset.one_split:
        only = datasets.split(dataset, 0)
        splits = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (seeds, *leaf.shape)), only)
    else:
        each = [datasets.split(dataset, seed) for seed in range(seeds)]
        splits = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    initial = jax.jit(jax.vmap(net.initialise))(keys)
    training_rows = splits.training.shape[1]
    wanted = dataset.batch_size if batch_size is None else batch_size or training_rows
    return Bench(
        dataset,
        net,
        Rows(jnp.asarray(dataset.inputs), jnp.asarray(dataset.targets)),
        jax.tree.map(jnp.asarray, splits),
        initial,
        seeds,
        min(wanted, training_rows),
        first_device() if mesh is None else mesh,
    )


class Carry(NamedTuple):
    """What goes from step to step.

    Attributes:
      params: the network's.
      state: the optimizer's.
    """

    params: Any
    state: Any


class Functions(NamedTuple):
    """The computation for one seed and one setting; see `functions`.

    Attributes:
      start: (setting, params) -> carry.
      epoch: (setting, carry, rows, split, batches) -> carry.
      evaluate: (carry, rows, split, "training" | "validation" | "test") -> (loss, metric).
      diagnostics: carry -> dict of scalars.
    """

    start: Callable[..., Carry]
    epoch: Callable[..., Carry]
    evaluate: Callable[..., tuple[jax.Array, jax.Array]]
    diagnostics: Callable[[Carry], Mapping[str, jax.Array]]


def functions(bench: Bench, optimizer: Optimizer) -> Functions:
    """Writes training with one optimizer as pure functions of one seed and one setting.

    The optimizer is built inside them, from numbers that may be traced: `jax.vmap` over the setting
    is the sweep, `jax.vmap` over split and params is the seeds.

    Args:
      bench: what is shared.
      optimizer: from the registry.

    Returns:
      The `Functions`.
    """
    net, task = bench.net, bench.net.task
    learning_task = LearningTask(bench.training_rows, task, bench.dataset.outputs)

    def transform(setting: Any) -> optax.GradientTransformationExtraArgs:
        return with_extra_args(optimizer.build(setting, learning_task))

    def start(setting: Any, params: Any) -> Carry:
        return Carry(params, transform(setting).init(params))

    def epoch(setting: Any, carry: Carry, rows: Rows, split: Any, batches: jax.Array) -> Carry:
        solver = transform(setting)

        def step(carry: Carry, positions: jax.Array) -> tuple[Carry, None]:
            inputs, targets = gather(bench.dataset, rows, split, split.training[positions])

            def loss(params: Any) -> jax.Array:
                return jnp.mean(network.row_losses(task, net.apply(params, inputs), targets))

            gradients: Any = None
            extra: dict[str, Any] = {}
            if optimizer.extra == "examples":
                extra = {"inputs": inputs, "targets": targets}
            elif optimizer.extra in ("loss", "everything"):
                value, gradients = jax.value_and_grad(loss)(carry.params)
                extra = {"value": value, "grad": gradients, "value_fn": loss}
                if optimizer.extra == "everything":
                    extra["grad_fn"] = jax.grad(loss)
            else:
                gradients = jax.grad(loss)(carry.params)
                if optimizer.extra == "grad_fn":
                    extra = {"grad_fn": jax.grad(loss)}
            updates, state = solver.update(gradients, carry.state, carry.params, **extra)
            return Carry(optax.apply_updates(carry.params, updates), state), None

        return jax.lax.scan(step, carry, batches)[0]

    def evaluate(carry: Carry, rows: Rows, split: Any, part: Part) -> tuple[jax.Array, jax.Array]:
        params = optimizer.evaluation_params(carry.state, carry.params)
        numbers = getattr(split, part)
        count, width = numbers.shape[0], rows.inputs.shape[1]
        chunk = min(count, max(1, _CHUNK_ENTRIES // width))
        chunks = math.ceil(count / chunk)
        padding = (0, chunks * chunk - count)
        weights = jnp.pad(jnp.ones(count), padding).reshape(chunks, chunk)
        numbers = jnp.pad(numbers, padding).reshape(chunks, chunk)

        def add(total: network.Sums, piece: Any) -> tuple[network.Sums, None]:
            inputs, targets = gather(bench.dataset, rows, split, piece[0])
            found = network.sums(task, net.apply(params, inputs), targets, piece[1])
            return jax.tree.map(jnp.add, total, found), None

        width = bench.dataset.outputs if task == "regression" else 1
        scalar, vector = jnp.zeros(()), jnp.zeros((width,))
        empty = network.Sums(scalar, scalar, scalar, vector, vector, vector)
        total, _ = jax.lax.scan(add, empty, (numbers, weights))
        return network.loss_and_metric(task, total)

    def diagnostics(carry: Carry) -> Mapping[str, jax.Array]:
        return {} if optimizer.diagnostics is None else optimizer.diagnostics(carry.state)

    return Functions(start, epoch, evaluate, diagnostics)


def gather(dataset: Dataset, rows: Rows, split: Any, numbers: Any) -> tuple[Any, Any]:
    """The rows of the given numbers, scaled by the split's statistics; means where missing."""
    inputs = (rows.inputs[numbers] - split.input_shift) * split.input_scale
    if dataset.missing:
        inputs = jnp.where(jnp.isnan(inputs), 0.0, inputs)
    targets = rows.targets[numbers]
    if dataset.task == "regression":
        targets = (targets - split.target_shift) * split.target_scale
    return inputs, targets


class Compiled(NamedTuple):
    """One optimizer's training of all seeds, compiled ahead of time.

    Attributes:
      carry: the state before the first step, with a leading axis of seeds, spread over the devices.
      epoch: (carry, batches) -> carry.
      evaluate: carry -> training loss, training metric, test loss, test metric and diagnostics, of
        every seed.
      compile_seconds: what compiling the epoch took.
      spread: from a state with one entry for each seed to one that `epoch` takes.
      joined: the reverse.
      program: of an epoch, for the tests.
    """

    carry: Carry
    epoch: Callable[[Carry, Any], Carry]
    evaluate: Callable[[Carry], Any]
    compile_seconds: float
    spread: Callable[[Carry], Carry]
    joined: Callable[[Carry], Carry]
    program: jax.stages.Compiled


def compile_training(bench: Bench, optimizer: Optimizer, setting: Mapping[str, float]) -> Compiled:
    """Compiles one optimizer's epoch and evaluation for all seeds together.

    Args:
      bench: what is shared.
      optimizer: from the registry.
      setting: the tuned numbers.

    Returns:
      The `Compiled` functions.
    """
    pure = functions(bench, optimizer)
    lanes = Lanes(bench.mesh, "seeds").where_needed(1, bench.seeds)

    def spread(tree: Any) -> Any:
        return lanes.place(tree, "seeds")

    def joined(tree: Any) -> Any:
        if lanes.mesh.size == 1:
            return tree
        together = jax.device_put(tree, lanes.mesh.devices[0])
        return jax.tree.map(lambda leaf: leaf[: bench.seeds], together)

    def evaluate(carry: Carry, rows: Rows, split: Any) -> Any:
        training = pure.evaluate(carry, rows, split, "training")
        test = pure.evaluate(carry, rows, split, "test")
        return (*training, *test, pure.diagnostics(carry))

    start = lanes.spread(jax.vmap(pure.start, in_axes=(None, 0)), ("none", "seeds"), "seeds")
    numbers = {name: jnp.float32(value) for name, value in setting.items()}
    rows, splits = lanes.place(bench.rows, "none"), spread(bench.splits)
    carry = start(numbers, spread(bench.initial))
    batches = jnp.asarray(bench.batches(optimizer, 0))

    began = time.perf_counter()
    epoch = (
        lanes.spread(
            jax.vmap(pure.epoch, in_axes=(None, 0, None, 0, 0)),
            ("none", "seeds", "none", "seeds", "seeds"),
            "seeds",
        )
        .lower(numbers, carry, rows, splits, spread(batches))
        .compile()
    )
    compile_seconds = time.perf_counter() - began
    evaluate_all = lanes.spread(
        jax.vmap(evaluate, in_axes=(0, None, 0)), ("seeds", "none", "seeds"), "seeds"
    )
    return Compiled(
        carry,
        lambda carry, batches: epoch(numbers, carry, rows, splits, spread(batches)),
        lambda carry: jax.tree.map(
            lambda leaf: leaf[: bench.seeds], jax.device_get(evaluate_all(carry, rows, splits))
        ),
        compile_seconds,
        spread,
        joined,
        epoch,
    )


class Curves(NamedTuple):
    """Learning curves, one row per seed, one column per epoch; column 0 is before training.

    Attributes:
      training_loss: over all training rows.
      training_metric: accuracy or R^2 on the training rows.
      test_loss: over the test rows.
      test_metric: accuracy or R^2 on the test rows.
      diagnostics: the same for what the optimizer says of itself.
      compile_seconds: what compiling the epoch took.
    """

    training_loss: np.ndarray
    training_metric: np.ndarray
    test_loss: np.ndarray
    test_metric: np.ndarray
    diagnostics: Mapping[str, np.ndarray]
    compile_seconds: float

    @property
    def seeds(self) -> int:
        """How many were trained."""
        return self.training_loss.shape[0]

    @property
    def epochs(self) -> int:
        """For how many."""
        return self.training_loss.shape[1] - 1

    def joined(self, other: Curves, axis: Literal[0, 1]) -> Curves:
        """These with further seeds (axis 0) or epochs (axis 1)."""
        both = jax.tree.map(
            lambda *parts: np.concatenate(parts, axis),
            self._replace(compile_seconds=np.zeros((1, 1))),
            other._replace(compile_seconds=np.zeros((1, 1))),
        )
        return both._replace(compile_seconds=max(self.compile_seconds, other.compile_seconds))


Watch = Callable[[int, Any], None]
"""Called after each epoch with its number and what `Compiled.evaluate` found."""


def train(
    bench: Bench,
    optimizer: Optimizer,
    compiled: Compiled,
    epochs: int,
    progress: Progress = lambda: None,
    watch: Watch = lambda epoch, found: None,
    begin: tuple[int, Carry] | None = None,
) -> tuple[Curves, Carry]:
    """Trains all seeds with one optimizer.

    Args:
      bench: what is shared.
      optimizer: from the registry.
      compiled: its compiled training.
      epochs: up to which.
      progress: called after each.
      watch: likewise, and once before the first.
      begin: epochs already trained and the state after them; None to start anew.

    Returns:
      The `Curves` of the epochs trained here (and of epoch 0), and the state after the last.
    """
    done, carry = (0, compiled.carry) if begin is None else (begin[0], compiled.spread(begin[1]))
    found = []

    def evaluate(epoch: int) -> None:
        found.append(compiled.evaluate(carry))
        watch(epoch, found[-1])

    if begin is None:
        evaluate(0)
    for epoch in range(done, epochs):
        carry = compiled.epoch(carry, jnp.asarray(bench.batches(optimizer, epoch)))
        evaluate(epoch + 1)
        progress()
    columns = jax.tree.map(lambda *values: np.stack(values, axis=1), *found)
    return Curves(*columns, compile_seconds=compiled.compile_seconds), compiled.joined(carry)
