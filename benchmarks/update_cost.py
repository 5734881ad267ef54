"""The cost of one update, against the transform of Optax that keeps as much memory.

Run `python benchmarks/update_cost.py`.
Ten million float32 parameters in ten matrices; one jitted, donated `update` and `apply_updates`.
All optimizers are stepped in turn, so that whatever else the machine does hits all alike; medians.
"""

import argparse
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import tritia

RATE = 1e-3
PAIRS = {
    "adams_bashforth(order=2)": (
        tritia.adams_bashforth(RATE, order=2),
        "optimistic_gradient_descent",
        optax.optimistic_gradient_descent(RATE),
    ),
    "heavy ball scheme": (
        tritia.linear_multistep(RATE, tritia.heavy_ball_scheme("9/10")),
        "sgd(momentum)",
        optax.sgd(RATE, momentum=0.9),
    ),
    "difference(order=2, steps=3)": (tritia.difference(RATE), "adam", optax.adam(RATE)),
    "difference(order=2, steps=5)": (
        tritia.difference(RATE, order=2, steps=5),
        "adam",
        optax.adam(RATE),
    ),
    "triple_inertia(sgd)": (
        tritia.triple_inertia(optax.sgd(RATE), 0.9, 0.9, 0.0),
        "sgd(nesterov)",
        optax.sgd(RATE, momentum=0.9, nesterov=True),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1000, help="side of the ten square matrices")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    shape = (arguments.side, arguments.side)
    grads = [jnp.full(shape, 0.01) for _ in range(10)]

    runs = {}
    for name, (ours, peer, theirs) in PAIRS.items():
        for label, optimizer in ((name, ours), (peer, theirs)):
            if label not in runs:

                def step(params, state, grads, optimizer=optimizer):
                    updates, state = optimizer.update(grads, state, params)
                    return optax.apply_updates(params, updates), state

                params = [jnp.ones(shape) for _ in range(10)]
                state = optimizer.init(params)
                step = jax.jit(step, donate_argnums=(0, 1))
                runs[label] = [step, jax.block_until_ready(step(params, state, grads)), []]
    for _ in range(arguments.rounds):
        for run in runs.values():
            begin = time.perf_counter()
            run[1] = jax.block_until_ready(run[0](*run[1], grads))
            run[2].append(time.perf_counter() - begin)

    print(f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"{'transform':30} {'ms':>7}   {'against':28} {'ms':>7} {'ratio':>6}")
    for name, (_, peer, _) in PAIRS.items():
        ours, theirs = (1e3 * statistics.median(runs[label][2]) for label in (name, peer))
        print(f"{name:30} {ours:7.2f}   {peer:28} {theirs:7.2f} {ours / theirs:6.2f}")


if __name__ == "__main__":
    main()
