"""Finding layers in a pytree: Flax's own, plain ones, and those that are refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from tritia.alternating import _network
from tritia.alternating._network import layers_of, like_params

find_layers = functools.partial(_network.find_layers, solver="tiam")


def dense(*sizes, bias=True):
    return [
        {"kernel": jnp.full((i, o), float(index)), **({"bias": jnp.zeros(o)} if bias else {})}
        for index, (i, o) in enumerate(itertools.pairwise(sizes))
    ]


def test_lists_are_taken_in_natural_order():
    network = find_layers({"layers": {str(i): layer for i, layer in enumerate(dense(*[3] * 13))}})
    assert network.names == tuple(f"layers/{i}" for i in range(12))
    assert network.sizes == (3,) * 13
    kernels, _ = layers_of(
        network, {"layers": {str(i): x for i, x in enumerate(dense(*[3] * 13))}}, jnp.float32
    )
    assert [float(kernel[0, 0]) for kernel in kernels] == list(range(12))


def test_linen():
    class MLP(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Dense(5)(x))
            return linen.Dense(2)(x)

    params = MLP().init(jax.random.key(0), jnp.ones((1, 4)))
    for tree in (params, params["params"]):
        network = find_layers(tree)
        assert [name.split("/")[-1] for name in network.names] == ["Dense_0", "Dense_1"]
        assert network.sizes == (4, 5, 2)


def test_nnx():
    class MLP(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)])
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

    params = nnx.state(MLP(nnx.Rngs(0)), nnx.Param)
    network = find_layers(params)
    assert network.names == ("layers/0", "layers/1")
    assert network.sizes == (4, 5, 2)
    kernels, biases = layers_of(network, params, jnp.float32)
    again = like_params(network, params, [2 * kernel for kernel in kernels], biases)
    assert isinstance(again, type(params))
    np.testing.assert_array_equal(
        again["layers"][1]["kernel"].get_value(), 2 * params["layers"][1]["kernel"].get_value()
    )


def test_a_missing_bias_and_one_layer_are_allowed():
    network = find_layers(dense(4, 3, 2, bias=False))
    assert network.biases == (None, None)
    assert find_layers({"kernel": jnp.ones((4, 3))}).sizes == (4, 3)


def test_layer_order():
    encoder, decoder = dense(4, 3, 4)
    params = {"encoder": encoder, "decoder": decoder}
    assert find_layers(params, ("encoder", "decoder")).names == ("encoder", "decoder")
    # decoder sorts before encoder, and the shapes fit both ways: only the user can know
    assert find_layers(params).names == ("decoder", "encoder")
    with pytest.raises(ValueError, match=r"layer_order is \['encoder'\].*\['decoder', 'encoder'\]"):
        find_layers(params, ("encoder",))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"Conv_0": {"kernel": jnp.ones((3, 3, 1, 8)), "bias": jnp.ones(8)}},
            r"layer 'Conv_0' has a kernel of shape \(3, 3, 1, 8\), which is that of a convolution",
        ),
        (
            {"Dense_0": dense(3, 4)[0], "LayerNorm_0": {"scale": jnp.ones(4)}},
            r"'LayerNorm_0/scale' of shape \(4,\).*without normalisation",
        ),
        (
            {"layers": [dense(3, 4)[0], dense(5, 2)[0]]},
            r"layer 'layers/0' has 4 outputs \(kernel of shape \(3, 4\)\), but layer 'layers/1',"
            r" which follows it, has a kernel of shape \(5, 2\).*layer_order=",
        ),
        ({"a": {"bias": jnp.ones(3)}}, "layer 'a' has a bias but no kernel"),
        (
            {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)}},
            r"kernel of shape \(2, 3\) and a bias of shape \(2,\); the bias must have shape \(3,\)",
        ),
        (
            {"a": {"kernel": jnp.ones(3)}},
            r"kernel of shape \(3,\), which is not that of a dense layer",
        ),
        ({}, "params has no layers"),
    ],
)
def test_params_of_other_layers_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        find_layers(params)


def test_complex_params_are_refused():
    with pytest.raises(TypeError, match=r"layer 'a' has a kernel of dtype complex64"):
        find_layers({"a": {"kernel": jnp.ones((2, 3), jnp.complex64)}})
