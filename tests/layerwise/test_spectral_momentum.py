"""The layer-wise optimizer: its parts, what it does to each kind of leaf, and where it runs."""

import chex
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia.layerwise import is_matrix

X = jax.random.normal(jax.random.key(0), (16, 5))
Y = jax.random.normal(jax.random.key(1), (16, 3))
PARAMS = {
    "a": {"kernel": jax.random.normal(jax.random.key(2), (5, 8)), "bias": jnp.zeros(8)},
    "b": {"kernel": jax.random.normal(jax.random.key(3), (8, 3)), "bias": jnp.zeros(3)},
}


def _loss(params, x, y):
    hidden = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"])
    return jnp.mean((hidden @ params["b"]["kernel"] + params["b"]["bias"] - y) ** 2)


RECORDED = jax.value_and_grad(tritia.with_layer_inputs(_loss), has_aux=True)


def _step(solver, params, state, scale=1.0):
    (_, inputs), grads = RECORDED(params, X, Y)
    grads = jax.tree.map(lambda g: scale * g, grads)
    updates, state = solver.update(grads, state, params, layer_inputs=inputs)
    return optax.apply_updates(params, updates), state


def _train(solver, params=PARAMS, steps=5, **settings):
    state = solver.init(params)
    step = jax.jit(lambda params, state: _step(solver, params, state, **settings))
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def _same_leaves(tree, other):
    """The same numbers, whatever the states are called."""
    chex.assert_trees_all_close(*map(jax.tree.leaves, (tree, other)))


def test_it_is_the_chain_that_its_docstring_shows():
    rate = optax.cosine_decay_schedule(0.1, 5)
    chain = optax.chain(
        tritia.partition_matrices(
            optax.chain(
                tritia.scale_by_input_gram(),
                optax.trace(0.9),
                tritia.scale_by_spectral_clipping(2),
                optax.add_decayed_weights(0.3),
                optax.scale_by_learning_rate(rate),
            ),
            optax.adam(rate),
        ),
        tritia.polyak_average(),
    )
    _same_leaves(_train(tritia.spectral_momentum(rate, rank=2, input_gram=True)), _train(chain))


def test_the_first_step_is_of_the_size_that_it_says():
    solver = tritia.spectral_momentum(0.1, weight_decay=0.0, input_gram=True)
    after, _ = _train(solver, steps=1)
    for name, shorter in (("a", 5), ("b", 3)):
        step = after[name]["kernel"] - PARAMS[name]["kernel"]
        np.testing.assert_allclose(jnp.linalg.norm(step), 0.1 * np.sqrt(shorter), rtol=1e-4)


def test_weight_decay_is_decoupled_and_of_kernels_alone():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2), "embedding": jnp.ones((4, 2))}
    solver = tritia.spectral_momentum(0.1, weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(solver.update)(zero, solver.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    assert not jnp.any(updates["bias"])
    assert not jnp.any(updates["embedding"])


def test_the_scale_of_the_loss_does_not_matter():
    solver = tritia.spectral_momentum(0.1, input_gram=True)
    chex.assert_trees_all_close(
        _train(solver)[0], _train(solver, scale=1000.0)[0], rtol=1e-3, atol=1e-4
    )


def test_injected_hyperparameters():
    static = ("input_gram", "nesterov", "newton_schulz_steps", "rank")
    injected = optax.inject_hyperparams(tritia.spectral_momentum, static_args=static)
    plain = tritia.spectral_momentum(0.1, input_gram=True)
    chex.assert_trees_all_close(
        _train(injected(0.1, input_gram=True))[0], _train(plain)[0], rtol=1e-5
    )
    with pytest.raises(
        TypeError, match=r"newton_schulz_steps.*rank.*static|rank.*newton_schulz_steps.*static"
    ):
        optax.inject_hyperparams(tritia.spectral_momentum)(0.1).init(PARAMS)


def test_newton_schulz_steps_follow_the_clipping():
    chain = optax.chain(
        tritia.partition_matrices(
            optax.chain(
                optax.trace(0.9, nesterov=True),
                tritia.scale_by_spectral_clipping(2),
                tritia.scale_by_newton_schulz(3),
                optax.add_decayed_weights(0.3),
                optax.scale_by_learning_rate(0.1),
            ),
            optax.adam(0.1),
        ),
        tritia.polyak_average(),
    )
    solver = tritia.spectral_momentum(0.1, rank=2, nesterov=True, newton_schulz_steps=3)
    _same_leaves(_train(solver), _train(chain))


def test_multi_steps_hands_the_inputs_on():
    solver = tritia.spectral_momentum(0.1, input_gram=True)
    twice, _ = _train(optax.MultiSteps(solver, every_k_schedule=2), steps=2)
    chex.assert_trees_all_close(twice, _train(solver, steps=1)[0], rtol=1e-5)


def test_sweeps_and_scans():
    def train(rate):
        solver = tritia.spectral_momentum(rate, input_gram=True)

        def body(carry, _):
            return _step(solver, *carry), None

        return jax.lax.scan(body, (PARAMS, solver.init(PARAMS)), length=5)[0][0]

    together = jax.jit(jax.vmap(train))(jnp.array([0.05, 0.1]))
    for i, rate in enumerate((0.05, 0.1)):
        alone, _ = _train(tritia.spectral_momentum(rate, input_gram=True))
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=1e-3, atol=1e-4
        )


def test_rows_over_devices_and_half_precision():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    solver = tritia.spectral_momentum(0.1, input_gram=True)
    x, y = jax.device_put((X, Y), spread)

    def mixed(params, x, y):  # float32 params, bfloat16 products
        half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
        return _loss(half, x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)).astype(jnp.float32)

    @jax.jit
    def step(params, state, x, y):
        recorded = jax.value_and_grad(tritia.with_layer_inputs(mixed), has_aux=True)
        (_, inputs), grads = recorded(params, x, y)
        updates, state = solver.update(grads, state, params, layer_inputs=inputs)
        return optax.apply_updates(params, updates), state

    spread_out, state = step(PARAMS, solver.init(PARAMS), x, y)
    alone, _ = step(PARAMS, solver.init(PARAMS), X, Y)
    chex.assert_trees_all_close(jax.device_get(spread_out), jax.device_get(alone), atol=2e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(spread_out)} == {jnp.dtype("float32")}
    chex.assert_tree_all_finite(state)


def test_an_equinox_model_trains():
    model = eqx.nn.MLP(5, 3, 8, depth=1, key=jax.random.key(0))

    def loss(model, x, y):
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    solver = tritia.spectral_momentum(
        optax.cosine_decay_schedule(0.1, 60),
        weight_decay=0.0,
        input_gram=True,
        axes=tritia.layer_axes(loss)(model, X, Y),
    )
    state = solver.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        recorded = eqx.filter_value_and_grad(tritia.with_layer_inputs(loss), has_aux=True)
        (value, inputs), grads = recorded(model, X, Y)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = solver.update(grads, state, params, layer_inputs=inputs)
        return eqx.apply_updates(model, updates), state, value

    values = []
    for _ in range(60):
        model, state, value = step(model, state)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]


def _haiku_model(tokens):
    """An embedding, a stack of layers, a convolution over places, and a perceptron."""
    x = hk.Embed(9, 6)(tokens)
    x = hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)
    x = hk.experimental.layer_stack(2)(lambda x: x + jnp.tanh(hk.Linear(6)(x)))(x)
    x = hk.Conv1D(5, 3)(x)
    return hk.nets.MLP([8, 3])(x.mean(1))


def test_a_haiku_model_trains():
    """Its params are a dict of modules with slashes in their names, kernels w and biases b."""
    tokens = jnp.arange(24).reshape(6, 4) % 9
    targets = jax.nn.one_hot(jnp.arange(6) % 3, 3)
    model = hk.without_apply_rng(hk.transform(_haiku_model))
    params = model.init(jax.random.key(0), tokens)

    def loss(params):
        return jnp.mean((model.apply(params, tokens) - targets) ** 2)

    axes = tritia.layer_axes(loss)(params)
    stacked = "__layer_stack_no_per_layer/linear/w"
    kernels = {stacked, "conv1_d/w", "mlp/~/linear_0/w", "mlp/~/linear_1/w"}
    assert {name for name, one in axes.items() if one is not None} == kernels
    assert axes[stacked] == tritia.MatrixAxes((1,), (2,))
    assert {name for name in axes if is_matrix(name, jnp.ones((2, 2)))} == kernels
    rate = optax.cosine_decay_schedule(0.1, 40)
    solver = tritia.spectral_momentum(rate, weight_decay=0.0, input_gram=True, axes=axes)

    @jax.jit
    def step(params, state):
        recorded = jax.value_and_grad(tritia.with_layer_inputs(loss), has_aux=True)
        (value, inputs), grads = recorded(params)
        updates, state = solver.update(grads, state, params, layer_inputs=inputs)
        return optax.apply_updates(params, updates), state, value

    state = solver.init(params)
    parts = state.parts.matrices.inner_state[1].trace, state.parts.others.inner_state[0].mu
    of_matrices, of_others = (
        {
            f"{module}/{name}"
            for module, leaves in tree.items()
            for name, leaf in leaves.items()
            if not isinstance(leaf, optax.MaskedNode)
        }
        for tree in parts
    )
    assert of_matrices == kernels
    assert of_others == set(axes) - kernels
    values = []
    for _ in range(40):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.2 * values[0]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("layers/0/kernel", (3, 2), True),
        ("conv/kernel", (3, 3, 2, 4), True),
        ("mlp/layers/0/weight", (3, 2), True),
        ("linear/w", (3, 2), True),
        ("mlp/~/linear_0/w", (3, 2), True),  # Haiku's names
        ("conv2_d/w", (3, 3, 2, 4), True),
        ("__layer_stack_no_per_layer/linear/b", (5, 2), False),
        ("layer_norm/offset", (5, 2), False),
        ("embed/embeddings", (9, 3), False),
        ("kernel", (3,), False),
        ("blocks/norm/scale", (2, 3), False),
        ("blocks/linear/bias", (2, 3), False),
        ("embed/embedding", (9, 3), False),
        ("token_Embedding/weight", (9, 3), False),
    ],
)
def test_what_counts_as_a_matrix(name, shape, expected):
    assert is_matrix(name, jnp.ones(shape)) is expected


def test_is_matrix_can_be_replaced():
    params = {"first": jnp.ones((3, 2)), "second": jnp.ones((3, 2))}
    solver = tritia.partition_matrices(
        optax.sgd(1.0), optax.sgd(0.1), is_matrix=lambda name, leaf: name == "first"
    )
    updates, _ = solver.update(params, solver.init(params), params)
    assert float(updates["first"][0, 0]) == -1.0
    np.testing.assert_allclose(updates["second"], -0.1)


def test_it_refuses_what_is_no_optimizer():
    with pytest.raises(TypeError, match="others"):
        tritia.spectral_momentum(0.1, others=0.1)
    for arguments, name in (
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"rank": -1}, "rank"),
        ({"newton_schulz_steps": -1}, "newton_schulz_steps"),
    ):
        with pytest.raises(ValueError, match=name):
            tritia.spectral_momentum(**arguments)


def test_without_inputs_it_says_what_to_call():
    solver = tritia.spectral_momentum(0.1, input_gram=True)
    with pytest.raises(ValueError, match=r"update\(.*layer_inputs=inputs\).*with_layer_inputs"):
        solver.update(PARAMS, solver.init(PARAMS), PARAMS)


@pytest.mark.parametrize("untouched", [None, np.zeros(3, jax.dtypes.float0)])
def test_leaves_that_are_not_trained_are_left_alone(untouched):
    """Adam, which gets the vectors, would raise a float0 to a power."""
    params = {"kernel": jnp.ones((2, 3)), "table": jnp.arange(3)}
    solver = tritia.spectral_momentum(0.1)
    grads = {"kernel": jnp.ones((2, 3)), "table": untouched}
    updates, _ = solver.update(grads, solver.init(params), params)
    assert updates["table"] is untouched
    assert float(jnp.max(updates["kernel"])) < 0
    with pytest.raises(TypeError, match=r"params\['table'\] is of dtype int32"):
        solver.update(params, solver.init(params), params)


def test_params_of_integers_alone_are_refused_by_name():
    params = {"kernel": jnp.ones((2, 3), int)}
    solver = tritia.scale_by_input_gram()
    with pytest.raises(TypeError, match=r"params\['kernel'\] is of dtype int32"):
        solver.update(params, solver.init(params), params, layer_inputs={})
