"""Rows spread over eight devices, params on all of them: data parallel training."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tritia
from benchmarks.collectives import bytes_of_collectives, shapes

# 9 rows a device, fewer than there are inputs; no width is a number of rows.
N, INPUTS, CLASSES = 104, 100, 3
STEPS = 3
MESHES = {
    kind: jax.make_mesh((8,), ("data",), axis_types=(getattr(AxisType, kind),))
    for kind in ("Auto", "Explicit")
}
each_kind = pytest.mark.parametrize("kind", MESHES)


def _rows(kind: str) -> NamedSharding:
    return NamedSharding(MESHES[kind], PartitionSpec("data"))


def _everywhere(kind: str) -> NamedSharding:
    return NamedSharding(MESHES[kind], PartitionSpec())


@functools.cache
def _examples(n: int = N) -> tuple[jax.Array, jax.Array]:
    x = jax.random.normal(jax.random.key(1), (n, INPUTS))
    return x, jnp.argmax(x[:, :CLASSES] * x[:, CLASSES : 2 * CLASSES], axis=1)


@functools.cache
def _params() -> Any:
    keys = jax.random.split(jax.random.key(0), 3)
    return [
        {"kernel": jax.random.normal(key, shape) * shape[0] ** -0.5, "bias": jnp.zeros(shape[1])}
        for key, shape in zip(keys, ((INPUTS, 20), (20, 12), (12, CLASSES)), strict=True)
    ]


def _loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    logits = x @ params[-1]["kernel"] + params[-1]["bias"]
    return -jnp.mean(jnp.sum(jax.nn.one_hot(y, CLASSES) * jax.nn.log_softmax(logits), axis=1))


def _examples_only(params: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    return None, {"inputs": x, "targets": y}


def _gradient(params: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    return jax.grad(_loss)(params, x, y), {"grad_fn": lambda params: jax.grad(_loss)(params, x, y)}


def _with_layer_inputs(params: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    both = jax.grad(tritia.with_layer_inputs(_loss), has_aux=True)
    gradient, inputs = both(params, x, y)
    return gradient, {"layer_inputs": inputs}


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A transform, made for so many rows, and what its update is given."""

    make: Callable[..., Any]  # rows, their sharding -> transform
    given: Callable[..., Any]  # params, x, y -> gradient, extra arguments
    rtol: float = 1e-4


CASES = {
    "tiam": Trained(lambda n, rows: tritia.tiam(n, row_sharding=rows), _examples_only, 1e-3),
    "tiam_pipeline": Trained(
        lambda n, rows: tritia.tiam(n, row_sharding=rows, block_order="pipeline"),
        _examples_only,
        1e-3,
    ),
    "stochastic_tiam": Trained(lambda n, rows: tritia.stochastic_tiam(0.03), _examples_only),
    "stochastic_tiam_inertia": Trained(
        lambda n, rows: tritia.stochastic_tiam(0.3, step=tritia.Inertia(0.9)), _examples_only
    ),
    "input_gram": Trained(
        lambda n, rows: optax.chain(tritia.scale_by_input_gram(), optax.scale(-0.1)),
        _with_layer_inputs,
    ),
    "spectral_momentum": Trained(lambda n, rows: tritia.spectral_momentum(0.01), _gradient),
    "difference": Trained(lambda n, rows: tritia.difference(0.05), _gradient),
    "rk4": Trained(lambda n, rows: tritia.rk4(0.05), _gradient),
}
QUICK = {"tiam", "stochastic_tiam", "difference"}


def _step(case: Trained, optimizer: Any, params: Any, state: Any, x: Any, y: Any) -> Any:
    gradient, extra = case.given(params, x, y)
    update = optax.with_extra_args_support(optimizer).update
    updates, state = update(gradient, state, params, **extra)
    return optax.apply_updates(params, updates), state


def _compiled(case: Trained, params: Any, x: Any, y: Any, rows: Any = None) -> Any:
    optimizer = case.make(len(x), rows)
    state = optimizer.init(params)
    step = jax.jit(functools.partial(_step, case, optimizer))
    return state, step.lower(params, state, x, y).compile()


def _spread(case: Trained, kind: str, n: int = N) -> Any:
    params = jax.device_put(_params(), _everywhere(kind))
    return params, jax.device_put(_examples(n), _rows(kind))


@functools.cache
def _alone(case: Trained) -> Any:
    params = _params()
    state, step = _compiled(case, params, *_examples())
    for _ in range(STEPS):
        params, state = step(params, state, *_examples())
    return jax.device_get(params)


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(
            kind,
            case,
            # On one kind of axes each; tiam is quick with padding on Explicit ones below.
            marks=[]
            if name in QUICK
            and (kind, name) not in (("Explicit", "tiam"), ("Auto", "stochastic_tiam"))
            else pytest.mark.slow,
            id=f"{kind}-{name}",
        )
        for kind in MESHES
        for name, case in CASES.items()
    ],
)
def test_as_on_one_device_and_nothing_but_sums_travels(case, kind):
    params, examples = _spread(case, kind)
    state, step = _compiled(case, params, *examples, rows=_rows(kind))
    sent = bytes_of_collectives(step)
    assert set(sent) == {"all-reduce"}
    assert all(N not in shape for shape in shapes(step))  # no device holds all rows, or N x N
    for _ in range(STEPS):
        params, state = step(params, state, *examples)
    chex.assert_trees_all_close(jax.device_get(params), _alone(case), rtol=case.rtol, atol=1e-4)
    for leaf in jax.tree.leaves(state):
        if N in leaf.shape:
            assert leaf.sharding.is_equivalent_to(_rows(kind), leaf.ndim)

    params, examples = _spread(case, kind, 2 * N)
    _, twice = _compiled(case, params, *examples, rows=_rows(kind))
    assert bytes_of_collectives(twice) == sent


@pytest.mark.parametrize(
    "name",
    [
        "stochastic_tiam",
        "difference",
        pytest.param("spectral_momentum", marks=pytest.mark.slow),
        pytest.param("rk4", marks=pytest.mark.slow),
    ],
)
def test_under_shard_map(name):
    """Each device computes the gradient of its rows, and all take the mean."""
    case = CASES[name]
    optimizer = optax.with_extra_args_support(case.make(N, None))

    def train(params, x, y):
        def gradient(params):
            # By params that vary, so that the gradient is that of this device's rows alone.
            local = jax.tree.map(lambda w: jax.lax.pcast(w, "data", to="varying"), params)
            return jax.lax.pmean(jax.grad(_loss)(local, x, y), "data")

        state = optimizer.init(params)
        for _ in range(STEPS):
            extra = {"inputs": x, "targets": y, "grad_fn": gradient}
            updates, state = optimizer.update(gradient(params), state, params, **extra)
            params = optax.apply_updates(params, updates)
        return params

    rows, whole = PartitionSpec("data"), PartitionSpec()
    spread = jax.shard_map(
        train, mesh=MESHES["Auto"], in_specs=(whole, rows, rows), out_specs=whole
    )
    params = jax.jit(spread)(_params(), *_examples())
    chex.assert_trees_all_close(jax.device_get(params), _alone(case), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [pytest.param("Auto", marks=pytest.mark.slow), "Explicit"])
def test_rows_that_are_no_multiple_of_the_devices_are_padded(kind):
    real, padding = N - 4, 4
    x, y = _examples()
    with pytest.raises(ValueError, match=f"num_examples is {real}.*8 equal parts: pad.* to {N}"):
        tritia.tiam(real, row_sharding=_rows(kind))
    solver = tritia.tiam(N, row_sharding=_rows(kind))
    weights = jnp.ones(N).at[real:].set(0)
    padded = jnp.pad(x[:real], ((0, padding), (0, 0)), constant_values=jnp.nan)
    x_rows, y_rows, w_rows = jax.device_put((padded, y, weights), _rows(kind))
    params = jax.device_put(_params(), _everywhere(kind))
    updates, _ = jax.jit(
        lambda p, s, x, y, w: solver.update(None, s, p, inputs=x, targets=y, weights=w)
    )(params, solver.init(params), x_rows, y_rows, w_rows)

    alone = tritia.tiam(real)
    expected, _ = jax.jit(lambda p, s, x, y: alone.update(None, s, p, inputs=x, targets=y))(
        _params(), alone.init(_params()), x[:real], y[:real]
    )
    chex.assert_trees_all_close(
        jax.device_get(updates), jax.device_get(expected), rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow  # of two devices in tests/alternating/test_surroundings.py
@each_kind
def test_rows_on_devices_without_row_sharding(kind):
    """Works; where z and a lie is then the compiler's choice."""
    case = CASES["tiam"]
    params, examples = _spread(case, kind)
    optimizer = case.make(N, None)
    state, step = optimizer.init(params), jax.jit(functools.partial(_step, case, optimizer))
    for _ in range(STEPS):
        params, state = step(params, state, *examples)
    chex.assert_trees_all_close(jax.device_get(params), _alone(case), rtol=1e-3, atol=1e-4)


@each_kind
def test_row_sharding_on_other_devices_than_the_inputs(kind):
    four = jax.make_mesh(
        (4,), ("data",), axis_types=MESHES[kind].axis_types, devices=jax.devices()[:4]
    )
    solver = tritia.tiam(N, row_sharding=NamedSharding(four, PartitionSpec("data")))
    params, (x, y) = _spread(CASES["tiam"], kind)
    state = solver.init(params)
    for update in (solver.update, jax.jit(solver.update)):
        with pytest.raises(ValueError, match=r"mesh|devices"):
            update(None, state, params, inputs=x, targets=y)


def test_an_axis_that_the_mesh_lacks_is_refused():
    with pytest.raises(ValueError, match="rows"):
        NamedSharding(MESHES["Auto"], PartitionSpec("rows"))
