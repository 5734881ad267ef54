"""One of the processes of test_two_processes.py: trains on a mesh of all their devices.

Arguments: the process's number, how many there are, devices of each, the coordinator's port, a
folder, and "save" (three steps, then a checkpoint), "go_on" (three more steps from there) or
"sweep" (runs spread over all devices).
"""

import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tritia
import tritia.sweeps

ROWS, STEPS = 32, 3
SIZES = ((6, 8), (8, 3))


def optimizers(rows=None):
    return {
        "tiam": tritia.tiam(ROWS, row_sharding=rows),
        "stochastic_tiam": tritia.stochastic_tiam(0.03),
        "rk4": tritia.rk4(0.1),
    }


def examples():
    x = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
    return x, np.argmax(x[:, :3] * x[:, 3:], axis=1).astype(np.int32)


def first_params():
    draw = np.random.default_rng(1).normal
    return [
        {"kernel": draw(size=size).astype(np.float32), "bias": np.zeros(size[1], np.float32)}
        for size in SIZES
    ]


def loss(params, x, y):
    hidden = jax.nn.relu(x @ params[0]["kernel"] + params[0]["bias"])
    logits = hidden @ params[1]["kernel"] + params[1]["bias"]
    return -jnp.mean(jnp.sum(jax.nn.one_hot(y, 3) * jax.nn.log_softmax(logits), axis=1))


def step(optimizer, params, state, x, y):
    grad_fn = functools.partial(jax.grad(loss), x=x, y=y)
    extra = {"inputs": x, "targets": y, "grad_fn": grad_fn}
    updates, state = optimizer.update(grad_fn(params), state, params, **extra)
    return optax.apply_updates(params, updates), state


def train(optimizer, params, state, x, y, steps=STEPS):
    step_fn = jax.jit(functools.partial(step, optimizer))
    for _ in range(steps):
        params, state = step_fn(params, state, x, y)
    return params, state


def sweeps(mesh=None):
    """Results by name: all at once, with halving, and with a mesh in chunks of either kind."""
    problem = tritia.sweeps.plain_problem(
        lambda key: [
            {"kernel": jax.random.normal(key, size), "bias": jnp.zeros(size[1])} for size in SIZES
        ],
        lambda params, batch: loss(params, *batch),
    )
    run = functools.partial(
        tritia.sweeps.run,
        lambda setting: tritia.difference(setting["learning_rate"]),
        problem=problem,
        data=examples(),
        steps=9,
        records=9,
        mesh=mesh,
    )
    rates = tritia.sweeps.grid(learning_rate=np.geomspace(0.01, 0.3, 18))
    tasks = {
        "seeds": functools.partial(run, rates[:1], seeds=24, batch=noisy),
        "settings": functools.partial(run, rates, batch=noisy, halving=tritia.sweeps.Halving(3, 1)),
    }
    found = {name: task() for name, task in tasks.items()}
    if mesh is not None:
        for name, task in tasks.items():
            whole = found[name]
            part = found[f"{name} in chunks"] = task(memory=whole.bytes - 1)
            assert max(part.at_once) < max(whole.at_once)
    return found


def noisy(key, step, data):
    """Rows in a random order, of which the first half is taken."""
    order = jax.random.permutation(jax.random.fold_in(key, step), ROWS)[: ROWS // 2]
    return tuple(part[order] for part in data)


def numbers(result):
    """What a sweep found, as arrays in order."""
    return [*result[2:8], *jax.tree.leaves(result.params)]


def write(file, params):
    np.savez(file, *map(np.asarray, jax.tree.leaves(params)))


def main():
    number, count, devices, port = map(int, sys.argv[1:5])
    folder, task = pathlib.Path(sys.argv[5]), sys.argv[6]
    jax.config.update("jax_num_cpu_devices", devices)
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", count, number)
    assert jax.device_count() == count * devices
    mesh = jax.make_mesh((count * devices,), ("data",), axis_types=(AxisType.Auto,))
    if task == "sweep":
        for name, result in sweeps(mesh).items():
            write(folder / f"{name}-{number}.npz", numbers(result))
        return
    rows = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def globally(array, sharding):
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    x, y = (globally(array, rows) for array in examples())
    params = jax.tree.map(lambda leaf: globally(leaf, everywhere), first_params())
    for name, optimizer in optimizers(rows).items():
        state = jax.jit(optimizer.init)(params)
        start = params, state
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            if task == "go_on":
                step_fn = jax.jit(functools.partial(step, optimizer))
                shapes = jax.eval_shape(step_fn, *start, x, y)
                after = step_fn.lower(*start, x, y).compile().output_shardings
                # Each array of the new mesh's layout, whatever mesh it was saved from.
                target = jax.tree.map(
                    lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
                    shapes,
                    after,
                )
                start = checkpointer.restore(folder / name, target)
            end = train(optimizer, *start, x, y)
            if task == "save":
                checkpointer.save(folder / name, end)
                checkpointer.wait_until_finished()
        if number == 0:
            write(folder / f"{name}-{task}-{count * devices}.npz", end[0])
    (folder / f"{task}-{count * devices}-{number}").touch()
    while task == "save":  # until it is killed
        time.sleep(0.1)


if __name__ == "__main__":
    main()
