"""Stacked layers as one batch on a mesh of one device; tests/eight_devices has the others."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import tritia

N, D, WIDTH, K = 20, 5, 6, 3
ORDER = ("first", "middle", "last")
X = jax.random.normal(jax.random.key(0), (N, D))
Y = jnp.arange(N) % K
MESH = jax.make_mesh((1,), ("layers",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
LAYERS = NamedSharding(MESH, P("layers"))


def make_params(layers=4, seed=1):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"first": (D, WIDTH), "middle": (layers, WIDTH, WIDTH), "last": (WIDTH, K)}
    return {
        name: {
            "kernel": jax.random.normal(key, shape) * (2 / shape[-2]) ** 0.5,
            "bias": jnp.full((*shape[:-2], shape[-1]), 0.1),
        }
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def solver_of(layer_sharding, **settings):
    return tritia.tiam(
        N,
        layer_order=ORDER,
        block_order="red_black",
        layer_sharding=layer_sharding,
        **settings,
    )


def train(solver, params, weights=None, updates=3):
    @jax.jit
    def step(params, state):
        moves, state = solver.update(None, state, params, inputs=X, targets=Y, weights=weights)
        return optax.apply_updates(params, moves), state

    state = solver.init(params)
    for _ in range(updates):
        params, state = step(params, state)
    return params, tritia.tiam_diagnostics(state)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, None),
        pytest.param(
            {"kernel_step": "line_search", "inertia": tritia.Inertia(0.2, 0.1, 0.6)},
            None,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "coupling": "inequality",
                "kernel_step": "backtracking",
                "inertia": tritia.Inertia(0.5, 0.4, 0.3),
                "rho": optax.constant_schedule(1e-2),
            },
            jnp.arange(N) % 3.0,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["defaults", "line_search", "inequality"],
)
def test_it_is_the_order_red_black(settings, weights):
    found = train(solver_of(LAYERS, **settings), make_params(), weights)
    expected = train(solver_of(None, **settings), make_params(), weights)
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_objective_never_rises():
    params, solver = make_params(6), solver_of(LAYERS, inertia=tritia.Inertia(0.0, 0.0, 0.9))
    step = jax.jit(lambda params, state: solver.update(None, state, params, inputs=X, targets=Y))
    state, objectives = solver.init(params), []
    for _ in range(30):
        moves, state = step(params, state)
        params = optax.apply_updates(params, moves)
        objectives.append(float(tritia.tiam_diagnostics(state).objective))
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in itertools.pairwise(objectives))
    assert objectives[-1] < 0.5 * objectives[0]


def test_a_batch_of_networks():
    params = jax.vmap(lambda seed: make_params(2, seed))(jnp.arange(2))
    solver = solver_of(LAYERS)

    def first_step(params):
        moves, _ = solver.update(None, solver.init(params), params, inputs=X, targets=Y)
        return moves

    together = jax.jit(jax.vmap(first_step))(params)
    for member in range(2):
        alone = jax.jit(first_step)(jax.tree.map(lambda leaf, i=member: leaf[i], params))
        chosen = jax.tree.map(lambda leaf, i=member: leaf[i], together)
        chex.assert_trees_all_close(chosen, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_outside_of_jit():
    params, solver = make_params(2), solver_of(LAYERS)
    moves, _ = solver.update(None, solver.init(params), params, inputs=X, targets=Y)
    expected, _ = train(solver, params, updates=1)
    chex.assert_trees_all_close(optax.apply_updates(params, moves), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"layer_sharding": MESH},
            TypeError,
            "layer_sharding must be a jax.sharding.NamedSharding",
        ),
        ({"layer_sharding": NamedSharding(MESH, P())}, ValueError, "allowed: one axis of the mesh"),
        ({"block_order": "backward"}, ValueError, "block_order is 'backward'.*'red_black' alone"),
        ({"restart": "always"}, ValueError, "restart is 'always'.*None alone"),
        ({"row_sharding": LAYERS}, ValueError, "row_sharding is .*None alone is allowed"),
    ],
)
def test_what_does_not_go_with_it_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        tritia.tiam(N, **{"layer_sharding": LAYERS, "block_order": "red_black", **settings})


@pytest.mark.parametrize(
    ("params", "settings", "message"),
    [
        (make_params(3), {}, "3 stacked layers.*over 1 devices: allowed are multiples of 2"),
        (
            [{"kernel": jnp.ones((D, K))}, {"kernel": jnp.ones((K, K))}],
            {"layer_order": None},
            "needs a first layer, one stack of equal layers",
        ),
        ({"only": make_params()["middle"]}, {"layer_order": None}, "needs a first layer"),
        (make_params(), {"activation": ["relu"] * 4 + ["tanh"]}, r"\(relu, tanh\).*one for all"),
    ],
)
def test_other_networks_are_refused(params, settings, message):
    solver = tritia.tiam(
        N,
        **{
            "layer_order": ORDER,
            "block_order": "red_black",
            "layer_sharding": LAYERS,
            **settings,
        },
    )
    with pytest.raises(ValueError, match=message):
        solver.init(params)


def test_the_state_lies_stacked():
    state = solver_of(LAYERS).init(make_params())
    assert [z.shape for z in state.pre_activations] == [(1, N, WIDTH), (4, N, WIDTH), (1, N, K)]
    assert [a.shape for a in state.activations] == [(4, N, WIDTH), (1, N, WIDTH)]
    np.testing.assert_array_equal(state.count, 0)
