"""The solvers under JAX's promotion modes, on meshes, under autodiff, and given other data."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from jax.experimental import sparse
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import tritia

N, D, K = 12, 6, 3
X = jax.random.normal(jax.random.key(1), (N, D))
Y = jnp.arange(N) % K
INERTIA = tritia.Inertia(0.5, 0.4, 0.3)
HEAVY_BALL = tritia.Inertia(0.9)
SCHEDULE = optax.cosine_decay_schedule(0.3, 10)
HUBER = tritia.alternating.smooth_loss(lambda z, y: optax.huber_loss(z, y).sum(-1))


TWO_LAYERS, THREE_LAYERS = ((D, 8), (8, K)), ((D, 8), (8, 5), (5, K))
each_depth = pytest.mark.parametrize(
    "shapes",
    [
        pytest.param(TWO_LAYERS, id="two"),
        pytest.param(THREE_LAYERS, id="three", marks=pytest.mark.slow),
    ],
)


def make_params(dtype=jnp.float32, seed=0, shapes=THREE_LAYERS):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [
        {"kernel": jax.random.normal(key, shape, dtype), "bias": jnp.zeros(shape[1], dtype)}
        for key, shape in zip(keys, shapes, strict=True)
    ]


def arguments(name, params, x, y):
    if name != "scale_by_input_gram":
        return None, {"inputs": x, "targets": y}
    inputs = [x]
    for layer in params[:-1]:
        inputs.append(jax.nn.relu(inputs[-1] @ layer["kernel"] + layer["bias"]))
    named = {f"{i}/kernel": rows for i, rows in enumerate(inputs)}
    return jax.tree.map(lambda w: 0.1 * w, params), {"layer_inputs": named}


def step(name, solver, params, state, x, y, **extra):
    updates, given = arguments(name, params, x, y)
    updates, state = solver.update(updates, state, params, **given, **extra)
    return optax.apply_updates(params, updates), state


SETTINGS = [
    ("tiam", {}),
    ("tiam", {"kernel_step": "line_search", "inertia": INERTIA, "block_order": "forward"}),
    ("tiam", {"kernel_step": "backtracking", "inertia": INERTIA, "block_order": "symmetric"}),
    ("tiam", {"coupling": "inequality", "inertia": INERTIA}),
    ("tiam", {"activation": "tanh", "mu": SCHEDULE, "safeguard": False}),
    ("tiam", {"activation": "gelu", "loss": HUBER}),
    ("stochastic_tiam", {}),
    ("stochastic_tiam", {"step": HEAVY_BALL}),
    (
        "stochastic_tiam",
        {"learning_rate": SCHEDULE, "step": HEAVY_BALL, "target_step": "exact", "rank": 2},
    ),
    (
        "stochastic_tiam",
        {"activation": "tanh", "step": HEAVY_BALL, "target_step": "exact", "max_gram": 1},
    ),
    ("scale_by_input_gram", {}),
    ("scale_by_input_gram", {"rank": 2, "damping": SCHEDULE}),
    ("scale_by_input_gram", {"max_gram": 1}),
]
every_setting = pytest.mark.parametrize(
    ("name", "settings"),
    SETTINGS,
    ids=[f"{name}-{'-'.join(settings) or 'defaults'}" for name, settings in SETTINGS],
)


def make(name, settings):
    if name == "tiam":
        return tritia.tiam(N, **settings)
    if name == "stochastic_tiam":
        return tritia.stochastic_tiam(**{"learning_rate": 0.3, **settings})
    return tritia.scale_by_input_gram(**settings)


def targets_for(settings):
    return jax.nn.one_hot(Y, K) if settings.get("loss") is HUBER else Y


@every_setting
@pytest.mark.parametrize(
    "weights",
    [
        pytest.param(None, id="plain", marks=pytest.mark.slow),
        pytest.param(jnp.ones(N), id="weighted"),
    ],
)
def test_ranks_and_dtypes_are_not_promoted_implicitly(name, settings, weights):
    """JAX's strictest modes; with params narrower than the solver's arithmetic (jax 7368)."""
    params, solver = make_params(jnp.bfloat16), make(name, settings)
    x, y = X.astype(jnp.bfloat16), targets_for(settings)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        state = jax.eval_shape(solver.init, params)
        if name == "scale_by_input_gram":
            rows = {f"{i}/kernel": jnp.ones((N, width)) for i, width in enumerate((D, 8, 5))}
            given, updates = {"layer_inputs": rows}, params
        else:
            given, updates = {"inputs": x, "targets": y}, None
        update = functools.partial(solver.update, updates)
        after, _ = jax.eval_shape(
            lambda s, p: update(s, p, **given, weights=weights), state, params
        )
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("bfloat16")}


def trained_twice(name, solver, params, x, y):
    def body(carry, _):
        return step(name, solver, *carry, x, y), None

    return jax.lax.scan(body, (params, solver.init(params)), length=2)[0][0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tiam", {}),
        ("stochastic_tiam", {}),
        pytest.param("stochastic_tiam", {"step": HEAVY_BALL}, marks=pytest.mark.slow),
        ("scale_by_input_gram", {}),
    ],
)
@each_depth
def test_rows_over_explicit_axes(name, settings, shapes):
    """`jax.make_mesh`'s own axes: the rows are split, and so are the params where they can be."""
    solver, params = make(name, settings), make_params(shapes=shapes)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))

    def update(params, state, updates, given):
        return solver.update(updates, state, params, **given)

    updates, given = arguments(name, params, X, Y)
    alone, _ = jax.jit(update)(params, solver.init(params), updates, given)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P("data"))
        split = jax.tree.map(
            lambda leaf: jax.device_put(
                leaf, NamedSharding(mesh, P("data") if leaf.shape[0] % 2 == 0 else P())
            ),
            params,
        )
        given = jax.tree.map(lambda leaf: jax.device_put(leaf, rows), given)
        if updates is not None:
            updates = jax.tree.map(lambda u, p: jax.device_put(u, p.sharding), updates, split)
        spread, _ = jax.jit(update)(split, solver.init(split), updates, given)
    for update, leaf in zip(jax.tree.leaves(spread), jax.tree.leaves(split), strict=True):
        assert update.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
    chex.assert_trees_all_close(jax.device_get(spread), jax.device_get(alone), rtol=1e-3, atol=1e-4)


@every_setting
def test_params_that_vary_over_an_axis_of_shard_map(name, settings):
    """An ensemble, one member a device: the types of the state stay what `init` made them."""
    solver, y = make(name, settings), targets_for(settings)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def train(params, x, y):
        params = jax.tree.map(lambda leaf: leaf[0], params)

        def body(carry, _):
            return step(name, solver, *carry, x, y), None

        carry, _ = jax.lax.scan(body, (params, solver.init(params)), length=2)
        return jax.tree.map(lambda leaf: leaf[None], carry)

    specs = (P("data"), P(), P())
    sharded = jax.shard_map(train, mesh=mesh, in_specs=specs, out_specs=P("data"))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), make_params())
    after, _ = jax.eval_shape(sharded, stacked, X, y)
    chex.assert_trees_all_equal_shapes(after, stacked)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"step": HEAVY_BALL, "max_gram": 1}, marks=pytest.mark.slow),
        pytest.param(
            {"step": HEAVY_BALL, "target_step": "exact", "rank": 2}, marks=pytest.mark.slow
        ),
    ],
)
@each_depth
def test_minibatch_rows_over_shard_map_are_one_batch(settings, shapes):
    """Plain data parallelism: means are over all rows, and the params stay the same everywhere."""
    solver, params = make("stochastic_tiam", settings), make_params(shapes=shapes)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    train = functools.partial(trained_twice, "stochastic_tiam", solver)
    specs = (P(), P("data"), P("data"))
    sharded = jax.shard_map(train, mesh=mesh, in_specs=specs, out_specs=P())
    expected = jax.jit(train)(params, X, Y)
    chex.assert_trees_all_close(jax.jit(sharded)(params, X, Y), expected, rtol=1e-3, atol=1e-4)


def test_input_grams_of_rows_over_shard_map_are_of_one_batch():
    solver, params = make("scale_by_input_gram", {}), make_params()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def update(params, x):
        grads, given = arguments("scale_by_input_gram", params, x, Y)
        return solver.update(grads, solver.init(params), params, **given)[0]

    sharded = jax.shard_map(update, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    expected = jax.jit(update)(params, X)
    chex.assert_trees_all_close(jax.jit(sharded)(params, X), expected, rtol=1e-3, atol=1e-4)


def test_tiam_refuses_a_part_of_its_rows():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    solver = tritia.tiam(N // 2)
    specs = (P(), P("data"), P("data"))
    train = functools.partial(trained_twice, "tiam", solver)
    sharded = jax.shard_map(train, mesh=mesh, in_specs=specs, out_specs=P())
    with pytest.raises(ValueError, match=r"vary over the axes \['data'\].*needs all rows at once"):
        jax.eval_shape(sharded, make_params(), X, Y)


@pytest.mark.parametrize(
    ("name", "make_solver", "number"),
    [
        pytest.param(
            "stochastic_tiam", tritia.stochastic_tiam, 0.1, marks=pytest.mark.slow
        ),  # its Gram matrices are those of scale_by_input_gram
        pytest.param(
            "stochastic_tiam",
            lambda v: tritia.stochastic_tiam(v, step=HEAVY_BALL),
            0.3,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "stochastic_tiam",
            lambda v: tritia.stochastic_tiam(
                v, step=HEAVY_BALL, target_step="exact", activation="tanh"
            ),
            0.3,
            marks=pytest.mark.slow,
        ),
        ("scale_by_input_gram", lambda v: tritia.scale_by_input_gram(damping=v), 1.0),
        ("tiam", lambda v: tritia.tiam(N, mu=v), 0.1),
        pytest.param(
            "tiam",
            lambda v: tritia.tiam(N, rho=v, kernel_step="backtracking", activation="tanh"),
            0.01,
            marks=pytest.mark.slow,
        ),
    ],
)
@each_depth
def test_reverse_mode_is_forward_mode(name, make_solver, number, shapes):
    """A gradient by a hyperparameter through two updates, refreshes included (optax 228)."""

    def outcome(number):
        params = trained_twice(name, make_solver(number), make_params(shapes=shapes), X, Y)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    _, forward = jax.jit(lambda number: jax.jvp(outcome, (number,), (1.0,)))(number)
    assert float(jnp.abs(forward)) > 1e-3
    np.testing.assert_allclose(jax.jit(jax.grad(outcome))(number), forward, rtol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def update_at_a_rate(target_step, rate, params):
    solver = tritia.stochastic_tiam(
        lambda count: rate, step=HEAVY_BALL, target_step=target_step, activation="tanh"
    )
    return solver.update(None, solver.init(params), params, inputs=X, targets=Y)[0]


@pytest.mark.parametrize(
    ("dtype", "rate"),
    [*(("float32", rate) for rate in (0.0, 1e-45, 1e-39, 1e-6, 1e-3)), ("float64", 1e-6)],
)
def test_the_smallest_learning_rates(dtype, rate, x64):
    """A warm-up starts at 0. As the rate goes to 0 the step is the first-order one.

    The exact targets differ from it by 1.17 times the rate here, as float64 shows, and below the
    root of rounding by what they do at that root: float32 adds another hundredth of it.
    """
    params, rates = make_params(dtype), jnp.asarray(rate, dtype)
    exact, first_order = (
        update_at_a_rate(target_step, rates, params) for target_step in ("exact", "gradient")
    )
    chex.assert_tree_all_finite((exact, first_order))
    scale = max(rate, 1e-30)
    chex.assert_trees_all_close(
        jax.tree.map(lambda u: u / scale, exact),
        jax.tree.map(lambda u: u / scale, first_order),
        rtol=0,
        atol=1.2 * max(rate, float(jnp.finfo(dtype).eps) ** 0.5),
    )


@pytest.mark.parametrize(
    ("dtype", "classes"),
    [("uint8", 256), pytest.param("int8", 128, marks=pytest.mark.slow), ("int16", 5)],
)
@pytest.mark.parametrize("make_solver", [tritia.tiam, lambda n: tritia.stochastic_tiam(0.3)])
def test_labels_of_a_dtype_that_does_not_hold_the_number_of_classes(dtype, classes, make_solver):
    params = {"kernel": jnp.ones((D, classes)), "bias": jnp.zeros(classes)}
    solver = make_solver(N)
    labels = np.linspace(0, classes - 1, N).astype(int)

    def update(labels):
        # The labels stay concrete: they are looked at before anything is compiled.
        return jax.jit(
            lambda params: solver.update(
                None, solver.init(params), params, inputs=X, targets=labels
            )[0]
        )(params)

    narrow = update(labels.astype(dtype))
    chex.assert_tree_all_finite(narrow)
    chex.assert_trees_all_equal(narrow, update(labels))


@pytest.mark.parametrize("make_solver", [tritia.tiam, lambda n: tritia.stochastic_tiam(0.3)])
def test_part_of_a_network_is_refused(make_solver):
    """With the last layer frozen it trained the network that ends before it (optax 1109)."""
    params = make_params()
    labels = ["trained", "trained", "frozen"]
    transforms = {"trained": make_solver(N), "frozen": optax.set_to_zero()}
    with pytest.raises(ValueError, match=r"params '2' are masked.*needs all layers"):
        optax.partition(transforms, labels).init(params)


@pytest.mark.parametrize("make_solver", [tritia.tiam, lambda n: tritia.stochastic_tiam(0.3)])
@pytest.mark.parametrize("part", ["kernel", "bias"])
def test_integers_in_a_layer_are_refused_before_they_are_left_out(make_solver, part):
    params, solver = make_params(), make_solver(N)
    state = solver.init(params)
    params[1][part] = params[1][part].astype(int)
    message = rf"layer '1' has a {part} of dtype int32"
    with pytest.raises(TypeError, match=message):
        solver.init(params)
    with pytest.raises(TypeError, match=message):
        solver.update(None, state, params, inputs=X, targets=Y)


@pytest.mark.parametrize("frozen", [pytest.param(0, marks=pytest.mark.slow), 1, 2])
def test_updates_of_a_minibatch_may_be_masked_after_the_solver(frozen):
    params = make_params()
    mask = [{"kernel": i == frozen, "bias": i == frozen} for i in range(3)]
    solver = optax.chain(tritia.stochastic_tiam(0.1), optax.masked(optax.set_to_zero(), mask))

    def loss(params):
        x = X
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        logits = x @ params[-1]["kernel"] + params[-1]["bias"]
        return float(optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean())

    update = jax.jit(functools.partial(step, "stochastic_tiam", solver))
    trained, state = params, solver.init(params)
    for _ in range(20):
        trained, state = update(trained, state, X, Y)
    chex.assert_trees_all_equal(trained[frozen], params[frozen])
    assert loss(trained) < 0.6 * loss(params)


def test_input_grams_of_part_of_a_network_are_right():
    """Each layer's step stands alone: with the others masked it is the same."""
    params = make_params()
    grads, given = arguments("scale_by_input_gram", params, X, Y)
    whole = tritia.scale_by_input_gram()
    expected, _ = jax.jit(whole.update)(grads, whole.init(params), params, **given)
    part = optax.masked(tritia.scale_by_input_gram(), [False, False, True])
    updates, _ = jax.jit(part.update)(grads, part.init(params), params, **given)
    chex.assert_trees_all_close(updates[2], expected[2], rtol=1e-5)
    chex.assert_trees_all_equal(updates[:2], grads[:2])


def test_an_empty_minibatch_is_a_step_of_zero():
    params = make_params()
    solver = tritia.stochastic_tiam(0.3, step=HEAVY_BALL)
    updates, state = jax.jit(solver.update)(
        None, solver.init(params), params, inputs=X[:0], targets=Y[:0]
    )
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    assert float(state.inner_state.loss) == 0
    preconditioner = tritia.scale_by_input_gram()
    grads, given = arguments("scale_by_input_gram", params, X[:0], Y[:0])
    after, _ = jax.jit(preconditioner.update)(grads, preconditioner.init(params), params, **given)
    chex.assert_tree_all_finite(after)


class Frame:
    """What NumPy can convert, as a data frame is."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


@pytest.mark.parametrize("make_solver", [tritia.tiam, lambda n: tritia.stochastic_tiam(0.3)])
def test_other_containers_of_data(make_solver):
    params, solver = make_params(), make_solver(N)
    state = solver.init(params)

    def update(inputs=X, targets=Y):
        return jax.jit(
            lambda state, params: solver.update(
                None, state, params, inputs=inputs, targets=targets
            )[0]
        )(state, params)

    chex.assert_trees_all_equal(update(Frame(np.asarray(X)), Frame(np.asarray(Y))), update())
    with pytest.raises(TypeError, match=r"inputs is a csr_matrix.*pass inputs\.toarray\(\)"):
        update(scipy.sparse.csr_matrix(np.asarray(X)))
    with pytest.raises(TypeError, match=r"inputs is a BCOO.*pass inputs\.todense\(\)"):
        update(sparse.BCOO.fromdense(X))
    with pytest.raises(TypeError, match=r"targets has dtype <U.*np\.unique\(targets"):
        update(targets=np.array(["a", "b", "c"] * 4))


def test_values_that_other_processes_hold_are_not_read(monkeypatch):
    """Outside of jit, at the first update, NaN is looked for only where it can be."""
    params, solver = make_params(shapes=((D, K),)), tritia.tiam(N)
    spoilt = X.at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="inputs is nan in row 0"):
        solver.update(None, solver.init(params), params, inputs=spoilt, targets=Y)
    kind = type(X)
    monkeypatch.setattr(kind, "is_fully_addressable", property(lambda array: array.shape != (N, D)))
    _, state = solver.update(None, solver.init(params), params, inputs=spoilt, targets=Y)
    monkeypatch.undo()
    assert not bool(tritia.tiam_diagnostics(state).finite)
