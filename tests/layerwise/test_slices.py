"""Products that take a slice of a parameter each, against `jax.lax.scan` and hand-written models.

Slices are the layers of a stack where their inputs differ, and outputs of one layer where these are
the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia import MatrixAxes

N, D, LAYERS, GATES = 6, 4, 3, 2


def _normal(seed, *shape):
    return 0.7 * jax.random.normal(jax.random.key(seed), shape)


X = _normal(0, N, D)
STACK = {"w": _normal(1, LAYERS, D, D)}


def _gram(rows):
    return rows.T @ rows / len(rows)


def _scan(p, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])[0]


def _loop(p, x):
    for i in range(LAYERS):
        x = jnp.tanh(x @ p["w"][i])
    return x


def _unpacking(p, x):
    a, b, c = p["w"]
    return jnp.tanh(jnp.tanh(jnp.tanh(x @ a) @ b) @ c)


def _rest(p, x):
    first, rest = p["w"][0], p["w"][1:]
    x = jnp.tanh(x @ first)
    for i in range(len(rest)):
        x = jnp.tanh(x @ rest[i])
    return x


def _split(p, x):
    for w in jnp.split(p["w"], LAYERS):
        x = jnp.tanh(x @ w[0])
    return x


def _literals(p, x):
    for i in range(LAYERS):
        x = jnp.tanh(x @ jax.lax.dynamic_slice(p["w"], (i, 0, 0), (1, D, D))[0])
    return x


def _jitted(p, x):
    layer = jax.jit(lambda x, w: jnp.tanh(jnp.einsum("nd,dh->nh", x, w)))
    for w in p["w"]:
        x = layer(x, w)
    return x


def _rematerialised(p, x):
    for i in range(LAYERS):
        x = jax.checkpoint(lambda x, w, i=i: jnp.tanh(x @ w[i]))(x, p["w"])
    return x


def _transposed(p, x):
    w = p["w"].mT.astype("float32")
    for i in range(LAYERS):
        x = jnp.tanh((w[i] @ x.T).T)
    return x


def _each_row(p, x):
    return jax.vmap(lambda row: _loop(p, row))(x)


UNROLLED = [
    _loop, _unpacking, _rest, _split, _literals, _jitted, _rematerialised, _transposed, _each_row,
]  # fmt: skip


def _loss_of(model):
    return lambda params, x: jnp.mean(model(params, x) ** 2)


def _traced(model, params, x, **settings):
    graded = jax.value_and_grad(tritia.with_layer_inputs(_loss_of(model), **settings), has_aux=True)
    (_, inputs), grads = jax.jit(graded)(params, x)
    return inputs, grads


def _check_grams(inputs, axes, grams):
    assert inputs.axes == axes
    np.testing.assert_allclose(inputs.gram(), grams, rtol=1e-4, atol=1e-6)
    diagonals = np.diagonal(np.stack(grams), axis1=1, axis2=2)
    np.testing.assert_allclose(inputs.gram(diagonal=True), diagonals, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", UNROLLED)
def test_an_unrolled_stack_is_what_a_scan_makes_of_it(model):
    expected, expected_grads = _traced(_scan, STACK, X)
    inputs, grads = _traced(model, STACK, X)
    _check_grams(inputs["w"], MatrixAxes((1,), (2,)), expected["w"].gram())
    np.testing.assert_allclose(grads["w"], expected_grads["w"], rtol=1e-4, atol=1e-6)
    assert tritia.layer_axes(_loss_of(model))(STACK, X) == {"w": expected["w"].axes}


def test_an_unrolled_stack_against_a_model_written_by_hand():
    grams, rows = [], X
    for w in STACK["w"]:
        grams.append(_gram(rows))
        rows = jnp.tanh(rows @ w)
    _check_grams(_traced(_loop, STACK, X)[0]["w"], MatrixAxes((1,), (2,)), grams)


def test_layers_with_different_numbers_of_rows():
    def model(p, x):
        x = jnp.tanh(x @ p["w"][0])[::2]
        x = jnp.tanh(x @ p["w"][1])[::3]
        return x @ p["w"][2]

    first = jnp.tanh(X @ STACK["w"][0])[::2]
    second = jnp.tanh(first @ STACK["w"][1])[::3]
    grams = list(map(_gram, (X, first, second)))
    _check_grams(_traced(model, STACK, X)[0]["w"], MatrixAxes((1,), (2,)), grams)


def test_a_stack_that_is_used_twice_has_the_inputs_of_both():
    def twice(model):
        return lambda p, x: model(p, model(p, x) - 1)

    expected, _ = _traced(twice(_scan), STACK, X)
    inputs, _ = _traced(twice(_loop), STACK, X)
    _check_grams(inputs["w"], expected["w"].axes, expected["w"].gram())
    mixed, _ = _traced(lambda p, x: _scan(p, _loop(p, x) - 1), STACK, X)
    _check_grams(mixed["w"], expected["w"].axes, expected["w"].gram())


def _loop_within_a_scan(p, x):
    """The scan runs over blocks of two layers, the slices are of the axis before it."""

    def block(x, w):
        return jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]), None

    return jax.lax.scan(block, x, p["w"].swapaxes(0, 1))[0]


def _loop_within_a_loop(p, x):
    for j in range(LAYERS):
        for i in range(2):
            x = jnp.tanh(x @ p["w"][i, j])
    return x


@pytest.mark.parametrize("model", [_loop_within_a_scan, _loop_within_a_loop])
def test_unrolled_stacks_of_stacks(model):
    params = {"w": _normal(2, 2, LAYERS, D, D)}
    grams, rows = {}, X
    for j in range(LAYERS):
        for i in range(2):
            grams[i, j] = _gram(rows)
            rows = jnp.tanh(rows @ params["w"][i, j])
    inputs, _ = _traced(model, params, X)
    in_order = [grams[place] for place in sorted(grams)]
    _check_grams(inputs["w"], MatrixAxes((2,), (3,)), in_order)


def test_convolutions_in_a_python_loop():
    kernels, images = {"w": _normal(3, LAYERS, 3, 2, 2)}, _normal(4, N, 5, 2)

    def layer(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return jnp.tanh(y), None

    def loop(p, x):
        for kernel in p["w"]:
            x, _ = layer(x, kernel)
        return x

    expected, _ = _traced(lambda p, x: jax.lax.scan(layer, x, p["w"])[0], kernels, images)
    inputs, _ = _traced(loop, kernels, images)
    _check_grams(inputs["w"], expected["w"].axes, expected["w"].gram())


def _gates_of(values):
    return jnp.tanh(values[0]) * jax.nn.sigmoid(values[1])


def _half(w, i):
    return w[..., : D // 2] if i == 0 else w[..., D // 2 :]


# How one input meets all of a parameter, a slice at a time.
FUSED = {
    "indices": (lambda w, x: _gates_of([x @ w[i] for i in range(GATES)]), (GATES, D, D)),
    "unpacked": (lambda w, x: _gates_of([x @ one for one in w]), (GATES, D, D)),
    "cast each time": (
        lambda w, x: _gates_of([x.astype("bfloat16") @ one.astype("bfloat16") for one in w]),
        (GATES, D, D),
    ),
    "the input transposed each time": (
        lambda w, x: _gates_of([(one @ x.T).T for one in w.mT]), (GATES, D, D),
    ),
    "calls": (
        lambda w, x: _gates_of([jax.jit(jnp.matmul)(x, one) for one in w]), (GATES, D, D),
    ),
    "remat": (
        lambda w, x: _gates_of([jax.checkpoint(jnp.matmul)(x, one) for one in w]), (GATES, D, D),
    ),
    "ranges": (lambda w, x: _gates_of([x @ _half(w, i) for i in range(2)]), (D, D)),
    "strides": (lambda w, x: _gates_of([x @ w[:, i::2] for i in range(2)]), (D, D)),
    "reshaped": (
        lambda w, x: _gates_of([x @ w.reshape(D, 2, -1)[:, i] for i in range(2)]), (D, D),
    ),
    "one of two, with one input": (lambda w, x: x @ w[0], (GATES, D, D)),
    "a dynamic index with one input": (
        lambda w, x: jax.lax.fori_loop(0, GATES, lambda i, y: y + x @ w[i], x), (GATES, D, D),
    ),
    "in a map over rows": (
        lambda w, x: _gates_of([jax.lax.map(lambda row, w=w: row @ w, x) for w in w]),
        (GATES, D, D),
    ),
}  # fmt: skip


@pytest.mark.parametrize("use", FUSED)
def test_slices_with_one_input_are_outputs_of_one_layer(use):
    model, shape = FUSED[use]
    inputs, _ = _traced(model, _normal(5, *shape), X)
    assert inputs[""].axes == (
        MatrixAxes((1,), (0, 2)) if len(shape) == 3 else MatrixAxes((0,), (1,))
    )
    np.testing.assert_allclose(inputs[""].gram(), [_gram(X)], rtol=2e-2, atol=1e-2)


def _standardised(x):
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda x: x[:, :1] * 2 + x,
        _standardised,
        jax.jit(_standardised),
        lambda x: jnp.concatenate([x[:, 1:], jnp.ones((N, 1))], axis=1),
    ],
)
def test_an_input_that_is_computed_anew_for_each_slice_is_one(prepare):
    inputs, _ = _traced(
        lambda w, x: _gates_of([prepare(x) @ w[i] for i in range(GATES)]),
        _normal(5, GATES, D, D),
        X,
    )
    _check_grams(inputs[""], MatrixAxes((1,), (0, 2)), [_gram(prepare(X))])


def test_axes_that_are_paired_otherwise_have_inputs_of_their_own():
    x, w = _normal(7, N, D, D), _normal(8, D, D, 2)
    inputs, _ = _traced(
        lambda w, x: jnp.einsum("nab,abk->nk", x, w) + jnp.einsum("nab,bak->nk", x, w), w, x
    )
    rows = [y.reshape(N, -1) for y in (x, x.mT)]
    _check_grams(inputs[""], MatrixAxes((0, 1), (2,)), [_gram(rows[0]) + _gram(rows[1])])


@pytest.mark.parametrize("use", ["indices", "ranges", "strides", "reshaped"])
def test_gates_that_are_used_at_several_times_stay_one_layer(use):
    """An unrolled recurrent cell: each input meets all of the parameter."""
    gates, shape = FUSED[use]
    w = _normal(5, *shape)

    def model(w, x):
        for _ in range(2):
            x = jnp.concatenate([gates(w, x)] * (D // gates(w, x).shape[-1]), axis=1)
        return x

    inputs, _ = _traced(model, w, X)
    first = gates(w, X)
    first = jnp.concatenate([first] * (D // first.shape[-1]), axis=1)
    (gram,) = inputs[""].gram()
    np.testing.assert_allclose(gram, _gram(X) + _gram(first), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gates_first", [False, True])
@pytest.mark.parametrize("by_range", [False, True])
def test_gates_of_unrolled_layers(gates_first, by_range):
    """The axis of the layers is a stack, and that of the gates an output."""
    w = _normal(6, LAYERS, D, 2 * D) if by_range else _normal(6, LAYERS, GATES, D, D)
    axes = MatrixAxes((1,), (2,)) if by_range else MatrixAxes((2,), (1, 3))
    if gates_first:
        w = w.swapaxes(0, 2 if by_range else 1)
        axes = MatrixAxes((1,), (0,)) if by_range else MatrixAxes((2,), (0, 3))

    def model(w, x):
        if gates_first:
            w = w.swapaxes(0, 2 if by_range else 1)
        for i in range(LAYERS):
            if by_range:
                x = _gates_of([x @ w[i][:, :D], x @ w[i][:, D:]])
            else:
                x = _gates_of([x @ w[i, j] for j in range(GATES)])
        return x

    grams, x, layers = [], X, w.swapaxes(0, 2 if by_range else 1) if gates_first else w
    for one in layers:
        grams.append(_gram(x))
        x = _gates_of(jnp.split(x @ one, 2, axis=1) if by_range else x @ one)
    inputs, _ = _traced(model, w, X)
    _check_grams(inputs[""], axes, grams)


def _of_layer_in_a_loop(read):
    """Layers by a dynamic index, of which a loop within reads a half or all."""

    def model(w, x):
        def layer(i, x):
            return jnp.tanh(jax.lax.map(lambda j: x @ read(w, i, j), jnp.arange(2)).sum(0))

        return jax.lax.fori_loop(0, LAYERS, layer, x)

    return model


NOT_UNDERSTOOD = {
    "the layer of an outer loop": _of_layer_in_a_loop(lambda w, i, j: w[i]),
    "some layers of an outer loop": _of_layer_in_a_loop(
        lambda w, i, j: jax.lax.dynamic_slice_in_dim(w, i // 2, 2)[j]
    ),
    "a loop over indices": lambda w, x: jax.lax.fori_loop(
        0, LAYERS, lambda i, x: jnp.tanh(x @ w[i]), x
    ),
    "a scan over indices": lambda w, x: jax.lax.scan(
        lambda x, i: (jnp.tanh(x @ w[i]), None), x, jnp.arange(LAYERS)
    )[0],
    "a loop over indices for each row": lambda w, x: jax.lax.map(
        lambda row: jax.lax.fori_loop(0, LAYERS, lambda i, row: row @ w[i], row), x
    ),
    "indices that are computed": lambda w, x: jnp.tanh(x @ w[jnp.array(0)]) @ w[jnp.array(1)],
    "a part of the layers": lambda w, x: jnp.tanh(x @ w[0]) @ w[1],
    "several layers each": lambda w, x: jnp.einsum("nd,ldk->nlk", jnp.tanh(x @ w[0]), w[1:]),
    "all, and one of them": lambda w, x: jnp.einsum("nd,ldk->lnk", x, w)[0] @ w[2],
    "a scan, and one of the layers": lambda w, x: _scan({"w": w}, x) @ w[0],
    "parts of a part of the layers": lambda w, x: jnp.tanh(x @ w[0, :, :2]).sum()
    + jnp.tanh(x.T[:, :4] @ w[1, :, 2:]).sum(),
}  # fmt: skip


@pytest.mark.parametrize("use", NOT_UNDERSTOOD)
def test_parts_with_different_inputs_are_named(use):
    """Tracing is enough to tell."""

    def loss(params, x):
        return jnp.sum(NOT_UNDERSTOOD[use](params["net"]["w"], x)) + jnp.sum(x @ params["other"])

    params = {"net": STACK, "other": STACK["w"][0]}
    reason = (
        "a part of axis 0 is used at a time, with different inputs; jax.lax.scan over that axis"
    )
    with pytest.raises(ValueError, match=rf"'net/w': {reason}.*skip=\['net/w'\]"):
        jax.eval_shape(tritia.with_layer_inputs(loss), params, X)
    with pytest.raises(ValueError, match=reason):
        tritia.layer_axes(loss)(params, X)
    assert list(tritia.layer_axes(loss, skip=["net"])(params, X)) == ["net/w", "other"]


def test_columns_with_inputs_of_their_own_are_summed():
    """As in a GRU, whose columns for the candidate state meet r * h, the others h."""

    def model(w, x):
        return jnp.tanh(x @ w[:, :2]) @ jnp.ones((2, D)) @ w[:, 2:]

    second = jnp.tanh(X @ STACK["w"][0, :, :2]) @ jnp.ones((2, D))
    inputs, _ = _traced(model, STACK["w"][0], X)
    _check_grams(inputs[""], MatrixAxes((0,), (1,)), [_gram(X) + _gram(second)])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_part_of_a_window_is_no_kernel(groups):
    """One row of a kernel's window: the inputs of the others are not there."""

    def loss(kernel, x):
        layout = ("NWC", "WIO", "NWC")
        return jnp.sum(
            jax.lax.conv_general_dilated(
                x, kernel[:1], (1,), "SAME", dimension_numbers=layout, feature_group_count=groups
            )
        )

    with pytest.raises(ValueError, match="a part of axis 0"):
        tritia.layer_axes(loss)(_normal(0, 3, 2, 4), _normal(1, N, 5, 2 * groups))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda axes: tritia.scale_by_input_gram(axes=axes),
        pytest.param(
            lambda axes: tritia.spectral_momentum(1e-2, input_gram=True, axes=axes),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["scale_by_input_gram", "spectral_momentum"],
)
def test_optimizers_treat_an_unrolled_stack_as_a_scanned_one(optimizer):
    updates = {}
    for model in (_scan, _loop):
        transform = optimizer(tritia.layer_axes(_loss_of(model))(STACK, X))
        state, params = transform.init(STACK), STACK
        update = jax.jit(transform.update)
        for _ in range(2):
            inputs, grads = _traced(model, params, X)
            changes, state = update(grads, state, params, layer_inputs=inputs)
            params = optax.apply_updates(params, changes)
        updates[model] = changes["w"]
    np.testing.assert_allclose(updates[_loop], updates[_scan], rtol=1e-3, atol=1e-6)
