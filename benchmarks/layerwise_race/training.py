"""How a run is made: compiled rounds of steps, judged between them, timed without compilation."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.layerwise_race import data
from benchmarks.layerwise_race.methods import METHODS, Method, Params, Problem, Setting, Stepper
from benchmarks.layerwise_race.tasks import Task

_JUDGED_ROWS = 1000  # at once


class Curve(NamedTuple):
    """What a run did; a number for each round.

    Attributes:
      steps: taken until then.
      training_loss: mean over the round's batches, before each step.
      loss: of the judging rows.
      score: likewise; the loss again where the task has no score.
      averaged_loss: at the averaged iterate.
      averaged_score: likewise.
      seconds: of the round's training, by the clock.
      cpu_seconds: likewise, of all threads; other work on the machine disturbs them less.
      compile_seconds: of the training, one number; 0 where it had been compiled for another run.
    """

    steps: list[int]
    training_loss: list[float]
    loss: list[float]
    score: list[float]
    averaged_loss: list[float]
    averaged_score: list[float]
    seconds: list[float]
    cpu_seconds: list[float]
    compile_seconds: float


class Carry(NamedTuple):
    """What goes from step to step.

    Attributes:
      params: of the network.
      average: of params, for judging.
      state: of the optimizer.
      count: of the steps taken.
    """

    params: Params
    average: Params
    state: Any
    count: jax.Array


class Functions(NamedTuple):
    """A method on one task, not yet compiled. `numbers` is a setting, `horizon` all steps.

    Attributes:
      start: (numbers, horizon, params, inputs, targets, rows of a batch) -> carry.
      train: (numbers, horizon, carry, inputs, targets, rows of batches) -> carry, mean loss.
    """

    start: Any
    train: Any


class Trainer:
    """Trains on one task, compiling each method once."""

    def __init__(self, task: Task, folders: data.Folders) -> None:
        self.task = task
        self._folders = folders
        self._rows: tuple[int, data.Data, jax.Array, jax.Array] | None = None
        self._functions: dict[str, Functions] = {}
        self._trains: dict[tuple[str, int], Any] = {}
        graph, state = nnx.split(task.model(nnx.Rngs(0)))
        structure = jax.tree.structure(state)

        def forward(params: Params, inputs: jax.Array) -> jax.Array:
            return nnx.merge(graph, jax.tree.unflatten(structure, jax.tree.leaves(params)))(inputs)

        self._problem = Problem(forward, task.objective)
        self._judge = jax.jit(functools.partial(_judge, self._problem))

    def run(self, name: str, setting: Setting, seed: int, steps: int, *, tuning: bool) -> Curve:
        """One run.

        Args:
          name: of the method.
          setting: one of its grid.
          seed: decides the weights, the order of the rows and, for small data, the division.
          steps: in all, a multiple of those of a round; the learning rate falls to 0 over them.
          tuning: whether validation rows judge. Otherwise test rows do, and validation rows train
            where the task says so.
        """
        rows, inputs, targets = self._load(seed)
        training, judging = rows.training, rows.validation
        if not tuning:
            judging = rows.test
            if self.task.refit:
                training = np.concatenate([rows.training, rows.validation])
        batches = _batches(training, self.task.batch, steps, seed)
        numbers = {key: jnp.float32(value) for key, value in setting.items()}
        horizon = jnp.float32(steps)

        if name not in self._functions:
            self._functions[name] = _functions(self._problem, METHODS[name])
        params = nnx.to_pure_dict(nnx.state(self.task.model(nnx.Rngs(seed))))
        carry = self._functions[name].start(
            numbers, horizon, params, inputs, targets, jnp.asarray(batches[0])
        )
        curve = Curve([], [], [], [], [], [], [], [], 0.0)
        for part in batches.reshape(-1, self.task.round_steps, self.task.batch):
            given = (numbers, horizon, carry, inputs, targets, jnp.asarray(part))
            train, compile_seconds = self._train(name, given)
            curve = curve._replace(compile_seconds=curve.compile_seconds + compile_seconds)
            began = time.perf_counter(), time.process_time()
            carry, training_loss = jax.block_until_ready(train(*given))
            curve.seconds.append(time.perf_counter() - began[0])
            curve.cpu_seconds.append(time.process_time() - began[1])
            curve.steps.append(int(carry.count))
            curve.training_loss.append(float(training_loss))
            loss, score = self._judged(carry.params, inputs, targets, judging)
            curve.loss.append(loss)
            curve.score.append(score)
            loss, score = self._judged(carry.average, inputs, targets, judging)
            curve.averaged_loss.append(loss)
            curve.averaged_score.append(score)
        return curve

    def _load(self, seed: int) -> tuple[data.Data, jax.Array, jax.Array]:
        if self._rows is None or self._rows[0] != seed:
            rows = self.task.load(self._folders, seed)
            self._rows = seed, rows, jnp.asarray(rows.inputs), jnp.asarray(rows.targets)
        return self._rows[1:]

    def _train(self, name: str, given: Any) -> tuple[Any, float]:
        """The compiled function for arguments of these shapes, and what it took to compile it."""
        key = name, len(given[3])
        if key in self._trains:
            return self._trains[key], 0.0
        began = time.perf_counter()
        self._trains[key] = self._functions[name].train.lower(*given).compile()
        return self._trains[key], time.perf_counter() - began

    def _judged(
        self, params: Params, inputs: jax.Array, targets: jax.Array, rows: np.ndarray
    ) -> tuple[float, float]:
        total = np.zeros(2)
        for first in range(0, len(rows), _JUDGED_ROWS):
            part = rows[first : first + _JUDGED_ROWS]
            total += len(part) * np.array(self._judge(params, inputs, targets, part))
        loss, score = total / len(rows)
        return float(loss), float(score)


def _judge(
    problem: Problem, params: Params, inputs: jax.Array, targets: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    outputs, wanted = problem.forward(params, inputs[rows]), targets[rows]
    loss = problem.objective.loss(outputs, wanted)
    score = problem.objective.score
    return loss, loss if score is None else score(outputs, wanted)


def _functions(problem: Problem, method: Method) -> Functions:
    def stepper(numbers: Setting, horizon: jax.Array) -> Stepper:
        # Optax's own schedule asks for a horizon that is known when it is traced.
        def rate(count: Any) -> jax.Array:
            return numbers["learning_rate"] * 0.5 * (1 + jnp.cos(jnp.pi * count / horizon))

        return method.build(problem, numbers, rate)

    def start(
        numbers: Setting,
        horizon: jax.Array,
        params: Params,
        inputs: jax.Array,
        targets: jax.Array,
        rows: jax.Array,
    ) -> Carry:
        state = stepper(numbers, horizon).init(params, (inputs[rows], targets[rows]))
        return Carry(params, params, state, jnp.int32(0))

    def train(
        numbers: Setting,
        horizon: jax.Array,
        carry: Carry,
        inputs: jax.Array,
        targets: jax.Array,
        batches: jax.Array,
    ) -> tuple[Carry, jax.Array]:
        step = stepper(numbers, horizon).step

        def body(carry: Carry, rows: jax.Array) -> tuple[Carry, jax.Array]:
            batch = inputs[rows], targets[rows]
            params, state, loss = step(carry.params, carry.state, batch)
            count = carry.count + 1
            keep = jnp.minimum(0.995, count / (count + 10))
            average = optax.incremental_update(params, carry.average, 1 - keep)
            return Carry(params, average, state, count), loss

        carry, losses = jax.lax.scan(body, carry, batches)
        return carry, losses.mean()

    return Functions(jax.jit(start), jax.jit(train))


def _batches(training: np.ndarray, batch: int, steps: int, seed: int) -> np.ndarray:
    """Rows of each step's batch: epoch after epoch, each in an order of its own."""
    random = np.random.default_rng(seed)
    whole = len(training) // batch
    epochs = [
        random.permutation(training)[: whole * batch].reshape(whole, batch)
        for _ in range(-(-steps // whole))
    ]
    return np.concatenate(epochs)[:steps].astype(np.int32)
