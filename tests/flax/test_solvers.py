"""TIAM on Flax models: what is found in them, what is refused, and that the model is trained."""

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
from tritia.flax import _perceptron

find = functools.partial(_perceptron.find, solver="tiam")

ROWS = 16
X = jax.random.normal(jax.random.key(0), (ROWS, 4))
Y = jnp.arange(ROWS) % 3


class Net(nnx.Module):
    """Layers whose names sort, and are defined, in another order than they are called."""

    def __init__(self, activation=nnx.gelu, sizes=(4, 6, 5, 3), **changes):
        rngs = nnx.Rngs(0)
        self.activation, self.changes = activation, changes
        self.a_last = nnx.Linear(sizes[2], sizes[3], rngs=rngs, use_bias=False)
        self.first = nnx.Linear(sizes[0], sizes[1], rngs=rngs)
        self.b_middle = nnx.Linear(sizes[1], sizes[2], rngs=rngs)
        if changes.get("dropout"):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
        if changes.get("norm"):
            self.norm = nnx.BatchNorm(sizes[1], rngs=rngs)
        if changes.get("conv"):
            self.conv = nnx.Conv(1, 1, (3,), rngs=rngs)

    def __call__(self, x):
        x = self.activation(self.first(x))
        if self.changes.get("dropout"):
            x = self.dropout(x)
        hidden = self.b_middle(x)
        if not self.changes.get("skip"):
            hidden = self.activation(hidden)
        if self.changes.get("residual"):
            hidden = hidden + x
        out = self.a_last(hidden)
        return jax.nn.softmax(out) if self.changes.get("softmax") else out


def sequential(*functions, sizes=(4, 6, 5, 3)):
    rngs = nnx.Rngs(0)
    steps = []
    for i in range(len(sizes) - 1):
        steps.append(nnx.Linear(sizes[i], sizes[i + 1], rngs=rngs))
        if i < len(functions) and functions[i] is not None:
            steps.append(functions[i])
    return nnx.Sequential(*steps)


def names(found):
    return found.layer_order, [activation.name for activation in found.activations]


def test_a_sequential_says_its_activations():
    mixed = sequential(nnx.relu, jnp.tanh)
    assert names(find(mixed)) == (("layers/0", "layers/2", "layers/4"), ["relu", "tanh"])
    written = sequential(lambda x: jnp.maximum(x, 0), None)
    assert names(find(written))[1] == ["relu", "identity"]
    nested = nnx.Sequential(sequential(nnx.elu, jax.nn.silu), lambda x: x)
    assert names(find(nested))[1] == ["elu", "silu"]


def test_a_slope_is_found():
    leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
    (first, second) = find(sequential(leaky, nnx.leaky_relu)).activations
    assert first.value(jnp.float32(-1.0)) == pytest.approx(-0.2)
    assert second.value(jnp.float32(-1.0)) == pytest.approx(-0.01)


EXACT_GELU = functools.partial(nnx.gelu, approximate=False)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nnx.relu, "relu"),
        (nnx.gelu, "gelu"),
        (EXACT_GELU, "gelu_exact"),
        (nnx.sigmoid, "sigmoid"),
    ],
)
def test_other_modules_are_tried_out(activation, expected):
    found = find(Net(activation))
    assert names(found) == (("first", "b_middle", "a_last"), [expected] * 2)


def test_equal_layers_are_taken_in_the_order_of_the_call():
    # By shapes alone, nothing says that first comes before b_middle.
    found = find(Net(nnx.relu, sizes=(4, 4, 4, 4)))
    assert found.layer_order == ("first", "b_middle", "a_last")


def test_degenerate_weights_do_not_hide_the_activation():
    model = Net(nnx.tanh)
    model.a_last.kernel[...] = jnp.zeros_like(model.a_last.kernel[...])
    assert names(find(model))[1] == ["tanh", "tanh"]
    assert not np.any(model.a_last.kernel[...])  # and the model is as it was


def test_linen_modules():
    module = linen.Sequential([linen.Dense(6), linen.relu, linen.Dense(3)])
    params = module.init(jax.random.key(0), X)["params"]
    assert names(find(module, params)) == (("layers_0", "layers_2"), ["relu"])

    class Compact(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.tanh(linen.Dense(6, name="z")(x))
            return linen.Dense(3, name="a")(x)

    params = Compact().init(jax.random.key(0), X)["params"]
    assert names(find(Compact(), params)) == (("z", "a"), ["tanh"])
    with pytest.raises(ValueError, match="Linen module needs its params"):
        find(Compact())


def test_half_precision():
    rngs = nnx.Rngs(0)
    layers = [
        nnx.Linear(4, 6, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=rngs),
        nnx.Linear(6, 3, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=rngs),
    ]
    assert names(find(nnx.Sequential(layers[0], nnx.relu, layers[1])))[1] == ["relu"]

    class Scaled(nnx.Module):
        def __init__(self):
            self.first, self.last = layers

        def __call__(self, x):
            return self.last(nnx.relu(self.first(x))) / 1.2

    with pytest.raises(ValueError, match="does not compute a plain multilayer perceptron"):
        find(Scaled())


def test_rows_of_dead_units_are_compared():
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(i, o, use_bias=False, rngs=rngs) for i, o in ((4, 2), (2, 1))]
    found = find(nnx.Sequential(layers[0], nnx.relu, layers[1]))
    assert names(found)[1] == ["relu"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Net(nnx.relu, (4, 5, 5, 3), residual=True), "residual connection"),
        (lambda: Net(nnx.relu, dropout=True), "dropout.*'dropout'"),
        (lambda: Net(nnx.relu, softmax=True), "softmax at the end"),
        (lambda: Net(nnx.relu, skip=True), "pass activation="),
        (lambda: Net(nnx.relu, norm=True), "'norm' has a bias but no kernel|'norm/scale'"),
        (lambda: Net(nnx.relu, conv=True), "'conv' has a kernel of shape .* a convolution"),
        (lambda: sequential(nnx.relu, jnp.sin), "sin after layer 'layers/2'"),
        (
            lambda: nnx.Sequential(lambda x: x @ jnp.eye(4), nnx.Linear(4, 3, rngs=nnx.Rngs(0))),
            "a lambda before layer",
        ),
        (lambda: sequential(nnx.relu, nnx.relu, nnx.softmax), "softmax after layer 'layers/4'"),
        (lambda: nnx.Sequential(jnp.tanh, sequential(nnx.relu, nnx.relu)), "tanh before layer"),
        (lambda: nnx.Sequential(nnx.relu), "no layers"),
        (lambda: nnx.Embed(4, 4, rngs=nnx.Rngs(0)), "'embedding'.*not the `kernel`"),
    ],
)
def test_other_models_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        tritia.flax.tiam(model(), ROWS)


def test_an_idle_layer_is_named():
    class Idle(nnx.Module):
        def __init__(self):
            self.used = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
            self.spare = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="layer 'spare' of Idle is not used"):
        tritia.flax.tiam(Idle(), ROWS)


def test_a_model_that_takes_more_than_inputs():
    class Needs(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, x, train):
            return self.layer(x)

    with pytest.raises(ValueError, match=r"Needs can't be called as model\(inputs\).*'train'"):
        tritia.flax.tiam(Needs(), ROWS)


def test_what_the_user_says_is_checked():
    with pytest.raises(ValueError, match=r"does not compute .* \['tanh', 'tanh'\]"):
        tritia.flax.tiam(Net(nnx.relu), ROWS, activation="tanh")
    with pytest.raises(ValueError, match=r"lists 1 activations, but params has 3 layers.*needs 2"):
        tritia.flax.tiam(Net(nnx.relu), ROWS, activation=["relu"])
    with pytest.raises(ValueError, match="layer_order"):
        tritia.flax.tiam(Net(nnx.relu), ROWS, layer_order=["first"])
    with pytest.raises(TypeError, match="NNX or a Linen module"):
        tritia.flax.tiam({"kernel": jnp.ones((4, 3))}, ROWS)
    found = find(Net(nnx.relu, skip=True), activation=["relu", "identity"])
    assert [activation.name for activation in found.activations] == ["relu", "identity"]


def by_hand(activation, order, params, steps):
    solver = tritia.tiam(ROWS, activation=activation, layer_order=order)
    step = jax.jit(lambda p, s: solver.update(None, s, p, inputs=X, targets=Y))
    state = solver.init(params)
    for _ in range(steps):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    return params


def test_an_nnx_model_is_trained():
    model = Net(nnx.tanh)
    start = jax.tree.map(jnp.copy, nnx.as_pure(nnx.state(model, nnx.Param)))
    optimizer = nnx.Optimizer(model, tritia.flax.tiam(model, ROWS), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        optimizer.update(model, None, inputs=x, targets=y)

    for _ in range(3):
        step(model, optimizer, X, Y)
    expected = by_hand("tanh", ("first", "b_middle", "a_last"), start, 3)
    chex.assert_trees_all_close(
        nnx.as_pure(nnx.state(model, nnx.Param)), expected, rtol=1e-3, atol=1e-4
    )
    report = tritia.tiam_diagnostics(optimizer.opt_state)  # arrays, not the optimizer's variables
    assert all(
        isinstance(field, jax.Array) for field in [*report[:3], *report.rejected, *report[4:7]]
    )
    assert report[7:] == ((), ())  # of a restart, which it does not make
    assert bool(report.finite)
    chex.assert_trees_all_equal(report, tritia.tiam_diagnostics(nnx.as_pure(optimizer.opt_state)))


def test_a_linen_train_state_is_trained():
    module = linen.Sequential([linen.Dense(6), linen.relu, linen.Dense(3)])
    params = module.init(jax.random.key(0), X)["params"]
    solver = tritia.flax.tiam(module, ROWS, params=params)
    state = TrainState.create(apply_fn=module.apply, params=params, tx=solver)
    step = jax.jit(lambda state, x, y: tritia.flax.apply_gradients(state, inputs=x, targets=y))
    for _ in range(3):
        state = step(state, X, Y)
    expected = by_hand("relu", ("layers_0", "layers_2"), params, 3)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-3, atol=1e-4)


def test_minibatches_train_the_layers_that_are_found():
    model = Net(nnx.tanh)
    start = nnx.as_pure(nnx.state(model, nnx.Param))
    found = tritia.flax.stochastic_tiam(model, 0.1, damping=1.0)
    optimizer = nnx.Optimizer(model, found, wrt=nnx.Param)
    solver = tritia.stochastic_tiam(
        0.1, damping=1.0, activation="tanh", layer_order=("first", "b_middle", "a_last")
    )
    updates, _ = jax.jit(solver.update)(
        None, solver.init(start), start, inputs=X[:8], targets=Y[:8]
    )

    @nnx.jit
    def step(model, optimizer, x, y):
        optimizer.update(model, None, inputs=x, targets=y)

    step(model, optimizer, X[:8], Y[:8])
    chex.assert_trees_all_close(
        nnx.as_pure(nnx.state(model, nnx.Param)),
        optax.apply_updates(start, updates),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="learning_rate"):
        tritia.flax.stochastic_tiam(model, -0.1)


def test_settings_may_be_traced():
    model = sequential(nnx.relu, sizes=(4, 5, 3))
    params = nnx.as_pure(nnx.state(model, nnx.Param))

    def first_step(rho):
        solver = tritia.flax.tiam(model, ROWS, rho=rho, method=tritia.bcd)
        return solver.update(None, solver.init(params), params, inputs=X, targets=Y)[0]

    traced = jax.jit(first_step)
    small, large = traced(1e-3), traced(1e-1)
    chex.assert_trees_all_close(large, jax.jit(lambda: first_step(1e-1))(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(jax.tree.leaves(small)[0], jax.tree.leaves(large)[0], rtol=1e-2)


def test_an_ensemble_is_made_and_trained_inside_of_nnx_vmap():
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        rngs = nnx.Rngs(key)
        return nnx.Sequential(nnx.Linear(4, 5, rngs=rngs), nnx.relu, nnx.Linear(5, 3, rngs=rngs))

    def update(model, x, y):
        solver = tritia.flax.stochastic_tiam(model, 0.03)
        nnx.Optimizer(model, solver, wrt=nnx.Param).update(model, None, inputs=x, targets=y)

    models = make(jax.random.split(jax.random.key(0), 2))
    structure, stacked = nnx.split(models)
    stacked = jax.tree.map(jnp.copy, stacked)  # what follows changes the variables
    nnx.jit(nnx.vmap(update, in_axes=(0, None, None)))(models, X, Y)
    update_one = nnx.jit(update)
    for i in range(2):
        alone = nnx.merge(structure, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        update_one(alone, X, Y)
        member = jax.tree.map(lambda leaf, i=i: leaf[i], nnx.state(models))
        chex.assert_trees_all_close(
            jax.tree.leaves(member), jax.tree.leaves(nnx.state(alone)), rtol=1e-4, atol=1e-6
        )
