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


def test_stacked_layers_are_layers_like_others():
    params = {
        "first": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)},
        "middle": {"kernel": jnp.arange(32.0).reshape(2, 4, 4), "bias": jnp.zeros((2, 4))},
        "output": {"kernel": jnp.ones((4, 1))},
    }
    network = find_layers(params)
    assert network.names == ("first", "middle[0]", "middle[1]", "output")
    assert network.sizes == (3, 4, 4, 4, 1)
    assert len(network.kernel_leaves) == 3
    kernels, biases = layers_of(network, params, jnp.float32)
    np.testing.assert_array_equal(kernels[2], params["middle"]["kernel"][1])
    again = like_params(network, params, [2 * kernel for kernel in kernels], biases)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)  # the biases are 0
    jax.tree.map(np.testing.assert_array_equal, again, doubled)


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
    with pytest.raises(ValueError, match=r"layer_order is \['encoder'\].*\['decoder', 'encoder'\]"):
        find_layers(params, ("encoder",))


def test_an_order_that_is_not_known_is_asked_for():
    """Taken in alphabetical order, `hidden` came before `input`."""
    encoder, decoder = dense(4, 3, 4)
    with pytest.raises(ValueError, match=r"more than one order.*pass layer_order="):
        find_layers({"encoder": encoder, "decoder": decoder})
    square = dense(4, 4, 4, 4)
    with pytest.raises(ValueError, match=r"\['hidden', 'input', 'output'\]"):
        find_layers(dict(zip(("input", "hidden", "output"), square, strict=True)))
    with pytest.raises(ValueError, match="pass layer_order="):
        find_layers({"hidden_0": square[0], "hidden_1": square[1], "output": square[2]})


def test_an_order_that_numbers_or_shapes_decide_is_taken():
    first, second, third, last = dense(5, 4, 4, 4, 2)
    numbered = {"hidden_10": third, "hidden_2": second, "hidden_1": first, "output": last}
    assert find_layers(numbered).names == ("hidden_1", "hidden_2", "hidden_10", "output")
    assert find_layers({"a": first, "b": last}).names == ("a", "b")


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
        (
            {"a": {"kernel": jnp.ones((3, 4, 5))}},
            r"\(3, 4, 5\), which is that of a convolution, or of stacked layers of which none fits",
        ),
        ({"a": {"kernel": jnp.ones((2, 3, 4, 5))}}, "that of a convolution;"),
        (
            {"a": {"kernel": jnp.ones((2, 4, 4)), "bias": jnp.ones(4)}},
            r"a bias of shape \(4,\); the bias must have shape \(2, 4\)",
        ),
        ({"linear": {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}}, r"Haiku's `w` and `b`: pass \{'k"),
        ({"a": {"weight": jnp.ones((4, 3)), "bias": jnp.ones(4)}}, "Equinox's `weight`.*weight.T"),
        ([(jnp.ones((3, 4)), jnp.ones(4))], r"'0/0'.*have no names: pass \{'kernel': W, 'bias': b"),
        ({}, "params has no layers"),
    ],
)
def test_params_of_other_layers_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        find_layers(params)


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
def test_params_that_are_not_real_floating_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"layer 'a' has a kernel of dtype {dtype}"):
        find_layers({"a": {"kernel": jnp.ones((2, 3), dtype)}})
