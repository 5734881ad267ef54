"""The transforms that are compared, what is compared with them, and what they are run on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tritia
from tritia._arguments import value_at

RATE = 1e-3


class Family(NamedTuple):
    """A transform and what is known of it.

    Attributes:
      make: builds it for a learning rate, a number or a schedule.
      peer: the transform of Optax with as much memory that is compared with it, by name.
      reads: copies of the params that a step must read: the params, the gradient and the memory.
      writes: copies that it must write: the params and what is replaced of the memory.
    """

    make: Callable[[Any], optax.GradientTransformation]
    peer: str
    reads: int
    writes: int


PEERS: Mapping[str, Family] = {
    name: Family(make, name, reads, writes)
    for name, make, reads, writes in (
        ("sgd", optax.sgd, 2, 1),
        ("sgd(momentum)", lambda rate: optax.sgd(rate, momentum=0.9), 3, 2),
        ("sgd(nesterov)", lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True), 3, 2),
        ("optimistic_gradient_descent", optax.optimistic_gradient_descent, 3, 2),
        ("adam", optax.adam, 4, 3),
    )
}
"""Optax's."""


def heavy_ball(rate: Any) -> optax.GradientTransformation:
    """Heavy ball as a scheme."""
    return tritia.linear_multistep(rate, tritia.heavy_ball_scheme("9/10"))


def inertia(rate: Any) -> optax.GradientTransformation:
    """Nesterov's method as triple inertia."""
    return tritia.triple_inertia(optax.sgd(rate), predict=0.9, evaluate=0.9)


def momentum(rate: Any) -> optax.GradientTransformation:
    """The triple momentum method; a schedule of the rate is one of the smoothness."""

    def smoothness(count: Any) -> Any:
        return 2 / value_at(rate, count)

    return tritia.triple_momentum(
        smoothness if callable(rate) else smoothness(0), strong_convexity=1.0
    )


FAMILIES: Mapping[str, Family] = {
    "adams_bashforth(1)": Family(lambda rate: tritia.adams_bashforth(rate, 1), "sgd", 2, 1),
    "heavy_ball_scheme": Family(heavy_ball, "sgd(momentum)", 3, 2),
    "adams_bashforth(2)": Family(tritia.adams_bashforth, "optimistic_gradient_descent", 3, 2),
    "difference(2, 3)": Family(tritia.difference, "adam", 4, 2),
    "bdf(2)": Family(tritia.bdf, "adam", 4, 3),
    "triple_inertia(sgd)": Family(inertia, "sgd(nesterov)", 3, 2),
    "triple_momentum": Family(momentum, "sgd(nesterov)", 3, 2),
    "heun, transparent": Family(lambda rate: tritia.heun(rate, mode="transparent"), "adam", 4, 3),
    "rk4, transparent": Family(lambda rate: tritia.rk4(rate, mode="transparent"), "adam", 4, 3),
}
"""Those of tritia that Optax has a transform for with as much memory."""

LONG_MEMORY: Mapping[str, Family] = {
    "adams_bashforth(3)": Family(lambda rate: tritia.adams_bashforth(rate, 3), "adam", 4, 2),
    "difference(2, 5)": Family(lambda rate: tritia.difference(rate, 2, 5), "adam", 6, 2),
    "adams_bashforth(5)": Family(lambda rate: tritia.adams_bashforth(rate, 5), "adam", 6, 2),
    "difference(3, 6)": Family(lambda rate: tritia.difference(rate, 3, 6), "adam", 7, 2),
    "bdf(5)": Family(lambda rate: tritia.bdf(rate, 5), "adam", 10, 3),
}
"""Those with more memory than any of Optax; beside Adam, for a measure."""


def transformer(width: int = 256, layers: int = 12, words: int = 2048, dtype: Any = None) -> Any:
    """Arrays with the shapes of a small transformer's parameters; 10 million of them by default."""
    key = jax.random.key(0)

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32).astype(dtype or jnp.float32)

    def norm() -> dict[str, jax.Array]:
        return {"scale": normal(width), "bias": normal(width)}

    def block() -> dict[str, Any]:
        return {
            "attention_norm": norm(),
            "attention": {name: normal(width, width) for name in ("q", "k", "v", "out")},
            "perceptron_norm": norm(),
            "perceptron": {
                "up": {"kernel": normal(width, 4 * width), "bias": normal(4 * width)},
                "down": {"kernel": normal(4 * width, width), "bias": normal(width)},
            },
        }

    blocks = {f"block_{number}": block() for number in range(layers)}
    return {"embedding": normal(words, width), **blocks, "norm": norm()}


def perceptron(sizes: Sequence[int], seed: Any = 0) -> list[dict[str, jax.Array]]:
    """He-initialised dense layers between these widths."""
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    return [
        {"kernel": jax.random.normal(key, (i, o)) * (2 / i) ** 0.5, "bias": jnp.zeros(o)}
        for key, (i, o) in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def outputs(params: Any, x: jax.Array) -> jax.Array:
    """The outputs of a `perceptron`, with ReLU between its layers."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def classification_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean cross-entropy of a `perceptron`."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs(params, x), y).mean()


def examples(rows: int, sizes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Random inputs with rows of length about 1, and labels, for a `perceptron`."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, sizes[0])) / np.sqrt(sizes[0])
    return jnp.asarray(x, jnp.float32), jnp.asarray(rng.integers(sizes[-1], size=rows))


def parameters(tree: Any) -> int:
    """How many parameters there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def size(tree: Any) -> int:
    """How many bytes they take."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
