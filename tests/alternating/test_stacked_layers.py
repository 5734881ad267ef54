"""Layers stacked in one array, as nnx.vmap and nnx.scan make them, are trained like others."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import tritia
import tritia.flax

N, D, WIDTH, K = 20, 4, 6, 3
X = jax.random.normal(jax.random.key(0), (N, D))
Y = jnp.arange(N) % K
ORDER = ("first", "middle", "last")


def stacked_params(layers=4, bias=True):
    keys = jax.random.split(jax.random.key(1), 3)
    shapes = {"first": (D, WIDTH), "middle": (layers, WIDTH, WIDTH), "last": (WIDTH, K)}
    return {
        name: {
            "kernel": jax.random.normal(key, shape) * (2 / shape[-2]) ** 0.5,
            **({"bias": jnp.full((*shape[:-2], shape[-1]), 0.1)} if bias else {}),
        }
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def one_by_one(params):
    middle = [
        jax.tree.map(lambda leaf, i=i: leaf[i], params["middle"])
        for i in range(len(params["middle"]["kernel"]))
    ]
    return [params["first"], *middle, params["last"]]


TIAM = tritia.tiam, {"inertia": tritia.Inertia(0.2, 0.1, 0.3)}
STOCHASTIC = tritia.stochastic_tiam, {}
HEAVY_BALL = tritia.stochastic_tiam, {"step": tritia.Inertia(0.9), "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("make", "settings", "layers", "bias"),
    [
        (*TIAM, 2, True),
        (*STOCHASTIC, 3, False),
        *(
            pytest.param(*solver, 4, bias, marks=pytest.mark.slow)
            for solver in (TIAM, STOCHASTIC, HEAVY_BALL)
            for bias in (True, False)
        ),
    ],
)
def test_stacked_layers_are_trained_as_layers_of_their_own(make, settings, layers, bias):
    settings = dict(settings)
    first = N if make is tritia.tiam else settings.pop("learning_rate", 0.01)

    def train(params, layer_order):
        solver = make(first, layer_order=layer_order, **settings)

        @jax.jit
        def step(params, state):
            updates, state = solver.update(None, state, params, inputs=X, targets=Y)
            return optax.apply_updates(params, updates), state

        state = solver.init(params)
        for _ in range(3):
            params, state = step(params, state)
        return params, state

    params = stacked_params(layers, bias)
    found, state = train(params, ORDER)
    expected, other = train(one_by_one(params), None)
    chex.assert_trees_all_equal_shapes(found, params)
    chex.assert_trees_all_close(one_by_one(found), expected, rtol=1e-4, atol=1e-5)
    if make is tritia.tiam:
        return
    averages = tritia.eval_params(state, found), tritia.eval_params(other, expected)
    chex.assert_trees_all_close(one_by_one(averages[0]), averages[1], rtol=1e-4, atol=1e-5)


class Scanned(nnx.Module):
    def __init__(self, layers):
        @nnx.split_rngs(splits=layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return nnx.Linear(WIDTH, WIDTH, rngs=rngs)

        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(D, WIDTH, rngs=rngs)
        self.middle = make(rngs)
        self.last = nnx.Linear(WIDTH, K, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def through(layer, x):
            return nnx.tanh(layer(x))

        return self.last(through(self.middle, nnx.tanh(self.first(x))))


def test_a_scanned_flax_model_is_found_and_trained():
    model = Scanned(2)
    start = nnx.as_pure(nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, tritia.flax.tiam(model, N), wrt=nnx.Param)
    nnx.jit(lambda model, optimizer: optimizer.update(model, None, inputs=X, targets=Y))(
        model, optimizer
    )
    solver = tritia.tiam(N, activation="tanh", layer_order=ORDER)

    @jax.jit
    def one_step(params):
        moves, _ = solver.update(None, solver.init(params), params, inputs=X, targets=Y)
        return optax.apply_updates(params, moves)

    expected = one_step(start)
    chex.assert_trees_all_close(
        nnx.as_pure(nnx.state(model, nnx.Param)), expected, rtol=1e-4, atol=1e-5
    )


def test_initial_params_for_inputs_leave_the_stack_as_it_is():
    params = stacked_params()
    found = tritia.params_for_inputs(params, 5 + 3 * X, layer_order=ORDER)
    expected = tritia.params_for_inputs(one_by_one(params), 5 + 3 * X)
    chex.assert_trees_all_close(one_by_one(found), expected, rtol=1e-6)
    chex.assert_trees_all_equal(found["middle"], params["middle"])
    alone = {"only": stacked_params()["middle"]}
    rows = jax.random.normal(jax.random.key(2), (N, WIDTH))
    chex.assert_trees_all_equal_shapes(tritia.params_for_inputs(alone, rows), alone)
