"""The cost of one update, against Optax's with as much memory and against the machine's bandwidth.

Run `python -m benchmarks.update_cost [--quick]`.

One jitted, donated `update` and `apply_updates`, on 10 million parameters in the shapes of a small
transformer. All sides are stepped in turn. Beside the time: the share of the copy bandwidth,
which is what the scheme must read and write, over the time, over what a copy reads and writes in
its time; and the memory that the compiled step takes beyond params, state and gradient, in copies
of the params.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.families import FAMILIES, LONG_MEMORY, PEERS, parameters, size, transformer
from benchmarks.timing import carried, header, in_turn, milliseconds, table, update_step

EVERYTHING = {**FAMILIES, **LONG_MEMORY}
BATCH = 4  # optimizers whose states are held at once


def scaled(tree: Any) -> Any:
    """As many bytes, in place."""
    return (jax.tree.map(lambda leaf: leaf * jnp.asarray(0.999, leaf.dtype), tree),)


def show(dtype: Any, rounds: int, shape: dict[str, int], names: Sequence[str]) -> None:
    """One table."""
    params = transformer(**shape, dtype=dtype)
    grads = jax.tree.map(lambda leaf: leaf * jnp.asarray(0.01, leaf.dtype), params)
    unit = size(params)
    in_place = jax.jit(scaled, donate_argnums=0)
    # Into a buffer that is there already: an argument that nothing reads is dropped unless kept.
    between = jax.jit(lambda to, source: (source,), donate_argnums=0, keep_unused=True)

    def rows() -> Iterator[list[str]]:
        for start in range(0, len(names), BATCH):
            chosen = names[start : start + BATCH]
            peers = {EVERYTHING[name].peer for name in chosen}
            calls = {
                "in place": carried(in_place, (params,)),
                "between": carried(between, (params,), params),
            }
            temporary = {}
            for name in [*peers, *chosen]:
                optimizer = {**PEERS, **EVERYTHING}[name].make(1e-3)
                state = optimizer.init(params)
                step = jax.jit(update_step(optimizer), donate_argnums=(0, 1))
                compiled = step.lower(params, state, grads).compile()
                memory: Any = compiled.memory_analysis()
                temporary[name] = memory.temp_size_in_bytes / unit
                calls[name] = carried(compiled, (params, state), grads)
                del state
            found = in_turn(calls, rounds)
            copy = min(found["in place"].median, found["between"].median)
            for name in chosen:
                family, time, peer = EVERYTHING[name], found[name], found[EVERYTHING[name].peer]
                other = PEERS[family.peer]
                share = (family.reads + family.writes) / 2 * copy / time.median
                their_share = (other.reads + other.writes) / 2 * copy / peer.median
                yield [
                    name,
                    milliseconds(time),
                    family.peer,
                    milliseconds(peer),
                    f"{time.median / peer.median:.2f}",
                    f"{share:.0%} ({their_share:.0%})",
                    f"{temporary[name]:.2f} ({temporary[family.peer]:.2f})",
                ]

    print(f"{parameters(params) / 1e6:.1f} million parameters, {dtype}:\n")
    head = ["transform", "ms (quartiles)", "Optax's", "ms (quartiles)", "ratio"]
    table([*head, "of the copy bandwidth (Optax's)", "temporary memory (Optax's)"], rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer parameters and rounds, float32")
    parser.add_argument("--rounds", type=int, help="calls of each side that are counted")
    parser.add_argument("--only", nargs="*", choices=EVERYTHING, help="these transforms")
    parser.add_argument("--dtype", nargs="*", help="default: float32, and unless quick bfloat16")
    arguments = parser.parse_args()
    shape = {"width": 128, "layers": 4, "words": 1024} if arguments.quick else {}
    print(f"{header()}\n")
    rounds = arguments.rounds or (10 if arguments.quick else 40)
    for dtype in arguments.dtype or ["float32", "bfloat16"][: 1 if arguments.quick else 2]:
        show(jnp.dtype(dtype), rounds, shape, arguments.only or list(EVERYTHING))


if __name__ == "__main__":
    main()
