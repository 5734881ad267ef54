"""What an update of `tritia.tiam` costs, and where its time goes.

Run `python -m benchmarks.tiam_cost [PART...] [--quick]` with any of the parts

  grid      an update against a step of Adam on all rows: wide, tall and large data, 2 to 12 layers
  profile   the time of an update by kind of work
  stack     stacked layers as one batch (`layer_sharding` on one device), and one after the other

and it prints Markdown. The rate of a method is the floating-point operations of its matrix
products, counted in its program, over its time; beside it stands the rate of the largest product of
a layer's inputs with its kernel alone, timed in turn with the rest.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import itertools
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tritia
from benchmarks import programs
from benchmarks.families import classification_loss, examples, perceptron
from benchmarks.timing import Seconds, add_parts, carried, header, in_turn, milliseconds, table

# Rows, inputs, units of a hidden layer, outputs.
DATA = {
    "Cora's, 140 x 7165": (140, 7165, 100, 7),
    "digits', 1437 x 64": (1437, 64, 100, 10),
    "10000 x 64": (10000, 64, 100, 10),
    "10000 x 784": (10000, 784, 256, 10),
}
LAYERS = (2, 3, 6, 12)
PEER = "adam"
KERNEL_STEPS = ("auto", "line_search")
ROUNDS = 40
LARGE = 5000  # rows above which a quarter of the rounds is timed
SMALL = 100_000  # inputs up to which the quick version goes

Step = Callable[..., tuple[Any, Any]]


def tiam_step(solver: Any) -> Step:
    """An update of TIAM."""

    def step(params, state, x, y):
        updates, state = solver.update(None, state, params, inputs=x, targets=y)
        return optax.apply_updates(params, updates), state

    return step


def gradient_step(optimizer: optax.GradientTransformation) -> Step:
    """A step with the gradient of all rows."""

    def step(params, state, x, y):
        grads = jax.grad(classification_loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def sides(rows: int, kernel_steps: Sequence[Any]) -> dict[str, tuple[Any, Step]]:
    """By name, an optimizer and its step: TIAM with these weight steps, and Adam."""
    adam = optax.adam(1e-3)
    found = {PEER: (adam, gradient_step(adam))}
    for kind in kernel_steps:
        solver = tritia.tiam(rows, kernel_step=kind)
        found[kind] = (solver, tiam_step(solver))
    return found


def calls(
    rows: int, sizes: Sequence[int], steps: Mapping[str, tuple[Any, Step]]
) -> dict[str, Callable[[], Any]]:
    """The steps, each as a function that goes on where its last call ended."""
    data = examples(rows, sizes)
    found = {}
    for name, (optimizer, step) in steps.items():
        params = perceptron(sizes)
        compiled = jax.jit(step, donate_argnums=(0, 1))
        found[name] = carried(compiled, (params, optimizer.init(params)), *data)
    return found


def operations(rows: int, sizes: Sequence[int], optimizer: Any, step: Step) -> int:
    """Floating-point operations of the matrix products of a step."""
    params = jax.eval_shape(lambda: perceptron(sizes))
    state = jax.eval_shape(optimizer.init, params)
    shapes = ((rows, sizes[0]), jnp.float32), ((rows,), jnp.int32)
    data = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    program = jax.make_jaxpr(step)(params, state, *data)
    return programs.products(program, programs.operations)


def largest_product(rows: int, sizes: Sequence[int]) -> tuple[Callable[[], Any], int]:
    """The product of a layer's inputs with its kernel, and its floating-point operations."""
    i, o = max(itertools.pairwise(sizes), key=math.prod)
    left, right = jnp.ones((rows, i)), jnp.ones((i, o))
    product = jax.jit(jnp.matmul)
    return lambda: product(left, right), 2 * rows * i * o


def show_grid(quick: bool) -> None:
    """An update against a step of Adam over shapes."""
    print("Milliseconds (quartiles), ratios to Adam's step on all rows, and in products GFLOP/s:\n")

    def cells() -> Iterator[list[str]]:
        for label, (count, inputs, hidden, outs) in DATA.items():
            if quick and count * inputs > SMALL:
                continue
            for depth in LAYERS[:2] if quick else LAYERS:
                sizes = (inputs, *(depth - 1) * (hidden,), outs)
                steps = sides(count, KERNEL_STEPS)
                product, known = largest_product(count, sizes)
                rounds = ROUNDS // 4 if quick or count > LARGE else ROUNDS
                found = in_turn({**calls(count, sizes, steps), "product": product}, rounds)
                rate = known / found["product"].median
                work = {name: operations(count, sizes, *steps[name]) for name in (PEER, "auto")}
                rates = {name: work[name] / found[name].median for name in work}
                yield [
                    label,
                    str(depth),
                    milliseconds(found[PEER]),
                    milliseconds(found["auto"]),
                    *(f"{found[k].median / found[PEER].median:.2f}" for k in KERNEL_STEPS),
                    f"{work['auto'] / work[PEER]:.2f}",
                    f"{rates[PEER] / 1e9:.0f}",
                    f"{rates['auto'] / 1e9:.0f}",
                    f"{rate / 1e9:.0f}",
                    f"{rates['auto'] / rate:.0%}",
                ]

    ratios = [f"{kind} over Adam" for kind in KERNEL_STEPS]
    head = ["data", "layers", "Adam, ms", "auto, ms", *ratios, "operations over Adam's"]
    rates = ["Adam, GFLOP/s", "auto, GFLOP/s", "a product alone, GFLOP/s", "auto over the product"]
    table([*head, *rates], cells())


KINDS = {
    "matrix products": r" dot\(",
    "factorisations": r"custom-call\(|cholesky\(|triangular-solve\(",
    "reductions": r" reduce\(",
}
"""What an instruction of the compiled program is counted as, by the first pattern in its body."""


def kinds_of_instructions(program: str) -> dict[str, str]:
    """By name of an instruction of a compiled program, the kind of its work."""
    bodies: dict[str, list[str]] = {}
    instructions: dict[str, str] = {}
    current: list[str] = []
    for line in program.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = bodies.setdefault(opened[1], [])
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line):
            current.append(found[2])
            instructions[found[1]] = found[2]
    kinds = {}
    for name, text in instructions.items():
        if re.search(r" (while|conditional|call)\(", text):
            continue  # what is inside of them is counted
        called = re.search(r"calls=%?([\w.\-]+)", text)
        body = "\n".join(bodies.get(called[1], [])) if called else text
        kinds[name] = next(
            (kind for kind, pattern in KINDS.items() if re.search(pattern, body)), "elementwise"
        )
    return kinds


def profile(step: Step, optimizer: Any, rows: int, sizes: Sequence[int], rounds: int) -> Any:
    """Milliseconds of the threads by kind of work in one step, and of the step itself."""
    params, data = perceptron(sizes), examples(rows, sizes)
    state = optimizer.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, *data).compile()
    kinds = kinds_of_instructions(compiled.as_text() or "")
    call = carried(compiled, (params, state), *data)
    seconds: Seconds = in_turn({"step": call}, rounds)["step"]
    spent: dict[str, float] = collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            for _ in range(rounds):
                jax.block_until_ready(call())
        (file,) = Path(folder).rglob("perfetto_trace.json.gz")
        with gzip.open(file) as opened:
            events = json.load(opened)["traceEvents"]
    for event in events:
        if event.get("ph") == "X" and event["name"] in kinds:
            spent[kinds[event["name"]]] += event["dur"] / 1e3 / rounds
    return spent, seconds


def show_profile(quick: bool) -> None:
    """The time of an update by kind of work."""
    names = [*KINDS, "elementwise"]
    print(
        "Time of the threads by kind of work, as XLA's profiler has it: milliseconds an update"
        " (share). A fusion counts as a product or a reduction where it holds one.\n"
    )

    def cells() -> Iterator[list[str]]:
        for label, (count, inputs, hidden, outs) in DATA.items():
            if quick and count * inputs > SMALL:
                continue
            sizes = (inputs, hidden, hidden, outs)
            for name, (optimizer, step) in sides(count, ("auto",)).items():
                rounds = ROUNDS // 4 if quick or count > LARGE else ROUNDS
                spent, seconds = profile(step, optimizer, count, sizes, rounds)
                total = sum(spent.values())
                if not total:
                    raise RuntimeError("XLA's profiler names no instruction on this device.")
                shares = [f"{spent[kind]:.2f} ({spent[kind] / total:.0%})" for kind in names]
                yield [f"{label}, 3 layers", name, milliseconds(seconds), *shares]

    table(["data", "method", "an update, ms (quartiles)", *names], cells())


def show_stack(quick: bool) -> None:
    """Stacked layers, one after the other and as one batch."""
    count, width, rounds = (200, 20, 5) if quick else (1500, 100, ROUNDS // 2)
    print(f"{count} rows of 64, {width} units a hidden layer, in the order red_black:\n")
    mesh = jax.make_mesh((1,), ("layers",), (AxisType.Auto,), devices=jax.devices()[:1])
    ways = {"one after the other": None, "as a batch": NamedSharding(mesh, PartitionSpec("layers"))}
    order = ("first", "inner", "last")

    def cells() -> Iterator[list[str]]:
        for depth in (4, 12) if quick else (6, 12, 24):
            first, *inner, last = perceptron((64, *(depth - 1) * (width,), 10))
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inner)
            params = dict(zip(order, (first, stacked, last), strict=True))
            data, compiling, temporary, sides = examples(count, (64, 10)), {}, {}, {}
            for name, sharding in ways.items():
                solver = tritia.tiam(
                    count, block_order="red_black", layer_order=order, layer_sharding=sharding
                )
                state = solver.init(params)
                jax.clear_caches()
                began = time.process_time()
                step = jax.jit(tiam_step(solver), donate_argnums=(0, 1))
                compiled = step.lower(params, state, *data).compile()
                compiling[name] = time.process_time() - began
                memory: Any = compiled.memory_analysis()
                temporary[name] = memory.temp_size_in_bytes / 2**20
                sides[name] = carried(compiled, (params, state), *data)
            found, alone = in_turn(sides, rounds), "one after the other"
            for name in ways:
                yield [
                    str(depth),
                    name,
                    f"{compiling[name]:.1f}",
                    f"{compiling[name] / compiling[alone]:.2f}",
                    milliseconds(found[name]),
                    f"{found[name].median / found[alone].median:.2f}",
                    f"{temporary[name]:.0f}",
                ]

    head = ["layers", "", "tracing and compiling, CPU s", "ratio", "an update, ms (quartiles)"]
    table([*head, "ratio", "temporary, MiB"], cells())


PARTS: Mapping[str, Callable[[bool], None]] = {
    "grid": show_grid,
    "profile": show_profile,
    "stack": show_stack,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_parts(parser, PARTS)
    parser.add_argument("--quick", action="store_true", help="small data, fewer layers and rounds")
    arguments = parser.parse_args()
    print(header(), end="\n\n")
    for part in arguments.parts:
        PARTS[part](arguments.quick)


if __name__ == "__main__":
    main()
