"""Layers spread over devices: model parallel training."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import tritia
from benchmarks.collectives import bytes_of_collectives, shapes

# No width, and no number of layers, is a number of rows.
N, INPUTS, WIDTH, CLASSES, STACKED = 48, 10, 12, 3, 8
ORDER = ("first", "middle", "last")
X = jax.random.normal(jax.random.key(1), (2 * N, INPUTS))
Y = jnp.argmax(X[:, :CLASSES], axis=1)
SETTINGS = {
    "defaults": {},
    "line_search": {"kernel_step": "line_search", "inertia": tritia.Inertia(0.2, 0.1, 0.3)},
    "inequality": {"coupling": "inequality", "kernel_step": "backtracking"},
}


def _params():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"first": (INPUTS, WIDTH), "middle": (STACKED, WIDTH, WIDTH), "last": (WIDTH, CLASSES)}
    return {
        name: {
            "kernel": jax.random.normal(key, shape) * (2 / shape[-2]) ** 0.5,
            "bias": jnp.zeros((*shape[:-2], shape[-1])),
        }
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def _mesh(kind):
    kinds = (getattr(AxisType, kind),)
    return jax.make_mesh((4,), ("layers",), axis_types=kinds, devices=jax.devices()[:4])


def _prepared(mesh, n=N, **settings):
    """The jitted update, and params, state and examples that lie on the mesh."""

    def placed(tree, spec):
        return jax.device_put(tree, NamedSharding(mesh, spec))

    solver = tritia.tiam(
        n,
        layer_order=ORDER,
        block_order="red_black",
        layer_sharding=NamedSharding(mesh, P("layers")),
        **settings,
    )
    params = {
        name: placed(layer, P("layers") if name == "middle" else P())
        for name, layer in _params().items()
    }
    examples = placed((X[:n], Y[:n]), P())
    state = solver.init(params)
    return jax.jit(_step(solver)), params, state, examples


def _step(solver):
    def step(params, state, x, y):
        updates, state = solver.update(None, state, params, inputs=x, targets=y)
        return optax.apply_updates(params, updates), state

    return step


def _alone(**settings):
    solver = tritia.tiam(N, layer_order=ORDER, block_order="red_black", **settings)
    params, step = _params(), jax.jit(_step(solver))
    state = solver.init(params)
    for _ in range(3):
        params, state = step(params, state, X[:N], Y[:N])
    return params, tritia.tiam_diagnostics(state)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Explicit", "defaults"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("Auto", "defaults"),
                ("Auto", "line_search"),
                ("Auto", "inequality"),
                ("Explicit", "inequality"),
            )
        ),
    ],
)
def test_as_on_one_device(kind, name):
    settings = SETTINGS[name]
    step, params, state, examples = _prepared(_mesh(kind), **settings)
    for _ in range(3):
        params, state = step(params, state, *examples)
    found = params, tritia.tiam_diagnostics(state)
    # Where a device holds layers, it goes on holding them.
    assert params["middle"]["kernel"].sharding.shard_shape((STACKED, WIDTH, WIDTH))[0] == 2
    held = state.pre_activations[1].sharding.shard_shape((STACKED, N, WIDTH))
    assert held == (2, N, WIDTH)
    chex.assert_trees_all_close(
        *map(jax.device_get, (found, _alone(**settings))), rtol=1e-3, atol=1e-4
    )


def test_neighbours_alone_exchange_what_has_a_row_for_each_example():
    sent = {}
    for n in (N, 2 * N):
        step, params, state, examples = _prepared(_mesh("Auto"), n)
        step = step.lower(params, state, *examples).compile()
        sent[n] = bytes_of_collectives(step)
        # No device holds the z and a of more than its two layers.
        assert not {(STACKED, n, WIDTH), (STACKED - 1, n, WIDTH)} & shapes(step)
    # z, a and z again in a pass, and the way up of the first update's forward pass.
    assert sent[N]["collective-permute"] == 4 * N * WIDTH * 4
    assert sent[2 * N]["collective-permute"] == 2 * sent[N]["collective-permute"]
    # The params of the first and the last layer, and numbers of each layer: as before.
    others = [{k: v for k, v in one.items() if k != "collective-permute"} for one in sent.values()]
    assert others[0] == others[1]
    ends = INPUTS * WIDTH + WIDTH + WIDTH * CLASSES + CLASSES
    assert sum(others[0].values()) < 4 * (2 * ends + 20 * STACKED)


def test_a_mesh_with_another_axis_is_refused():
    mesh = jax.make_mesh((2, 4), ("data", "layers"))
    with pytest.raises(ValueError, match="axes other than 'layers' have the size 1"):
        tritia.tiam(N, block_order="red_black", layer_sharding=NamedSharding(mesh, P("layers")))
