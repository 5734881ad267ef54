"""The inputs that are found in a traced loss, against those of models written by hand."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tritia
from tritia import MatrixAxes

N, D, H, C = 6, 5, 8, 3


def _normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


X, Y = _normal(100, N, D), _normal(101, N, C)


def _inputs(loss, params, *args, jit=True, **settings):
    """Runs one forward and backward pass, and checks that neither has changed."""
    recorded = jax.value_and_grad(tritia.with_layer_inputs(loss, **settings), has_aux=True)
    (value, inputs), grads = (jax.jit(recorded) if jit else recorded)(params, *args)
    plain = jax.value_and_grad(loss)
    expected, expected_grads = (jax.jit(plain) if jit else plain)(params, *args)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), grads, expected_grads
    )
    return inputs


def _gram(rows):
    rows = np.asarray(rows, np.float64).reshape(-1, np.shape(rows)[-1])
    return rows.T @ rows / len(rows)


def _same(inputs, expected):
    """Compares the Gram matrices with those of rows, whole and diagonal."""
    assert list(inputs) == sorted(expected, key=list(inputs).index)
    for name, rows in expected.items():
        stack = rows if isinstance(rows, list) else [rows]
        grams = np.stack([_gram(one) for one in stack])
        np.testing.assert_allclose(inputs[name].gram(), grams, rtol=1e-4, atol=1e-5)
        diagonals = np.diagonal(grams, axis1=1, axis2=2)
        np.testing.assert_allclose(
            inputs[name].gram(diagonal=True), diagonals, rtol=1e-4, atol=1e-5
        )


DENSE = {"a": _normal(0, D, H), "b": jnp.full(H, 0.1), "c": _normal(1, H, C)}


def _dense(params, x, y):
    return jnp.mean((jax.nn.relu(x @ params["a"] + params["b"]) @ params["c"] - y) ** 2)


HIDDEN = jax.nn.relu(X @ DENSE["a"] + DENSE["b"])


@pytest.mark.parametrize("jit", [False, True])
def test_dense_layers(jit):
    inputs = _inputs(_dense, DENSE, X, Y, jit=jit)
    _same(inputs, {"a": X, "c": HIDDEN})
    assert inputs["a"].axes == MatrixAxes((0,), (1,))


def test_the_rows_themselves_are_what_is_returned():
    (use,) = _inputs(_dense, DENSE, X, Y)["c"].uses
    np.testing.assert_allclose(use.array, HIDDEN, rtol=1e-5)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: (w.T @ x.T).T,
        lambda x, w: jnp.einsum("nd,dk->nk", x, w),
        lambda x, w: jnp.dot(x.astype("bfloat16"), w.astype("bfloat16")).astype("float32"),
        lambda x, w: x @ (0.5 * w),
        lambda x, w: x @ (w / 3),
        lambda x, w: x @ w.reshape(D, 2, 4).transpose(1, 2, 0).reshape(H, D).T,
        lambda x, w: jnp.concatenate([x @ w[:, :3], x @ w[:, 3:]], axis=1),
        lambda x, w: (x[:, None] @ w[None])[:, 0],
        lambda x, w: jnp.einsum("nd,dhk->nhk", x, w.reshape(D, 4, 2)).reshape(N, H),
        lambda x, w: jax.vmap(lambda row: row @ w)(x),
        lambda x, w: jax.vmap(lambda row: w.T @ row)(x),
        lambda x, w: jax.jit(jnp.matmul)(x, w),
        lambda x, w: jax.checkpoint(jnp.matmul)(x, w),
        lambda x, w: jax.lax.map(lambda row: row @ w, x),
    ],
)
def test_ways_to_write_a_dense_layer(product):
    def loss(params, x, y):
        return jnp.mean((jax.nn.relu(product(x, params["a"])) @ params["c"]) ** 2)

    hidden = jax.nn.relu(product(X, DENSE["a"]))
    inputs = _inputs(loss, {"a": DENSE["a"], "c": DENSE["c"]}, X, Y)
    for name, rows in {"a": X, "c": hidden}.items():
        gram = inputs[name].gram()[0]
        np.testing.assert_allclose(gram, _gram(rows), rtol=2e-2, atol=2e-2)
        assert inputs[name].axes == MatrixAxes((0,), (1,))


def test_outputs_first_as_equinox_has_them():
    model = eqx.nn.MLP(D, C, H, depth=2, key=jax.random.key(0))

    def loss(model, x, y):
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    recorded = eqx.filter_value_and_grad(tritia.with_layer_inputs(loss), has_aux=True)
    (value, inputs), _ = eqx.filter_jit(recorded)(model, X, Y)
    np.testing.assert_allclose(value, loss(model, X, Y), rtol=1e-5)
    rows, expected = X, {}
    for i, layer in enumerate(model.layers):
        expected[f"layers/{i}/weight"] = rows
        assert inputs[f"layers/{i}/weight"].axes == MatrixAxes((1,), (0,))
        rows = jax.nn.relu(rows @ layer.weight.T + layer.bias)
    _same(inputs, expected)


def _derivative_rules():
    @jax.custom_jvp
    def by_jvp(x, w):
        return x @ w

    @by_jvp.defjvp
    def _(primals, tangents):
        (x, w), (dx, dw) = primals, tangents
        return x @ w, dx @ w + x @ dw

    @jax.custom_vjp
    def by_vjp(x, w):
        return x @ w

    by_vjp.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    return by_jvp, by_vjp


@pytest.mark.parametrize("product", _derivative_rules())
def test_products_with_derivatives_of_their_own(product):
    def loss(params, x, y):
        return jnp.mean((jnp.tanh(product(x, params["a"])) @ params["c"] - y) ** 2)

    params = {"a": DENSE["a"], "c": DENSE["c"]}
    _same(_inputs(loss, params, X, Y), {"a": X, "c": jnp.tanh(X @ DENSE["a"])})


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 1), (0, 3))])
@pytest.mark.parametrize("settings", [{}, {"window_strides": (2, 1)}, {"rhs_dilation": (1, 2)}])
def test_convolutions(padding, settings):
    settings = {"window_strides": (1, 1), "padding": padding, **settings}
    images, kernel = _normal(0, 4, 7, 6, 2), _normal(1, 3, 2, 2, 5)
    layout = ("NHWC", "HWIO", "NHWC")

    def loss(params, x):
        y = jax.lax.conv_general_dilated(x, params["k"], dimension_numbers=layout, **settings)
        return jnp.mean(jax.nn.relu(y) ** 2)

    patches = jax.lax.conv_general_dilated_patches(
        images, (3, 2), dimension_numbers=layout, **settings
    )  # channels first among the patch's entries
    patches = patches.reshape(*patches.shape[:-1], 2, 3, 2)
    rows = np.moveaxis(np.asarray(patches), -3, -1).reshape(-1, 12)
    inputs = _inputs(loss, {"k": kernel}, images)
    _same(inputs, {"k": rows})
    assert inputs["k"].axes == MatrixAxes((0, 1, 2), (3,))


def test_convolutions_with_another_layout_and_groups():
    images, kernel = _normal(0, 4, 4, 9), _normal(1, 6, 2, 3)  # NCW, OIW in two groups

    def loss(params, x):
        y = jax.lax.conv_general_dilated(
            x, params["k"], (1,), "VALID", feature_group_count=2,
            dimension_numbers=("NCW", "OIW", "NCW"),
        )  # fmt: skip
        return jnp.mean(y**2)

    rows = [
        images[:, 2 * group : 2 * group + 2, t : t + 3].reshape(4, 6)
        for group in range(2)
        for t in range(7)
    ]
    inputs = _inputs(loss, {"k": kernel}, images)
    _same(inputs, {"k": np.concatenate(rows)})
    assert inputs["k"].axes == MatrixAxes((1, 2), (0,))


def test_the_gram_of_patches_needs_less_memory_than_the_patches():
    images, kernel = jnp.ones((8, 28, 28, 16)), jnp.ones((5, 5, 16, 16))

    def loss(params, x):
        layout = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(
            jax.lax.conv_general_dilated(x, params, (1, 1), "SAME", dimension_numbers=layout)
        )

    _, inputs = tritia.with_layer_inputs(loss)(kernel, images)
    compiled = jax.jit(lambda inputs: inputs[""].gram()).lower(inputs).compile()
    patches = 25 * images.nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < patches / 3


def _attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", q, k))
    return jnp.einsum("nhts,nshd->nthd", weights, v)


T, E, HEADS = 4, 6, 2


@pytest.mark.parametrize("fused", [False, True, "sliced"])
def test_attention(fused):
    x = _normal(5, N, T, E)
    q, k, v = (_normal(i, E, HEADS, 3) for i in range(3))
    out = _normal(4, HEADS, 3, E)
    joined = jnp.stack([q, k, v], axis=1).reshape(E, -1)  # (E, 3 * HEADS * 3)

    def loss(params, x):
        if fused is False:
            parts = [jnp.einsum("nte,ehd->nthd", x, params[name]) for name in "qkv"]
        elif fused is True:
            parts = jnp.split((x @ params["qkv"]).reshape(N, T, 3 * HEADS, 3), 3, axis=2)
        else:
            thirds = jnp.split(params["qkv"], 3, axis=1)
            parts = [(x @ third).reshape(N, T, HEADS, 3) for third in thirds]
        return jnp.mean(jnp.einsum("nthd,hde->nte", _attention(*parts), params["out"]) ** 2)

    heads = _attention(*(jnp.einsum("nte,ehd->nthd", x, w) for w in (q, k, v)))
    expected = {"out": heads.reshape(N, T, 6)}
    params = {"out": out, **({"qkv": joined} if fused else {"q": q, "k": k, "v": v})}
    expected |= {name: x for name in params if name != "out"}
    inputs = _inputs(loss, params, x)
    _same(inputs, expected)
    assert inputs["out"].axes == MatrixAxes((0, 1), (2,))
    if fused is False:
        assert inputs["q"].axes == MatrixAxes((0,), (1, 2))
    else:
        assert len(inputs["qkv"].uses) == 1


def test_tied_weights_add_their_gram_matrices():
    tokens = jnp.array([[0, 3, 2], [1, 1, 4]])
    params = {"embedding": _normal(0, 5, E), "hidden": _normal(1, E, E)}

    def loss(params, tokens):
        x = params["embedding"][tokens]
        x = jnp.tanh(jnp.tanh(x @ params["hidden"]) @ params["hidden"])
        return jnp.mean(jax.nn.log_softmax(x @ params["embedding"].T))

    first = params["embedding"][tokens]
    second = jnp.tanh(first @ params["hidden"])
    last = jnp.tanh(second @ params["hidden"])
    inputs = _inputs(loss, params, tokens)
    np.testing.assert_allclose(inputs["hidden"].gram()[0], _gram(first) + _gram(second), rtol=1e-4)
    assert inputs["embedding"].axes == MatrixAxes((1,), (0,))
    np.testing.assert_allclose(inputs["embedding"].gram()[0], _gram(last), rtol=1e-4)


def test_what_is_in_no_product_has_no_inputs():
    params = {
        "embedding": _normal(0, 5, D), "position": _normal(1, N, D), "scale": jnp.ones(D),
        "gate": jnp.ones((N, D)), "w": _normal(2, D, H), "b": jnp.zeros(H),
    }  # fmt: skip

    def loss(params, tokens):
        x = params["embedding"][tokens] + params["position"]
        x = params["scale"] * x * jax.nn.sigmoid(params["gate"])
        penalty = jnp.vdot(params["w"], params["w"]) + jnp.sum(params["gate"] ** 2)
        return jnp.mean((x @ params["w"] + params["b"]) ** 2) + 1e-3 * penalty

    assert list(_inputs(loss, params, jnp.arange(N) % 5)) == ["w"]


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_scanned_layers_have_a_gram_matrix_each(remat, reverse):
    layers = {"w": 0.5 * _normal(0, 3, D, D), "b": 0.1 * _normal(1, 3, D)}
    params = {"layers": layers, "out": _normal(2, D, C)}

    def layer(x, w):
        return jnp.tanh(x @ w["w"] + w["b"]), None

    body = jax.checkpoint(layer) if remat else layer

    def loss(params, x, y):
        x, _ = jax.lax.scan(body, x, params["layers"], reverse=reverse)
        return jnp.mean((x @ params["out"] - y) ** 2)

    rows, each = X, [None] * 3
    for i in reversed(range(3)) if reverse else range(3):
        each[i] = rows
        rows = jnp.tanh(rows @ layers["w"][i] + layers["b"][i])
    inputs = _inputs(loss, params, X, Y)
    _same(inputs, {"layers/w": each, "out": rows})
    assert inputs["layers/w"].axes == MatrixAxes((1,), (2,))


def test_scans_within_scans_and_cells():
    """A stack of recurrent cells: loops over layers, that of each over time with one weight."""
    params = {"x": 0.5 * _normal(0, 2, D, D), "h": 0.5 * _normal(1, 2, D, D)}
    series = _normal(2, T, N, D)

    def layer(series, weights):
        def cell(h, x):
            h = jnp.tanh(x @ weights["x"] + h @ weights["h"])
            return h, h

        return jax.lax.scan(cell, jnp.zeros((N, D)), series)[1], None

    def loss(params, series):
        return jnp.mean(jax.lax.scan(layer, series, params)[0] ** 2)

    rows, inputs_of_x, inputs_of_h = series, [], []
    for i in range(2):
        h, states = jnp.zeros((N, D)), []
        for x in rows:
            states.append(h)
            h = jnp.tanh(x @ params["x"][i] + h @ params["h"][i])
        inputs_of_x.append(rows)
        inputs_of_h.append(jnp.stack(states))
        rows = jnp.stack([*states[1:], h])
    _same(_inputs(loss, params, series), {"h": inputs_of_h, "x": inputs_of_x})


def test_stacked_matrices_in_one_product():
    params = _normal(0, 3, D, H)

    def loss(params, x):
        return jnp.mean(jnp.einsum("end,edk->enk", x, params) ** 2)

    x = _normal(1, 3, N, D)
    inputs = _inputs(loss, params, x)
    _same(inputs, {"": list(x)})
    assert inputs[""].axes == MatrixAxes((1,), (2,))


def test_a_convolution_in_a_scan():
    kernels, images = _normal(0, 2, 3, 3, 2, 2) / 4, _normal(1, N, 5, 5, 2)
    layout = ("NHWC", "HWIO", "NHWC")

    def layer(x, kernel):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return jnp.tanh(y), None

    def loss(params, x):
        return jnp.mean(jax.lax.scan(layer, x, params)[0] ** 2)

    (got,) = _inputs(loss, kernels, images).values()
    x = images
    for i in range(2):
        alone = jax.jit(tritia.with_layer_inputs(lambda k, x: jnp.sum(layer(x, k)[0])))
        _, expected = alone(kernels[i], x)
        np.testing.assert_allclose(got.gram()[i], expected[""].gram()[0], rtol=1e-4, atol=1e-5)
        x = layer(x, kernels[i])[0]


def test_dropout_with_a_fixed_key():
    def loss(params, x, y, key):
        x = jax.nn.relu(x @ params["a"])
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return jnp.mean((jnp.where(kept, 2 * x, 0) @ params["c"] - y) ** 2)

    key = jax.random.key(7)
    kept = jax.random.bernoulli(key, 0.5, (N, H))
    dropped = jnp.where(kept, 2 * jax.nn.relu(X @ DENSE["a"]), 0)
    params = {"a": DENSE["a"], "c": DENSE["c"]}
    _same(_inputs(loss, params, X, Y, key), {"a": X, "c": dropped})


def test_auxiliary_results_keywords_and_closures():
    def loss(params, *, y, training):
        assert training is True
        hidden = jnp.tanh(X @ params["a"])
        return jnp.mean((hidden @ params["c"] - y) ** 2), {"hidden": hidden, "none": None}

    params = {"a": DENSE["a"], "c": DENSE["c"]}
    recorded = tritia.with_layer_inputs(loss, has_aux=True)
    value, (aux, inputs) = recorded(params, y=Y, training=True)
    np.testing.assert_allclose(aux["hidden"], jnp.tanh(X @ DENSE["a"]), rtol=1e-5)
    assert aux["none"] is None
    np.testing.assert_allclose(value, loss(params, y=Y, training=True)[0], rtol=1e-5)
    _same(inputs, {"a": X, "c": aux["hidden"]})


def test_one_forward_pass():
    def flops(loss):
        graded = jax.value_and_grad(loss, has_aux=loss is not _dense)
        return jax.jit(graded).lower(DENSE, X, Y).compile().cost_analysis()["flops"]

    assert flops(tritia.with_layer_inputs(_dense)) <= 1.01 * flops(_dense)


def test_under_vmap():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), DENSE)
    recorded = jax.vmap(tritia.with_layer_inputs(_dense), in_axes=(0, None, None))
    _, inputs = jax.jit(recorded)(stacked, X, Y)
    got = jax.vmap(lambda inputs: inputs["c"].gram())(inputs)
    for i, factor in enumerate((1, 2)):
        hidden = jax.nn.relu(factor * (X @ DENSE["a"] + DENSE["b"]))
        np.testing.assert_allclose(got[i, 0], _gram(hidden), rtol=1e-4)


def test_rows_over_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def loss(params, x, y):
        x = jax.lax.with_sharding_constraint(x, spread)
        same = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        held = jax.lax.with_sharding_constraint(params["a"], same)
        return _dense({**params, "a": held}, x, y)

    x, y = (jax.device_put(array, spread) for array in (X, Y))
    _, inputs = jax.jit(tritia.with_layer_inputs(loss))(DENSE, x, y)
    assert inputs["c"].uses[0].array.sharding.is_equivalent_to(spread, 2)
    _same(inputs, {"a": X, "c": HIDDEN})


MASK = jnp.asarray(np.random.default_rng(0).integers(0, 2, (D, H)), jnp.float32)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda w, x: x @ (w * MASK), "changed before"),
        (lambda w, x: x[:, :2] @ w[:2], "a part of axis 0"),
        (lambda w, x: (x @ w) @ w.T, "summed over"),
        (lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda w: x @ w, lambda w: -x @ w, w), "cond"),
        (lambda w, x: jax.lax.while_loop(
            lambda c: c[0] < 1, lambda c: (c[0] + 1, x @ c[2], c[2]), (0, jnp.ones((N, H)), w)
        )[1], "while"),
        (lambda w, x: jax.lax.scan(lambda v, _: (0.9 * v, x @ v), w, length=2)[1], "changed"),
        (lambda w, x: jax.jit(lambda w: x @ jnp.tanh(w))(w), "changed before"),
    ],
)  # fmt: skip
def test_uses_that_are_not_understood_are_named(use, reason):
    def loss(params, x):
        return jnp.mean(use(params["net"]["w"], x) ** 2) + jnp.sum((x @ params["other"]) ** 2)

    params = {"net": {"w": DENSE["a"]}, "other": DENSE["a"]}
    if "while" in reason:  # has no reverse-mode derivative
        with pytest.raises(ValueError, match=rf"'net/w': .*{reason}"):
            tritia.with_layer_inputs(loss)(params, X)
        return
    with pytest.raises(ValueError, match=rf"'net/w': .*{reason}.*skip=\['net/w'\]"):
        _inputs(loss, params, X)
    for skip in (["net/w"], ["net"]):
        _same(_inputs(loss, params, X, skip=skip), {"other": X})


U, STACK = _normal(20, H), _normal(21, 3, D, H)
KEPT = jax.random.key(5)
WHICH = jnp.arange(N) % 3


def _kept(*shape):
    return lambda key: jax.random.bernoulli(key, 0.5, shape)


def _straight_through(w):
    return w + jax.lax.stop_gradient(jnp.round(w) - w)


def _sampled(params, key):
    noise = jax.random.normal(key, params["w"].shape)
    return params["w"] + jax.nn.softplus(params["rho"]) * noise


# What is multiplied is made of `w` in one way or another; x (N, D), a key and which expert is
# whose are data.
HIDDEN_KERNELS = {
    "DropConnect": lambda p, x, key, i: x @ (p["w"] * _kept(D, H)(key)),
    "DropConnect by where": lambda p, x, key, i: x @ jnp.where(_kept(D, H)(key), p["w"], 0),
    "DropConnect for each row": lambda p, x, key, i: jax.vmap(
        lambda row, key: row @ (p["w"] * _kept(D, H)(key))
    )(x, jax.random.split(key, N)),
    "DropConnect and weight normalisation": lambda p, x, key, i: x
    @ (lambda w: w / jnp.linalg.norm(w, axis=0))(p["w"] * _kept(D, H)(key)),
    "DropConnect, reshaped": lambda p, x, key, i: jnp.einsum(
        "nd,dab->nab", x, (p["w"] * _kept(D, H)(key)).reshape(D, 2, 4)
    ),
    "DropConnect in a scan": lambda p, x, key, i: jax.lax.scan(
        lambda h, w: (h, jnp.tanh(x @ w)), 0, p["stack"] * _kept(3, D, H)(key)
    ),
    "DropConnect in jit and remat": lambda p, x, key, i: jax.checkpoint(
        lambda w: jax.jit(lambda w: x @ w)(w * _kept(D, H)(key))
    )(p["w"]),
    "DropConnect in a cond": lambda p, x, key, i: jax.lax.cond(
        x[0, 0] > 0, lambda w: x @ w, lambda w: -x @ w, p["w"] * _kept(D, H)(key)
    ),
    "DropConnect of filters": lambda p, x, key, i: jax.lax.conv_general_dilated(
        x[:, None], p["stack"] * _kept(3, D, H)(key), (1,), "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    ),
    "filters of another kind": lambda p, x, key, i: jax.lax.conv_general_dilated(
        x[:, None], jnp.tanh(p["stack"]), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    ),
    "noise": lambda p, x, key, i: x @ (p["w"] + jax.random.normal(key, (D, H))),
    "variational": lambda p, x, key, i: x @ _sampled(p, key),
    "a low-rank update, added": lambda p, x, key, i: x @ (p["w"] + p["left"] @ p["right"]),
    "weight normalisation": lambda p, x, key, i: x @ (U * p["w"] / jnp.linalg.norm(p["w"], axis=0)),
    "spectral normalisation": lambda p, x, key, i: x @ (p["w"] / jnp.linalg.norm(p["w"], 2)),
    "rounded, straight through": lambda p, x, key, i: x @ _straight_through(p["w"]),
    "the closest of some": lambda p, x, key, i: x @ (jnp.sign(p["w"]) * jnp.abs(p["w"]).mean()),
    "joined": lambda p, x, key, i: x @ jnp.concatenate([p["w"], p["w2"]], axis=1),
    "joined and masked": lambda p, x, key, i: x
    @ (jnp.concatenate([p["w"], p["w2"]], axis=1) * _kept(D, 2 * H)(key)),
    "padded and masked": lambda p, x, key, i: x
    @ jnp.pad(p["w"] * _kept(D, H)(key), ((0, 0), (0, 1))),
    "a mixture of experts": lambda p, x, key, i: jnp.einsum("nd,ndh->nh", x, p["stack"][i]),
    "an expert": lambda p, x, key, i: x @ p["stack"][i[0]],
    "an expert by slicing": lambda p, x, key, i: x
    @ jax.lax.dynamic_index_in_dim(p["stack"], i[0], keepdims=False),
    "a mean of experts": lambda p, x, key, i: x @ p["stack"].mean(0),
    "ragged": lambda p, x, key, i: jax.lax.ragged_dot(x, p["stack"], jnp.array([2, 2, 2])),
    "sorted": lambda p, x, key, i: x @ jnp.sort(p["w"], axis=0),
    "masked and rolled": lambda p, x, key, i: x @ jnp.roll(p["w"] * _kept(D, H)(key), 1, axis=0),
    "a circulant matrix": lambda p, x, key, i: jnp.fft.irfft(
        jnp.fft.rfft(x[:, :, None], axis=1) * jnp.fft.rfft(p["w"], axis=0), axis=1
    ),
    "a triangle": lambda p, x, key, i: x @ jnp.tril(p["w"]),
    "an exponential": lambda p, x, key, i: x @ jax.scipy.linalg.expm(p["square"]),
    "an inverse": lambda p, x, key, i: jnp.linalg.solve(p["square"], x.T),
}  # fmt: skip
MANY = {
    "w": DENSE["a"], "w2": 2 * DENSE["a"], "rho": 3 * DENSE["a"], "stack": STACK,
    "left": _normal(22, D, 2), "right": _normal(23, 2, H), "square": _normal(24, D, D),
}  # fmt: skip
NAMED = {
    "variational": ["rho", "w"],
    "joined": ["w", "w2"],
    "joined and masked": ["w", "w2"],
    "an exponential": ["square"],
    "an inverse": ["square"],
}


@pytest.mark.parametrize("use", HIDDEN_KERNELS)
def test_no_kernel_is_without_inputs_silently(use):
    """Tracing is enough to tell."""
    function = HIDDEN_KERNELS[use]
    of_stack = any("stack" in str(const) for const in function.__code__.co_consts)
    named = NAMED.get(use, ["stack" if of_stack else "w"])
    with pytest.raises(ValueError, match="inputs of some params can't be told") as error:
        jax.eval_shape(tritia.with_layer_inputs(function), MANY, X, KEPT, WHICH)
    (skip,) = re.findall(r"Pass skip=(\[.*\]) to", str(error.value))
    assert skip == str(named)
    jax.eval_shape(tritia.with_layer_inputs(function, skip=named), MANY, X, KEPT, WHICH)


def _heads(x, w, b):
    return jnp.einsum("nte,ehd->nthd", x, w) + b


def _logits_with(change):
    """Attention whose logits, before the softmax, or queries, are changed by a param."""

    def use(p, x, tokens):
        q, k, v = (_heads(x, p[name], p["b"]) for name in "qkv")
        q, bias = change(p, q)
        weights = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", q, k) + bias)
        return jnp.einsum("nhts,nshd->nthd", weights, v)

    return use


SEQUENCES = _normal(30, 2, T, E)
PARTS = {
    **{name: _normal(31 + i, E, HEADS, 3) for i, name in enumerate("qkv")},
    "b": _normal(34, HEADS, 3), "scale": _normal(35, HEADS, 3),
    "relative": _normal(36, HEADS, T, T),
    "table": _normal(37, 7, HEADS), "positions": _normal(38, T, E), "embedding": _normal(39, 9, E),
    "prompts": _normal(40, 2, E), "gate": _normal(41, T, E), "w": _normal(42, E, E),
    "vectors": _normal(43, 3, E),
}  # fmt: skip
DISTANCE = np.arange(T)[:, None] - np.arange(T) + T - 1
# No kernels, though they have two axes: what is multiplied by another activation is an activation.
NO_KERNELS = {
    "a bias of heads": (_logits_with(lambda p, q: (q, 0)), "qkv"),
    "a scale of queries": (_logits_with(lambda p, q: (q * p["scale"], 0)), "qkv"),
    "biases of pairs": (_logits_with(lambda p, q: (q, p["relative"])), "qkv"),
    "biases by distance": (
        _logits_with(lambda p, q: (q, p["table"][DISTANCE].transpose(2, 0, 1))), "qkv",
    ),
    "positions": (lambda p, x, tokens: (x + p["positions"]) @ p["w"], "w"),
    "positions of one sequence": (
        lambda p, x, tokens: jax.nn.standardize(x[0] + p["positions"]) @ p["w"], "w",
    ),
    "a gate": (lambda p, x, tokens: jax.nn.sigmoid(p["gate"]) * x @ p["w"], "w"),
    "prompts": (
        lambda p, x, tokens: jnp.concatenate(
            [jnp.broadcast_to(p["prompts"], (2, 2, E)), x], axis=1
        ) @ p["w"],
        "w",
    ),
    "lookups that are multiplied": (
        lambda p, x, tokens: jnp.einsum(
            "nte,nse->nts", p["embedding"][tokens], p["embedding"][tokens]
        ),
        "",
    ),
    "lookups over a graph": (
        lambda p, x, tokens: jnp.einsum("nts,nse->nte", x @ x.mT, p["embedding"][tokens]), "",
    ),
    "scanned vectors": (
        lambda p, x, tokens: jax.lax.scan(
            lambda x, b: (x @ x.mT @ x + b, None), x, p["vectors"]
        )[0],
        "",
    ),
    "one vector of several": (lambda p, x, tokens: (x * p["vectors"][1]) @ p["w"], "w"),
}  # fmt: skip


@pytest.mark.parametrize("use", NO_KERNELS)
def test_what_only_looks_like_a_kernel_is_none(use):
    function, expected = NO_KERNELS[use]
    tokens = jnp.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    _, inputs = jax.eval_shape(tritia.with_layer_inputs(function), PARTS, SEQUENCES, tokens)
    assert sorted(inputs) == sorted(expected)


def test_a_low_rank_update_beside_its_kernel():
    params = {"w": DENSE["a"], "left": MANY["left"], "right": MANY["right"]}

    def loss(params, x):
        return jnp.mean(jnp.tanh(x @ params["w"] + (x @ params["left"]) @ params["right"]) ** 2)

    _same(_inputs(loss, params, X), {"w": X, "left": X, "right": X @ MANY["left"]})


def test_a_product_with_several_axes_of_the_batch():
    """Mixtures and heads: every expert has a matrix for each head, in one product."""
    params = {"w": _normal(50, 3, D, 2, H)}  # experts, inputs, heads, outputs
    x = _normal(51, 2, 3, N, D)  # heads, experts, rows, inputs

    def loss(params, x):
        return jnp.mean(jnp.einsum("hend,edhk->henk", x, params["w"]) ** 2)

    inputs = _inputs(loss, params, x)
    _same(inputs, {"w": [x[h, e] for e in range(3) for h in range(2)]})
    assert inputs["w"].axes == MatrixAxes((1,), (3,))


def test_experts_by_a_product_with_what_chooses_them():
    """The choice is a part of the inputs."""
    chosen = jax.nn.one_hot(WHICH, 3)

    def loss(params, x):
        return jnp.mean(jnp.einsum("ne,nd,edk->nk", chosen, x, params["stack"]) ** 2)

    inputs = _inputs(loss, {"stack": STACK}, X)
    _same(inputs, {"stack": jnp.einsum("ne,nd->ned", chosen, X).reshape(N, -1)})


@pytest.mark.parametrize("skip", ["net", [1]])
def test_skip_of_the_wrong_type(skip):
    with pytest.raises(TypeError, match="skip"):
        tritia.with_layer_inputs(_dense, skip=skip)


def test_skip_of_an_unknown_name():
    with pytest.raises(ValueError, match=r"skip has \['d'\].*'a', 'b', 'c'"):
        tritia.with_layer_inputs(_dense, skip=["d"])(DENSE, X, Y)


class _Projection(eqx.Module):
    value: jax.Array


def test_leaves_whose_own_name_is_value():
    """The value of a Flax variable has its variable's name; any other keeps its own."""
    params = {"query": jnp.ones((3, 2)), "value": jnp.ones((3, 2)), "eqx": _Projection(jnp.eye(3))}
    x = jnp.ones((4, 3))

    def loss(params):
        return jnp.sum(x @ params["eqx"].value @ params["query"]) + jnp.sum(x @ params["value"])

    _, inputs = tritia.with_layer_inputs(loss)(params)
    assert list(inputs) == ["eqx/value", "query", "value"]
    skipping = tritia.with_layer_inputs(lambda p: jnp.sum(x @ p["value"]), skip=["value"])
    assert skipping({"value": params["value"]})[1] == {}


def test_two_leaves_of_one_name_are_refused():
    params = {"a": {"b": jnp.ones((3, 2))}, "a/b": jnp.ones((3, 2))}
    with pytest.raises(ValueError, match=r"params has several leaves of one name: a/b"):
        tritia.with_layer_inputs(lambda p: jnp.sum(p["a/b"]))(params)


def test_a_box_with_metadata_of_linen_has_the_name_of_its_place():
    linen = pytest.importorskip("flax.linen")
    x = jnp.ones((4, 3))
    model = linen.Dense(
        2, kernel_init=linen.with_partitioning(jax.nn.initializers.ones, (None, "x"))
    )
    params = model.init(jax.random.key(0), x)
    loss = tritia.with_layer_inputs(lambda params: jnp.sum(model.apply(params, x)))
    assert list(loss(params)[1]) == ["params/kernel"]
