"""The inputs that are found in a traced loss, against those of models written by hand."""

import functools

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
        (lambda w, x: x @ (w / jnp.linalg.norm(w)), "changed before"),
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


@pytest.mark.parametrize("skip", ["net", [1]])
def test_skip_of_the_wrong_type(skip):
    with pytest.raises(TypeError, match="skip"):
        tritia.with_layer_inputs(_dense, skip=skip)


def test_skip_of_an_unknown_name():
    with pytest.raises(ValueError, match=r"skip has \['d'\].*'a', 'b', 'c'"):
        tritia.with_layer_inputs(_dense, skip=["d"])(DENSE, X, Y)
