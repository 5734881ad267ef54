"""A small convolutional network and a small transformer, in NNX and Linen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import tritia
import tritia.flax

CLASSES, STEPS = 3, 30
IMAGES = jax.random.normal(jax.random.key(0), (24, 8, 8, 2))
LABELS = jnp.arange(24) % CLASSES
IMAGES = IMAGES + jax.nn.one_hot(LABELS, CLASSES)[:, :2, None, None].reshape(24, 1, 1, 2)


class Convolutional(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.second = nnx.Conv(6, 6, (3, 3), strides=2, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(4 * 4 * 6, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        x = nnx.relu(self.second(x))
        return self.out(self.drop(x.reshape(len(x), -1)))


VOCABULARY, LENGTH, WIDTH = 7, 6, 8
TOKENS = (jnp.arange(8)[:, None] + jnp.arange(LENGTH + 1)) % VOCABULARY


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        mask = nnx.make_causal_mask(jnp.ones(x.shape[:2]))
        x = x + self.attention(self.norm(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(x)))


class Transformer(nnx.Module):
    def __init__(self, rngs, scanned):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((LENGTH, WIDTH)))
        if scanned:
            self.blocks = nnx.split_rngs(splits=2)(nnx.vmap(Block))(rngs)
        else:
            self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.scanned = scanned

    def __call__(self, tokens):
        x = self.embed(tokens) + self.positions[...]
        if self.scanned:
            x = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
                x, self.blocks
            )
        else:
            for block in self.blocks:
                x = block(x)
        return self.embed.attend(x)


def _cross_entropy(logits, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def _image_loss(model):
    return _cross_entropy(model(IMAGES), LABELS)


def _token_loss(model):
    return _cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:])


MODELS = {
    "convolutional": (lambda: Convolutional(nnx.Rngs(0)), _image_loss),
    "transformer": (lambda: Transformer(nnx.Rngs(0), scanned=False), _token_loss),
    "scanned transformer": (lambda: Transformer(nnx.Rngs(0), scanned=True), _token_loss),
}


def _axes(model, loss):
    structure, params, rest = nnx.split(model, nnx.Param, ...)
    return tritia.layer_axes(lambda params, rest: loss(nnx.merge(structure, params, rest)))(
        params, rest
    )


@pytest.mark.parametrize(
    ("input_gram", "name"),
    [
        (True, "convolutional"),
        (False, "transformer"),
        pytest.param(True, "scanned transformer", marks=pytest.mark.slow),
        pytest.param(False, "convolutional", marks=pytest.mark.slow),
        pytest.param(True, "transformer", marks=pytest.mark.slow),
        pytest.param(False, "scanned transformer", marks=pytest.mark.slow),
    ],
)
def test_it_trains(name, input_gram):
    make, loss = MODELS[name]
    model = make()
    rate = optax.cosine_decay_schedule(0.05, STEPS)
    solver = tritia.spectral_momentum(
        rate, weight_decay=0.0, input_gram=input_gram, axes=_axes(model, loss)
    )
    optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        if input_gram:
            recorded = tritia.flax.with_layer_inputs(loss)
            (value, inputs), grads = nnx.value_and_grad(recorded, has_aux=True)(model)
            optimizer.update(model, grads, layer_inputs=inputs)
        else:
            value, grads = nnx.value_and_grad(loss)(model)
            optimizer.update(model, grads)
        return value

    losses = [float(step(model, optimizer)) for _ in range(STEPS)]
    assert losses[-1] < 0.5 * losses[0]
    evaluated = tritia.flax.eval_model(model, optimizer)
    assert float(nnx.jit(loss)(evaluated)) < 0.5 * losses[0]


@pytest.mark.parametrize(
    "name",
    [
        "convolutional",
        pytest.param("transformer", marks=pytest.mark.slow),
        "scanned transformer",
    ],
)
def test_recording_changes_nothing(name):
    """Neither the value nor the gradient, nor running averages, nor the masks of dropout."""
    make, loss = MODELS[name]
    plain, recorded = make(), make()
    value, grads = nnx.jit(nnx.value_and_grad(loss))(plain)
    pair = nnx.jit(nnx.value_and_grad(tritia.flax.with_layer_inputs(loss), has_aux=True))
    (same, _), same_grads = pair(recorded)
    np.testing.assert_allclose(same, value, rtol=1e-5)
    for one, other in ((same_grads, grads), (nnx.state(recorded), nnx.state(plain))):
        one, other = (jax.tree.map(_numbers, state) for state in (one, other))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), one, other
        )


def _numbers(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def test_the_layers_of_a_transformer():
    inputs, stacked = (
        tritia.flax.with_layer_inputs(_token_loss)(Transformer(nnx.Rngs(0), scanned))[1]
        for scanned in (False, True)
    )
    layers = ["attention/key", "attention/out", "attention/query", "attention/value", "down", "up"]
    kernels = [f"blocks/{i}/{layer}/kernel" for i in range(2) for layer in layers]
    assert set(inputs) == {"embed/embedding", *kernels}
    assert set(stacked) == {"embed/embedding", *(f"blocks/{layer}/kernel" for layer in layers)}
    assert stacked["blocks/up/kernel"].gram().shape == (2, WIDTH, WIDTH)
    assert inputs["blocks/0/attention/query/kernel"].axes == tritia.MatrixAxes((0,), (1, 2))
    assert inputs["blocks/0/attention/out/kernel"].axes == tritia.MatrixAxes((0, 1), (2,))
    assert inputs["embed/embedding"].axes == tritia.MatrixAxes((1,), (0,))


def test_auxiliary_results_and_wrong_models():
    def loss(model, x):
        return jnp.mean(model(x)), {"x": x}

    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    value, (aux, inputs) = tritia.flax.with_layer_inputs(loss, has_aux=True)(model, jnp.eye(2))
    np.testing.assert_allclose(value, loss(model, jnp.eye(2))[0])
    assert list(aux) == ["x"]
    np.testing.assert_allclose(inputs["kernel"].gram()[0], jnp.eye(2) / 2)
    with pytest.raises(TypeError, match=r"tritia\.with_layer_inputs"):
        tritia.flax.with_layer_inputs(loss)({"w": 1.0}, jnp.eye(2))


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return x + linen.Dense(WIDTH)(linen.gelu(linen.Dense(2 * WIDTH)(x))), None


class LinenModel(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(VOCABULARY, WIDTH)
        stack = linen.scan(
            linen.remat(LinenBlock), variable_axes={"params": 0}, split_rngs={"params": True},
            length=2,
        )  # fmt: skip
        x, _ = stack()(embed(tokens), None)
        x = linen.MultiHeadDotProductAttention(num_heads=2)(linen.LayerNorm()(x))
        return linen.Dense(VOCABULARY)(x)


def test_linen_with_scanned_and_rematerialised_blocks():
    module, tokens = LinenModel(), TOKENS[:, :-1]
    params = module.init(jax.random.key(0), tokens)["params"]

    def loss(params, tokens, targets):
        return _cross_entropy(module.apply({"params": params}, tokens), targets)

    axes = tritia.layer_axes(loss)(params, tokens, TOKENS[:, 1:])
    solver = tritia.spectral_momentum(
        optax.cosine_decay_schedule(0.05, STEPS), weight_decay=0.0, input_gram=True, axes=axes
    )
    state = TrainState.create(apply_fn=module.apply, params=params, tx=solver)
    recorded = jax.value_and_grad(tritia.with_layer_inputs(loss), has_aux=True)

    @jax.jit
    def step(state):
        (value, inputs), grads = recorded(state.params, tokens, TOKENS[:, 1:])
        return tritia.flax.apply_gradients(state, grads=grads, layer_inputs=inputs), value

    losses = []
    for _ in range(STEPS):
        state, value = step(state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    stacked = [name for name, one in axes.items() if one and one.inputs == (1,) and "Scan" in name]
    assert len(stacked) == 2
