"""eval_params finds the wrapper's state wherever Optax and Flax put it."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state

import tritia

P1, P2, RATE = 0.7, 0.5, 0.1
START = {"a": jnp.array([1.0, -2.0]), "b": {"c": jnp.array(0.5)}}


def inertia(rate=RATE):
    return tritia.triple_inertia(optax.sgd(rate), predict=P1, evaluate=P2)


def gradient(params):
    return jax.tree.map(lambda x: 2.0 * x, params)


def iterate_of(start, steps, rate=RATE):
    """The iterate of `inertia(rate)` on the sum of squares, leaf by leaf, in NumPy."""

    def leaf(u):
        u, d = np.asarray(u, np.float64), 0.0
        for _ in range(steps):
            u_next = u + P1 * d - rate * 2.0 * (u + P2 * d)
            u, d = u_next, u_next - u
        return u

    return jax.tree.map(leaf, start)


def train(solver, steps=4, start=START):
    params, state = start, solver.init(start)
    for _ in range(steps):
        updates, state = solver.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    return state, params


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), actual, expected)


@pytest.mark.parametrize(
    "solver",
    [
        inertia(),
        optax.chain(optax.identity(), optax.chain(optax.trace(0.0), inertia())),
        optax.inject_hyperparams(tritia.triple_inertia)(optax.sgd(RATE), predict=P1, evaluate=P2),
        optax.apply_if_finite(inertia(), 3),
        optax.masked(inertia(), lambda p: jax.tree.map(lambda x: True, p)),
        optax.partition({"x": inertia(), "y": inertia()}, {"a": "x", "b": "y"}),
    ],
    ids=["bare", "chain", "inject", "apply_if_finite", "masked", "partition"],
)
def test_found_in_optax(solver):
    state, params = train(solver)
    iterate = tritia.eval_params(state, params)
    assert_close(iterate, iterate_of(START, 4))
    assert abs(float(params["a"][0] - iterate["a"][0])) > 1e-2
    assert_close(jax.jit(tritia.eval_params)(state, params), iterate)


def test_found_in_multi_steps():
    solver = optax.MultiSteps(inertia(), every_k_schedule=2)
    state, params = train(solver, steps=9)
    # Gradients are equal within a group of two (params do not move), so 9 calls are 4 steps.
    assert_close(tritia.eval_params(state, params), iterate_of(START, 4))


@pytest.mark.parametrize(
    "solver",
    [
        optax.masked(inertia(), {"a": True, "b": False}),
        optax.partition({"x": inertia(), "y": optax.sgd(RATE)}, {"a": "x", "b": "y"}),
    ],
    ids=["masked", "partition"],
)
def test_leaves_without_inertia_come_back_unchanged(solver):
    state, params = train(solver)
    result = tritia.eval_params(state, params)
    assert_close(result["a"], iterate_of(START["a"], 4))
    np.testing.assert_array_equal(result["b"]["c"], params["b"]["c"])


def test_partition_with_other_coefficients_per_label():
    solver = optax.partition({"x": inertia(), "y": inertia(0.2)}, {"a": "x", "b": "y"})
    state, params = train(solver)
    result = tritia.eval_params(state, params)
    assert_close(result["a"], iterate_of(START["a"], 4))
    assert_close(result["b"], iterate_of(START["b"], 4, rate=0.2))


def test_found_in_a_train_state():
    model = flax.linen.Dense(2)
    variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
    state = train_state.TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optax.chain(optax.clip(1e6), inertia()),
    )
    start = state.params
    for _ in range(3):
        state = state.apply_gradients(grads=gradient(state.params))
    assert_close(tritia.eval_params(state.opt_state, state.params), iterate_of(start, 3))
    assert_close(tritia.eval_params(state, state.params), iterate_of(start, 3))


@pytest.mark.parametrize("partly", [False, True])
def test_found_in_an_nnx_optimizer(partly):
    model = nnx.Sequential(
        nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.BatchNorm(2, rngs=nnx.Rngs(0)), jnp.tanh
    )

    def kernels(params):
        return jax.tree.map(lambda x: x.ndim > 1, params)

    solver = optax.masked(inertia(), kernels) if partly else inertia()
    optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)
    start = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, jax.tree.map(lambda x: 2.0 * x, nnx.state(model, nnx.Param)))

    for _ in range(3):
        step(model, optimizer)
    params = nnx.state(model, nnx.Param)
    result = tritia.eval_params(optimizer.opt_state, params)
    assert jax.tree.structure(result) == jax.tree.structure(params)
    expected = iterate_of(start, 3)
    moved, trained, reference = map(nnx.to_pure_dict, (result, params, expected))
    np.testing.assert_allclose(
        moved["layers"][0]["kernel"], reference["layers"][0]["kernel"], rtol=1e-5
    )
    scale = (trained if partly else reference)["layers"][1]["scale"]
    np.testing.assert_allclose(moved["layers"][1]["scale"], scale, rtol=1e-5)
    # And back into the model, for validation or saving.
    nnx.update(model, result)
    np.testing.assert_array_equal(model.layers[0].kernel[...], moved["layers"][0]["kernel"])


def test_result_keeps_the_params_dtype_and_is_jittable():
    params = {"w": jnp.ones(3, jnp.bfloat16), "none": None, "empty": {}}
    solver = tritia.triple_inertia(
        optax.sgd(0.1), predict=0.9, evaluate=0.9, accumulator_dtype="float32"
    )
    state = solver.init(params)
    updates, state = solver.update(params, state, params)
    params = optax.apply_updates(params, updates)
    result = tritia.eval_params(state, params)
    assert result["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(result["w"].astype(jnp.float32), 0.9, rtol=4e-3)
    assert tritia.eval_params(inertia().init({}), {}) == {}


def test_errors():
    params = {"w": jnp.ones(2), "v": jnp.ones(3)}
    solver = inertia()
    state = solver.init(params)
    with pytest.raises(ValueError, match=r"no state of tritia.triple_inertia.*state first"):
        tritia.eval_params(optax.adam(0.1).init(params), params)
    with pytest.raises(ValueError, match=r"eval_params.optimizer.opt_state, nnx.state"):
        tritia.eval_params(params, state)
    with pytest.raises(ValueError, match=r"shape \(3,\) for the leaf params\['v'\].*none"):
        tritia.eval_params(state, {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"params\['w'\]; params has shape \(4,\)"):
        tritia.eval_params(state, {"w": jnp.ones(4), "v": jnp.ones(3)})
    twice = optax.chain(inertia(), inertia())
    with pytest.raises(ValueError, match="two states"):
        tritia.eval_params(twice.init(params), params)
    batch = jax.vmap(lambda _: solver.init(params))(jnp.arange(3))
    with pytest.raises(ValueError, match=r"jax.vmap\(tritia.eval_params\)"):
        tritia.eval_params(batch, params)
