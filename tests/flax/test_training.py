"""Real Flax models under the library's transforms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import tritia
import tritia.flax

ROWS = 12


class ConvolutionalNet(nnx.Module):
    """A convolution, batch normalisation, dropout and a dense layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.dense = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2))
        return self.dense(self.dropout(x))


class TransformerBlock(nnx.Module):
    """One layer of attention and a feed-forward layer, each normalised, with residuals."""

    def __init__(self, rngs):
        self.attention_norm = nnx.LayerNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=4, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.up = nnx.Linear(4, 8, rngs=rngs)
        self.down = nnx.Linear(8, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.attention_norm(x))
        x = x + self.down(nnx.gelu(self.up(self.norm(x))))
        return self.head(x.mean(axis=1))


def mlp(rngs):
    return nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.tanh, nnx.Linear(6, 2, rngs=rngs))


MODELS = {
    "mlp": (mlp, (ROWS, 4)),
    "cnn": (ConvolutionalNet, (ROWS, 5, 5, 1)),
    "transformer": (TransformerBlock, (ROWS, 3, 4)),
}
SOLVERS = {
    "multistep": lambda: tritia.difference(0.1),
    # The gradient of the keys' bias is 0 but for rounding: no small eps may blow it up.
    "inertia": lambda: tritia.triple_inertia(
        optax.adam(0.01, eps=1e-4), predict=0.5, evaluate=0.5, correct=0.1
    ),
    "transparent": lambda: tritia.heun(0.1, mode="transparent"),
}


def examples(shape):
    x = jax.random.normal(jax.random.key(1), shape)
    return x, (x.reshape(ROWS, -1)[:, 0] > 0).astype(jnp.int32)


def loss_of(model, x, y):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(x), y))


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        *(("mlp", solver) for solver in SOLVERS),
        ("cnn", "multistep"),
        ("transformer", "inertia"),
        pytest.param("cnn", "inertia", marks=pytest.mark.slow),
        pytest.param("transformer", "multistep", marks=pytest.mark.slow),
    ],
)
def test_nnx_models_train_as_they_are(name, solver):
    build, shape = MODELS[name]
    model = build(nnx.Rngs(0))
    x, y = examples(shape)
    optimizer = nnx.Optimizer(model, SOLVERS[solver](), wrt=nnx.Param)

    # The same by hand, on params as a pure tree.
    structure, params, rest = nnx.split(build(nnx.Rngs(0)), nnx.Param, ...)
    params, rest, transform = nnx.as_pure(params), nnx.as_pure(rest), SOLVERS[solver]()
    state = transform.init(params)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(loss_of)(model, x, y)
        optimizer.update(model, grads)
        return value

    @jax.jit
    def step_by_hand(params, rest, state):
        def loss(params):
            merged = nnx.merge(structure, params, nnx.as_pure(rest))
            return loss_of(merged, x, y), nnx.as_pure(nnx.split(merged, nnx.Param, ...)[2])

        grads, rest = jax.grad(loss, has_aux=True)(params)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), rest, state

    values = []
    for _ in range(8):
        values.append(float(step(model, optimizer)))
        params, rest, state = step_by_hand(params, rest, state)
    chex.assert_trees_all_close(
        nnx.as_pure(nnx.state(model, nnx.Param)), params, rtol=1e-4, atol=1e-5
    )
    assert values[-1] < values[0]
    if name == "cnn":
        assert np.max(np.abs(model.norm.mean[...])) > 0  # the running average moved as well


@pytest.mark.parametrize("solver", SOLVERS)
def test_linen_train_state_trains_as_it_is(solver):
    module = linen.Sequential([linen.Dense(6), linen.tanh, linen.Dense(2)])
    x, y = examples((ROWS, 4))
    params = module.init(jax.random.key(0), x)["params"]
    transform = SOLVERS[solver]()
    state = TrainState.create(apply_fn=module.apply, params=params, tx=transform)
    by_hand = transform.init(params)

    def loss(params):
        outputs = module.apply({"params": params}, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, y))

    @jax.jit
    def both(state, params, by_hand):
        state = state.apply_gradients(grads=jax.grad(loss)(state.params))
        updates, by_hand = transform.update(jax.grad(loss)(params), by_hand, params)
        return state, optax.apply_updates(params, updates), by_hand

    before = loss(params)
    for _ in range(8):
        state, params, by_hand = both(state, params, by_hand)
    chex.assert_trees_all_close(state.params, params, rtol=1e-5)
    assert loss(state.params) < before


@pytest.mark.parametrize("has_aux", [False, True])
def test_grad_fn_takes_the_classical_step(has_aux):
    x, y = examples((ROWS, 4))
    model = mlp(nnx.Rngs(0))
    structure, params = nnx.split(mlp(nnx.Rngs(0)))
    optimizer = nnx.Optimizer(model, tritia.rk4(0.5), wrt=nnx.Param)

    def loss(model, x, y):
        value = loss_of(model, x, y)
        return (value, "aux") if has_aux else value

    @nnx.jit
    def step(model, optimizer, x, y):
        grad_fn = tritia.flax.grad_fn(model, loss, x, y, has_aux=has_aux)
        grads = nnx.grad(loss_of)(model, x, y)
        optimizer.update(model, grads, grad_fn=grad_fn)

    step(model, optimizer, x, y)

    w, unravel = jax.flatten_util.ravel_pytree(nnx.as_pure(params))
    slope = jax.jit(
        lambda w: -jax.grad(lambda w: loss_of(nnx.merge(structure, unravel(w)), x, y))(w)
    )
    k1 = slope(w)
    k2 = slope(w + 0.25 * k1)
    k3 = slope(w + 0.25 * k2)
    k4 = slope(w + 0.5 * k3)
    expected = unravel(w + 0.5 / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    chex.assert_trees_all_close(nnx.as_pure(nnx.state(model)), expected, rtol=1e-5, atol=1e-6)


def test_stages_see_one_dropout_mask_and_leave_the_running_averages_alone():
    x, y = examples((ROWS, 5, 5, 1))
    model = ConvolutionalNet(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Not(nnx.Param)))
    grad_fn = tritia.flax.grad_fn(model, loss_of, x, y)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    first = jax.jit(grad_fn)(params)
    chex.assert_trees_all_equal(nnx.state(model, nnx.Not(nnx.Param)), before)
    # The first gradient, taken afterwards, sees that mask too; the next one another.
    grads = [nnx.as_pure(nnx.grad(loss_of)(model, x, y)) for _ in range(2)]
    chex.assert_trees_all_close(grads[0], first, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(jax.jit(lambda params: grad_fn(params))(params), first)
    assert not np.allclose(grads[1]["dense"]["kernel"], grads[0]["dense"]["kernel"])


def test_grad_fn_refuses_what_is_no_nnx_module():
    with pytest.raises(TypeError, match=r"NNX module.*Got Dense"):
        tritia.flax.grad_fn(linen.Dense(2), loss_of)
    with pytest.raises(TypeError, match="loss must be a function"):
        tritia.flax.grad_fn(mlp(nnx.Rngs(0)), 3.0)


@pytest.mark.parametrize("given", ["optimizer", "state"])
def test_eval_model_holds_the_iterate(given):
    x, y = examples((ROWS, 5, 5, 1))
    model = ConvolutionalNet(nnx.Rngs(0))
    solver = tritia.triple_inertia(optax.sgd(0.1), predict=0.8, evaluate=0.8)
    optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)

    @functools.partial(nnx.jit, donate_argnums=(0, 1))
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss_of)(model, x, y))

    for _ in range(3):
        step(model, optimizer)
    trained = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    evaluated = tritia.flax.eval_model(
        model, optimizer if given == "optimizer" else optimizer.opt_state
    )
    # e = u + p_2 d, and d is the solver's memory.
    displacement = nnx.as_pure(optimizer.opt_state.displacement)
    expected = jax.tree.map(lambda e, d: e - 0.8 * d, nnx.as_pure(trained), displacement)
    got = nnx.as_pure(nnx.state(evaluated, nnx.Param))
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(got["dense"]["kernel"], trained["dense"]["kernel"][...])
    chex.assert_trees_all_equal(nnx.state(model, nnx.Param), trained)  # the model stays as it was
    np.testing.assert_array_equal(evaluated.norm.mean[...], model.norm.mean[...])
    evaluated.eval()
    assert not model.dropout.deterministic
    step(model, optimizer)  # gives the model's buffers away, and the copy lives on
    assert np.all(np.isfinite(evaluated(x)))


def test_eval_model_refuses_other_optimizers():
    model = mlp(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    with pytest.raises(ValueError, match=r"no state of tritia\.triple_inertia"):
        tritia.flax.eval_model(model, optimizer)
    with pytest.raises(TypeError, match="model must be an NNX module"):
        tritia.flax.eval_model(linen.Dense(2), optimizer)


def test_apply_gradients_passes_extra_arguments_on():
    module = linen.Dense(2)
    x = jax.random.normal(jax.random.key(1), (ROWS, 4))
    params = module.init(jax.random.key(0), x)["params"]
    transform = tritia.midpoint(0.2)
    state = TrainState.create(apply_fn=module.apply, params=params, tx=transform)
    gradient = jax.grad(lambda p: jnp.sum(jnp.cosh(module.apply({"params": p}, x))))
    got = tritia.flax.apply_gradients(state, grads=gradient(params), grad_fn=gradient)
    updates, _ = transform.update(
        gradient(params), transform.init(params), params, grad_fn=gradient
    )
    chex.assert_trees_all_close(got.params, optax.apply_updates(params, updates), rtol=1e-6)
    assert int(got.step) == 1
    # It is TrainState's own step where nothing is passed.
    state = TrainState.create(apply_fn=module.apply, params=params, tx=tritia.difference(0.1))
    # A field of the state is replaced, as Flax's own method does it.
    fields = {"grad_fn": gradient, "apply_fn": print}
    assert tritia.flax.apply_gradients(state, grads=gradient(params), **fields).apply_fn is print
    ours = tritia.flax.apply_gradients(state, grads=gradient(params))
    theirs = state.apply_gradients(grads=gradient(params))
    chex.assert_trees_all_equal((ours.step, ours.params), (theirs.step, theirs.params))


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: tx.gradient_transformation()])
def test_multi_steps_passes_extra_arguments_on(wrap):
    """`optax.with_extra_args_support` drops them: it is not a GradientTransformationExtraArgs."""
    module = linen.Dense(2)
    x, y = jnp.eye(4), jnp.ones((4, 2))
    params = module.init(jax.random.key(0), x)["params"]

    def loss(params):
        return jnp.mean((module.apply({"params": params}, x) - y) ** 2)

    def trained(tx, steps):
        state = TrainState.create(apply_fn=module.apply, params=params, tx=tx)
        for _ in range(steps):
            grads = jax.grad(loss)(state.params)
            state = tritia.flax.apply_gradients(state, grads=grads, grad_fn=jax.grad(loss))
        return state.params

    twice = trained(wrap(optax.MultiSteps(tritia.rk4(0.1), 2)), 2)
    chex.assert_trees_all_close(twice, trained(tritia.rk4(0.1), 1), rtol=1e-6)


def test_an_inner_multi_steps_is_given_extra_arguments():
    seen = []

    def update(updates, state, params=None, *, mark=None, **extra):
        seen.append(mark)
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    inner = optax.MultiSteps(spy, 1).gradient_transformation()
    solver = tritia.triple_inertia(inner, predict=0.5)
    params = jnp.ones(2)
    solver.update(params, solver.init(params), params, mark="here")
    assert set(seen) == {"here"}


def test_a_collection_that_is_overwritten_with_its_gradient():
    """As in `TrainState.apply_gradients`, whose FP8 scales are no slopes."""
    params = {"params": {"w": jnp.ones(2)}, "_overwrite_with_gradient": {"scale": jnp.ones(3)}}
    grads = {
        "params": {"w": jnp.ones(2)},
        "_overwrite_with_gradient": {"scale": jnp.full(3, 7.0)},
    }
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
    ours = tritia.flax.apply_gradients(state, grads=grads)
    chex.assert_trees_all_equal(ours, state.apply_gradients(grads=grads))
