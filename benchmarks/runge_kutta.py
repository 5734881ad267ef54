"""What a Runge-Kutta step costs beyond its gradients.

Run `python -m benchmarks.runge_kutta [--quick]`.

An opaque step of s stages against s bare gradients, each taken where the last one leads, on a
network and its minibatch; all sides in turn. The ratio is that of the medians: 1.05 is a step that
costs 5% beyond its gradients. What is beyond them is memory traffic of the size of the params, so
the share falls as the minibatch grows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import optax

import tritia
from benchmarks.families import classification_loss, examples, perceptron
from benchmarks.timing import Seconds, carried, header, in_turn, milliseconds, table

STEPS = {"heun": 2, "ssp_rk3": 3, "rk4": 4, "dormand_prince": 6}


def gradients(count: int) -> Any:
    """So many gradients, one after the other: none can be left out or taken twice."""

    def step(params: Any, *batch: Any) -> Any:
        for _ in range(count):
            grads = jax.grad(classification_loss)(params, *batch)
            params = jax.tree.map(lambda w, g: w - 1e-3 * g, params, grads)
        return (params,)

    return step


def opaque_step(optimizer: Any) -> Any:
    """A step of an opaque method."""

    def step(params: Any, state: Any, *batch: Any) -> Any:
        grad_fn = lambda params: jax.grad(classification_loss)(params, *batch)  # noqa: E731
        updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    return step


def steps_and_gradients(
    widths: Sequence[int], rows: int, methods: Sequence[Any], rounds: int
) -> dict[str, tuple[Seconds, Seconds]]:
    """Seconds of a step of each method and of its gradients alone, all in turn."""
    params, batch = perceptron(widths), examples(rows, widths)
    sides = {}
    for name in methods:
        stages = STEPS[name]
        bare = jax.jit(gradients(stages), donate_argnums=0)
        sides[f"{stages} gradients"] = carried(bare, (params,), *batch)
        optimizer = tritia.runge_kutta(1e-3, name)
        step = jax.jit(opaque_step(optimizer), donate_argnums=(0, 1))
        sides[name] = carried(step, (params, optimizer.init(params)), *batch)
    found = in_turn(sides, rounds)
    return {name: (found[name], found[f"{STEPS[name]} gradients"]) for name in methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller network, fewer rounds")
    parser.add_argument("--rounds", type=int, help="calls of each side that are counted")
    parser.add_argument("--rows", type=int, nargs="*", help="sizes of the minibatch")
    arguments = parser.parse_args()
    widths = [64, 128, 128, 10] if arguments.quick else [784, 512, 512, 512, 10]
    rounds = arguments.rounds or (10 if arguments.quick else 30)
    print(f"{header()}\n\nWidths {'-'.join(map(str, widths))}:\n")

    def table_rows():
        for rows in arguments.rows or ([128] if arguments.quick else [128, 512]):
            found = steps_and_gradients(widths, rows, list(STEPS), rounds)
            for name, (ours, bare) in found.items():
                ratio = f"{ours.median / bare.median:.3f}"
                yield [name, str(rows), milliseconds(ours), milliseconds(bare), ratio]

    head = ["method", "minibatch", "a step, ms (quartiles)", "its gradients alone", "ratio"]
    table(head, table_rows())


if __name__ == "__main__":
    main()
