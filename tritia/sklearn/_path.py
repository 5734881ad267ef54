r"""A path of weight decays as lanes of one vmapped run.

A lane is the training of one network with one weight decay, on the training rows of one fold. Lanes
advance in rounds; after each, every lane is judged on the validation rows of its fold. A decay and
a number of updates are chosen together, by the loss of the held-out rows of all folds, and the
networks of all folds at this decay and this number are the result, to be averaged: each has seen
other rows, and nothing is trained again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tritia
from tritia.alternating import LOSSES
from tritia.sklearn._folds import Fold

Solver = Literal["tiam", "stochastic_tiam"]

_DAMPING = 10.0
_LARGEST_STEP = 0.1  # of a squared error, over the norm of an output's weights


class Lanes(NamedTuple):
    """What shapes the computation; hashable, static under `jax.jit`.

    Attributes:
      sizes: the widths of the network, inputs first.
      loss: its name.
      solver: which of the two.
      batch: the rows of a minibatch, for "stochastic_tiam".
      learning_rate: at the start, for "stochastic_tiam".
    """

    sizes: tuple[int, ...]
    loss: Any  # one of LOSSES
    solver: Solver
    batch: int = 32
    learning_rate: float = 1.0


class Data(NamedTuple):
    """A table and its folds, padded.

    Attributes:
      inputs: (rows, d).
      targets: (rows, k), probabilities of the classes or values.
      weights: (rows,), sample weights.
      training: the training rows of the folds.
      validation: their validation rows.
    """

    inputs: Any
    targets: Any
    weights: Any
    training: Fold
    validation: Fold


class PathResult(NamedTuple):
    """What a path leads to.

    Attributes:
      params: layers with "kernel" and "bias"; their first axis is that of the folds.
      mu: the weight decay that was chosen.
      updates: after how many updates.
      losses: (rounds, mus), the mean loss of the validation rows.
    """

    params: list[dict[str, np.ndarray]]
    mu: float
    updates: int
    losses: np.ndarray


class _Carry(NamedTuple):
    params: Any
    state: Any
    best_params: Any
    best_loss: jax.Array


def train_path(
    lanes: Lanes,
    data: Data,
    mus: Sequence[float],
    *,
    rounds: int,
    updates: int,
    patience: int,
    seed: int,
) -> PathResult:
    """Trains with every weight decay on every fold, and chooses.

    Args:
      lanes: what shapes the computation.
      data: the table and its folds.
      mus: the weight decays; `mu` of `tritia.tiam`, or of the mean loss of the rows.
      rounds: the most rounds.
      updates: of a round.
      patience: rounds without a lower loss at any decay before it stops.
      seed: of the initial networks and the minibatches.
    """
    weights, training = data.weights, data.training
    # Random numbers are drawn on the host: their generators would be most of what is compiled.
    random = np.random.default_rng(seed)
    decays = np.asarray(mus, np.float32)
    initial = [_initial(random, lanes.sizes) for _ in data.training.count]
    initial = jax.tree.map(lambda *leaves: np.stack(leaves), *initial)
    carry = _start(lanes, data.training.rows.shape[1], initial, decays)
    rates = _learning_rates(lanes, rounds, updates)
    data = jax.device_put(data)
    losses: list[np.ndarray] = []
    for number in range(rounds):
        drawn = _draw(random, lanes, weights, training, updates)
        carry, loss = _advance(lanes, carry, decays, data, drawn, rates[number])
        losses.append(np.where(np.isfinite(loss), loss, np.inf))  # a decay that diverged
        if number - int(np.argmin(np.min(losses, axis=1))) >= patience:
            break
    history = np.stack(losses)
    chosen = int(np.argmin(history.min(axis=0)))
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[:, chosen], carry.best_params)
    best = int(np.argmin(history[:, chosen]))
    return PathResult(params, float(mus[chosen]), (best + 1) * updates, history)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(lanes: Lanes, rows: int, initial: Any, mus: jax.Array) -> _Carry:
    """Every decay of a fold starts from the same network; `initial` has an axis of folds."""

    def start(params: Any, mu: jax.Array) -> tuple[Any, Any]:
        return params, _transform(lanes, mu, rows, 1).init(params)

    params, state = jax.vmap(jax.vmap(start, in_axes=(None, 0)), in_axes=(0, None))(initial, mus)
    best_loss = jnp.full(mus.shape, jnp.inf, mus.dtype)
    return _Carry(params, state, jax.tree.map(jnp.zeros_like, params), best_loss)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _advance(
    lanes: Lanes, carry: _Carry, mus: jax.Array, data: Data, drawn: jax.Array, rates: jax.Array
) -> tuple[_Carry, jax.Array]:
    """A round of all lanes, and the loss of each decay after it, (mus,)."""

    def over_lanes(function: Any, *of_folds: Any, params: Any, state: Any) -> Any:
        """Of arguments with an axis of folds, and of params, state and decays."""
        if lanes.solver == "tiam":  # its lanes share the rows of a fold
            inner = jax.vmap(function, in_axes=(*(None,) * len(of_folds), 0, 0, 0))
            outer = jax.vmap(inner, in_axes=(*(0,) * len(of_folds), 0, 0, None))
            return outer(*of_folds, params, state, mus)
        # One axis makes a smaller program than two.
        folds, decays = len(data.training.count), mus.size
        repeated = (jnp.repeat(leaf, decays, axis=0) for leaf in of_folds)
        own = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (params, state))
        results = jax.vmap(function)(*repeated, *own, jnp.tile(mus, folds))
        return jax.tree.map(lambda leaf: leaf.reshape(folds, decays, *leaf.shape[1:]), results)

    def train(rows, count, drawn, params, state, mu):
        def step(carry: Any, of_step: Any) -> Any:
            (params, state), (drawn, rate) = carry, of_step
            solver = _transform(lanes, mu, rows.shape[0], rate)
            if lanes.solver == "tiam":
                examples = _examples(data, rows) | {"weights": _weights(data, rows, count)}
            else:
                examples = _examples(data, drawn)
            ignored: Any = None  # both solvers take the examples in place of a gradient
            steps, state = solver.update(ignored, state, params, **examples)
            return (optax.apply_updates(params, steps), state), None

        return jax.lax.scan(step, (params, state), (drawn, rates))[0]

    def judge(rows, count, params, state, mu):
        del mu
        params = tritia.eval_params(state, params) if lanes.solver != "tiam" else params
        weights = _weights(data, rows, count)
        values = LOSSES[lanes.loss].value(_outputs(params, data.inputs[rows]), data.targets[rows])
        return params, jnp.sum(weights * values), jnp.sum(weights)

    params, state = over_lanes(train, *data.training, drawn, params=carry.params, state=carry.state)
    found, sums, weights = over_lanes(judge, *data.validation, params=params, state=state)
    total_weight = jnp.sum(weights, axis=0)
    loss = jnp.sum(sums, axis=0) / jnp.where(total_weight > 0, total_weight, 1)
    better = loss < carry.best_loss  # False for NaN

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(1, -1, *(1,) * (new.ndim - 2)), new, old)

    best = jax.tree.map(keep, carry.best_params, found)
    return _Carry(params, state, best, jnp.where(better, loss, carry.best_loss)), loss


def _transform(
    lanes: Lanes, mu: Any, rows: int, rate: Any
) -> optax.GradientTransformationExtraArgs:
    """The solver of a lane; its state depends on neither the decay nor the learning rate."""
    if lanes.solver == "tiam":
        return tritia.tiam(rows, loss=lanes.loss, mu=mu, standardize=False)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    # A target step of first order is linear in the learning rate, so that this is a chain. The
    # whole inverse, because the low-rank one of a few hundred columns compiles for longer.
    parts = [
        tritia.stochastic_tiam(1.0, loss=lanes.loss, damping=_DAMPING, rank=None, step=None),
        optax.add_decayed_weights(-mu / _DAMPING, mask=kernels),
        optax.scale(rate),
    ]
    if (
        lanes.loss == "squared_error"
    ):  # whose slope has no bound: rows far out would make it diverge
        parts.append(optax.masked(optax.adaptive_grad_clip(_LARGEST_STEP), kernels))
    return tritia.triple_inertia(optax.chain(*parts), predict=0.9)


def _learning_rates(lanes: Lanes, rounds: int, updates: int) -> np.ndarray:
    """Returns the learning rate of every update, (rounds, updates): half a cosine to 0."""
    done = np.arange(rounds * updates).reshape(rounds, updates) / (rounds * updates)
    return (lanes.learning_rate * 0.5 * (1 + np.cos(np.pi * done))).astype(np.float32)


def _draw(
    random: np.random.Generator, lanes: Lanes, weights: np.ndarray, training: Fold, updates: int
) -> np.ndarray:
    """Returns the rows of every minibatch of a round, (folds, updates, rows of a minibatch).

    They are drawn with replacement, in proportion to the sample weights: a row of weight 2 is as
    likely as one of weight 1 that is there twice. "tiam" takes all rows and none of these.
    """
    if lanes.solver == "tiam":
        return np.zeros((len(training.count), updates, 0), np.int32)
    drawn = []
    for rows, count in zip(training.rows, training.count, strict=True):
        share = np.cumsum(weights[rows[:count]], dtype=float)
        place = random.random((updates, lanes.batch)) * share[-1]
        drawn.append(rows[np.minimum(np.searchsorted(share, place, side="right"), count - 1)])
    return np.stack(drawn)


def _examples(data: Data, rows: jax.Array) -> dict[str, jax.Array]:
    """The inputs and targets of rows."""
    return {"inputs": data.inputs[rows], "targets": data.targets[rows]}


def _weights(data: Data, rows: jax.Array, count: jax.Array) -> jax.Array:
    """Sample weights of rows, 0 in their padding."""
    return jnp.where(jnp.arange(rows.shape[0]) < count, data.weights[rows], 0)


def _initial(random: np.random.Generator, sizes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    """He's initial network: variance 2 / inputs."""
    return [
        {
            "kernel": (random.standard_normal((i, o)) * (2 / i) ** 0.5).astype(np.float32),
            "bias": np.zeros(o, np.float32),
        }
        for i, o in itertools.pairwise(sizes)
    ]


def _outputs(params: Any, x: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]
