"""The largest stable learning rate on real full-batch losses, against SGD's.

Run `python -m benchmarks.stable_learning_rate [--quick]`.

Two tanh perceptrons on all training rows: digits (64-32-10) and breast_cancer (30-16-2), float32.
A learning rate is stable when the loss has stayed finite and its mean over the last tenth of the
gradients is below the loss at the start; the largest is found by bisection to 2%. Methods with a
stability interval longer than SGD's are warmed up over 50 steps from SGD's largest learning rate.
Beside it: the gradients that each takes, at the best of 12 learning rates up to its largest, until
the loss is 0.1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tritia
from benchmarks.families import perceptron
from benchmarks.timing import header, table

WARM_UP = 50
TARGET = 0.1


class Method(NamedTuple):
    """How to build a method and what it costs.

    Attributes:
      make: from a learning rate or schedule to the transform.
      gradients: gradients a step.
      interval: its stability interval over SGD's, to begin the search at.
      warm_up: whether it is warmed up from SGD's largest learning rate.
    """

    make: Callable[[Any], optax.GradientTransformation]
    gradients: int
    interval: float
    warm_up: bool


def difference(steps: int) -> Method:
    """The wide difference scheme of order 2."""
    interval = tritia.difference_scheme(2, steps).stability_interval / 2
    return Method(lambda rate: tritia.difference(rate, 2, steps), 1, interval, True)


METHODS: Mapping[str, Method] = {
    "sgd": Method(optax.sgd, 1, 1.0, False),
    "sgd(momentum=0.9)": Method(lambda rate: optax.sgd(rate, momentum=0.9), 1, 1.0, False),
    "difference(2, 4)": difference(4),
    "difference(2, 5)": difference(5),
    "difference(2, 6)": difference(6),
    "rkc(8 stages)": Method(
        lambda rate: tritia.rkc(rate, 8), 8, tritia.ChebyshevScheme(8).stability_interval / 2, False
    ),
}


def data(name: str) -> tuple[jax.Array, jax.Array, tuple[int, ...]]:
    """Standardised inputs, labels, and the widths of the perceptron."""
    import sklearn.datasets

    loaded = getattr(sklearn.datasets, f"load_{name}")()
    x = np.asarray(loaded.data, np.float32)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    widths = {"digits": (64, 32, 10), "breast_cancer": (30, 16, 2)}[name]
    return jnp.asarray(x), jnp.asarray(loaded.target), widths


def loss_of(x: jax.Array, y: jax.Array) -> Callable[[Any], jax.Array]:
    """The mean cross-entropy of a tanh perceptron on all rows."""

    def loss(params: Any) -> jax.Array:
        a = x
        for layer in params[:-1]:
            a = jnp.tanh(a @ layer["kernel"] + layer["bias"])
        logits = a @ params[-1]["kernel"] + params[-1]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss


def runner(
    method: Method, loss: Callable[[Any], jax.Array], params: Any, gradients: int
) -> Callable[..., np.ndarray]:
    """Returns a compiled run: (rate, start) -> the loss before each step."""
    steps = gradients // method.gradients
    gradient = jax.grad(loss)

    @jax.jit
    def run(rate: jax.Array, start: jax.Array) -> jax.Array:
        ramp = optax.linear_schedule(0.0, 1.0, WARM_UP)

        def schedule(count: Any) -> Any:
            return start + (rate - start) * ramp(count)

        warm = method.make(schedule if method.warm_up else rate)
        optimizer = optax.with_extra_args_support(warm)

        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state, params, grad_fn=gradient)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]

    return lambda rate, start: np.asarray(run(jnp.float32(rate), jnp.float32(start)))


def stable(losses: np.ndarray) -> bool:
    """Whether a run has stayed finite and ended below its start."""
    tail = losses[-max(1, len(losses) // 10) :]
    return bool(np.all(np.isfinite(losses)) and np.mean(tail) < losses[0])


def largest(run: Callable[..., np.ndarray], first: float, start: float) -> float:
    """The largest stable learning rate, by doubling and bisection."""
    low = first
    while not stable(run(low, start)):
        low /= 2
    high = 2 * low
    while stable(run(high, start)):
        low, high = high, 2 * high
    while high > 1.02 * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if stable(run(middle, start)) else (low, middle)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer gradients")
    arguments = parser.parse_args()
    gradients = 160 if arguments.quick else 1600
    print(header(), end="\n\n")
    for name in ("digits", "breast_cancer"):
        x, y, widths = data(name)
        loss, params = loss_of(x, y), perceptron(widths)
        print(f"{name}, {len(x)} rows, {'-'.join(map(str, widths))}, {gradients} gradients:\n")
        rows, sgd = [], 0.0
        for title, method in METHODS.items():
            run = runner(method, loss, params, gradients)
            end = largest(run, method.interval * (sgd or 1.0), sgd)
            sgd = sgd or end
            taken = []
            for rate in end * np.geomspace(0.05, 1.0, 12):
                below = np.flatnonzero(run(rate, min(rate, sgd)) <= TARGET)
                taken.append(method.gradients * int(below[0]) if below.size else np.inf)
            least = min(taken)
            rows.append(
                [
                    title,
                    f"{method.interval:.2f}",
                    f"{end:.3g}",
                    f"{end / sgd:.2f}",
                    f"{least:.0f}" if np.isfinite(least) else "never",
                ]
            )
        head = ["method", "interval, over SGD's", "largest learning rate", "over SGD's"]
        table([*head, f"gradients to a loss of {TARGET}"], rows)


if __name__ == "__main__":
    main()
