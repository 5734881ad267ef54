"""What each of several devices computes, keeps and sends, with rows or layers spread over them.

Run `python -m benchmarks.scaling devices [--quick]`. It counts in compiled programs for 1, 2, 4 and
8 devices of the host and runs none of them: so many devices on a few cores have no speed to show.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tritia
from benchmarks.collectives import bytes_of_collectives
from benchmarks.families import perceptron
from benchmarks.tiam_cost import tiam_step
from benchmarks.timing import header, table

DEVICES = (1, 2, 4, 8)


class Counts(NamedTuple):
    """Of one device, in one update.

    Attributes:
      flops: by XLA's count, all branches of conditionals included, factorisations left out.
      sent: bytes of the results of collectives.
      temporary: bytes beside arguments and results.
    """

    flops: float
    sent: int
    temporary: int


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean cross-entropy of a perceptron with ReLU."""
    layers = params["layers"] if isinstance(params, dict) else params
    for layer in layers[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    logits = x @ layers[-1]["kernel"] + layers[-1]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


SIDES: Mapping[str, Callable[[int, Any], Any]] = {
    "tiam": lambda rows, sharding: tritia.tiam(rows, row_sharding=sharding),
    "stochastic_tiam_inertia": lambda rows, sharding: tritia.stochastic_tiam(
        0.3, step=tritia.Inertia(0.9)
    ),
    "difference(2, 3)": lambda rows, sharding: tritia.difference(0.1),
    "rk4": lambda rows, sharding: tritia.rk4(0.1),
}


def counts(name: str, devices: int, rows: int, widths: tuple[int, ...]) -> Counts:
    """Compiles an update and the gradient that it takes."""
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    spread = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(perceptron(widths), NamedSharding(mesh, PartitionSpec()))
    optimizer = SIDES[name](rows, spread)
    x = jax.ShapeDtypeStruct((rows, widths[0]), jnp.float32, sharding=spread)
    y = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=spread)

    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        grads: Any = None
        extra: dict[str, Any] = {"inputs": x, "targets": y}
        if "tiam" not in name:
            grad_fn = functools.partial(jax.grad(loss), x=x, y=y)
            grads, extra = grad_fn(params), {"grad_fn": grad_fn}
        update = optax.with_extra_args_support(optimizer).update
        updates, state = update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return _counted(jax.jit(step).lower(params, optimizer.init(params), x, y).compile())


def layer_counts(devices: int, rows: int, widths: tuple[int, int, int], stacked: int) -> Counts:
    """The same of `tritia.tiam`, with a stack of layers between the first and the last."""
    mesh = jax.make_mesh((devices,), ("layers",), (AxisType.Auto,), devices=jax.devices()[:devices])
    everywhere, spread = (NamedSharding(mesh, PartitionSpec(*names)) for names in ((), ("layers",)))
    inputs, width, outs = widths
    order = ("first", "inner", "last")
    shapes = ((inputs, width), (stacked, width, width), (width, outs))
    params = {
        name: {"kernel": jnp.ones(shape), "bias": jnp.zeros((*shape[:-2], shape[-1]))}
        for name, shape in zip(order, shapes, strict=True)
    }
    params = {
        name: jax.device_put(layer, spread if name == "inner" else everywhere)
        for name, layer in params.items()
    }
    solver = tritia.tiam(rows, block_order="red_black", layer_order=order, layer_sharding=spread)
    x = jax.ShapeDtypeStruct((rows, inputs), jnp.float32, sharding=everywhere)
    y = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=everywhere)

    step = jax.jit(tiam_step(solver))
    return _counted(step.lower(params, solver.init(params), x, y).compile())


def _counted(compiled: Any) -> Counts:
    return Counts(
        compiled.cost_analysis()["flops"],
        sum(bytes_of_collectives(compiled).values()),
        compiled.memory_analysis().temp_size_in_bytes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and units")
    quick = parser.parse_args().quick
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    rows, widths = (512, (64, 32, 32, 10)) if quick else (16384, (784, 256, 256, 10))
    print(header(), end="\n\n")
    print(f"Of each device, {rows} rows of {'-'.join(map(str, widths))} together:\n")
    head = ["", "devices", "Mflop", "of the ideal", "MB temporary", "of the ideal", "MB sent"]

    def lines(sides: Mapping[str, Callable[[int], Counts]]) -> Any:
        for name, count in sides.items():
            found = {n: count(n) for n in DEVICES}
            for n, one in found.items():
                flops, temporary = found[1].flops / n, found[1].temporary / n
                yield [
                    name,
                    str(n),
                    f"{one.flops / 1e6:,.0f}",
                    f"{one.flops / flops:.2f}",
                    f"{one.temporary / 2**20:.1f}",
                    f"{one.temporary / temporary:.2f}",
                    f"{one.sent / 2**20:.2f}",
                ]

    def of_rows(name: str) -> Callable[[int], Counts]:
        return lambda devices: counts(name, devices, rows, widths)

    table(head, lines({name: of_rows(name) for name in SIDES}))
    rows, stacked, deep = (64, 16, (64, 32, 10)) if quick else (2048, 64, (784, 256, 10))
    print(
        f"Of each device, {rows} rows of {'-'.join(map(str, deep))} with {stacked} stacked layers"
        " after the first, which are spread over the devices:\n"
    )
    table(head, lines({"tiam": lambda devices: layer_counts(devices, rows, deep, stacked)}))


if __name__ == "__main__":
    main()
