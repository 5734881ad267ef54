"""Spectral momentum against AdamW and Muon on MNIST: accuracy by epoch, and processor seconds.

Run `python -m benchmarks.layerwise --mnist FOLDER [--layers 128 128 128 128 128] [--epochs 8]
[--seeds 1] [--methods NAME ...] [--quick]` in the folder above this one.

Minibatches of 128 rows in a new order every epoch, a learning rate that falls to 0 as a cosine, and
test accuracy at an average of the iterates, which every method is given. The rates and the weight
decay are what validation rows chose for each of them at six layers.
"""

from __future__ import annotations

import argparse
import itertools
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg  # noqa: F401  (only what is loaded already can be limited)
import threadpoolctl

import tritia
from tritia._compare.idx import load_mnist

BATCH, TEST_ROWS = 128, 10_000


def _averaged(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optimizer, tritia.polyak_average())


METHODS: dict[str, Callable[[Callable[[float], Any]], Any]] = {
    "spectral momentum, input Gram": lambda rate: tritia.spectral_momentum(
        rate(0.01), weight_decay=0.3, input_gram=True
    ),
    "spectral momentum": lambda rate: tritia.spectral_momentum(rate(0.01), weight_decay=0.3),
    "AdamW": lambda rate: _averaged(optax.adamw(rate(0.003), weight_decay=0.3)),
    "Muon": lambda rate: _averaged(
        optax.contrib.muon(rate(0.01), weight_decay=0.3, adam_weight_decay=0.3)
    ),
}


def start(sizes: Sequence[int], seed: int) -> dict[str, Any]:
    """Returns layers with He's initial weights."""
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    initial = jax.nn.initializers.he_normal()
    return {
        str(i): {"kernel": initial(key, shape), "bias": jnp.zeros(shape[1])}
        for i, (key, shape) in enumerate(zip(keys, itertools.pairwise(sizes), strict=True))
    }


def logits(params: Any, x: jax.Array) -> jax.Array:
    """Applies the network."""
    for i in range(len(params)):
        x = x @ params[str(i)]["kernel"] + params[str(i)]["bias"]
        x = jax.nn.relu(x) if i + 1 < len(params) else x
    return x


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean cross-entropy."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y))


def run(
    make: Callable[[Callable[[float], Any]], Any],
    gram: bool,
    data: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    layers: Sequence[int],
    epochs: int,
    seed: int,
) -> tuple[list[float], float]:
    """Returns the test accuracy after each epoch, and the processor seconds of one."""
    x, y, test_x, test_y = data
    steps = len(x) // BATCH
    optimizer = optax.with_extra_args_support(
        make(lambda rate: optax.cosine_decay_schedule(rate, epochs * steps))
    )
    params = start((x.shape[1], *layers, 10), seed)
    state = optimizer.init(params)

    def step(carry: Any, rows: jax.Array) -> Any:
        params, state = carry
        if gram:
            recorded = jax.value_and_grad(tritia.with_layer_inputs(loss), has_aux=True)
            (_, inputs), grads = recorded(params, x[rows], y[rows])
            extra = {"layer_inputs": inputs}
        else:
            grads, extra = jax.grad(loss)(params, x[rows], y[rows]), {}
        updates, state = optimizer.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def epoch(params: Any, state: Any, key: jax.Array) -> Any:
        order = jax.random.permutation(key, len(x))[: steps * BATCH].reshape(steps, BATCH)
        return jax.lax.scan(step, (params, state), order)[0]

    @jax.jit
    def accuracy(params: Any) -> jax.Array:
        return jnp.mean(jnp.argmax(logits(params, test_x), axis=1) == test_y)

    compiled = epoch.lower(params, state, jax.random.key(0)).compile()
    accuracy(tritia.eval_params(state, params)).block_until_ready()  # compiled outside the time
    accuracies, began = [], _processor_seconds()
    for number in range(epochs):
        key = jax.random.fold_in(jax.random.key(seed), number)
        params, state = jax.block_until_ready(compiled(params, state, key))
        accuracies.append(float(accuracy(tritia.eval_params(state, params))))
    return accuracies, (_processor_seconds() - began) / epochs


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layerwise", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--mnist", type=Path, required=True, help="folder with MNIST's files")
    parser.add_argument("--layers", type=int, nargs="+", default=[128] * 5, help="hidden widths")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training rows")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="one epoch on a tenth of the rows")
    arguments = parser.parse_args()
    images, labels, _ = load_mnist(arguments.mnist)
    rows = (len(images) - TEST_ROWS) // (10 if arguments.quick else 1)
    x, y = jnp.asarray(images[:rows], jnp.float32), jnp.asarray(labels[:rows], jnp.int32)
    test = (images[-TEST_ROWS:], labels[-TEST_ROWS:])
    data = (x, y, jnp.asarray(test[0], jnp.float32), jnp.asarray(test[1], jnp.int32))
    epochs = 1 if arguments.quick else arguments.epochs
    # OpenBLAS's threads wait by spinning: on small factorisations they burn more than they compute.
    threadpoolctl.threadpool_limits(1, user_api="blas")
    header = " | ".join(str(number + 1) for number in range(epochs))
    print(f"| method | seed | {header} | CPU s an epoch |")
    print("|" + " --- |" * (epochs + 3), flush=True)
    for name in arguments.methods:
        for seed in range(arguments.seeds):
            accuracies, seconds = run(
                METHODS[name], "Gram" in name, data, arguments.layers, epochs, seed
            )
            cells = " | ".join(f"{np.round(value, 4):.4f}" for value in accuracies)
            print(f"| {name} | {seed} | {cells} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
