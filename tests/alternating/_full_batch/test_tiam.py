"""The transform: what it learns, what it accepts and refuses, and its state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia.alternating import _examples as examples, halving, smooth_loss
from tritia.alternating._blocks.rows import Rows

N, D, K = 40, 6, 3


def make_params(*sizes, seed=0, dtype=jnp.float32, bias=True):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    return [
        {
            "kernel": (jax.random.normal(key, (i, o)) * (2 / i) ** 0.5).astype(dtype),
            **({"bias": jnp.zeros(o, dtype)} if bias else {}),
        }
        for key, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]


def make_data(n=N, seed=0):
    keys = jax.random.split(jax.random.key(100 + seed), 2)
    x = jax.random.normal(keys[0], (n, D))
    labels = jnp.argmax(x[:, :K] * x[:, K:] + 0.1 * jax.random.normal(keys[1], (n, K)), axis=1)
    return x, labels


def apply(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer.get("bias", 0))
    return x @ params[-1]["kernel"] + params[-1].get("bias", 0)


@functools.partial(jax.jit, static_argnums=0)
def train_step(solver, params, state, x, y, extra):
    updates, state = solver.update(None, state, params, inputs=x, targets=y, **extra)
    return optax.apply_updates(params, updates), state


def train(solver, params, x, y, steps, **extra):
    """Compiled once for each solver and shapes: a test that trains twice keeps its solver."""
    state = solver.init(params)
    for _ in range(steps):
        params, state = train_step(solver, params, state, x, y, extra)
    return params, state


def assert_close(actual, expected, tolerance=1e-4):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_the_defaults_learn():
    x, y = make_data(400)
    params, state = train(tritia.tiam(400), make_params(D, 40, 40, K), x, y, 50)
    fresh_x, fresh_y = make_data(400, seed=1)
    assert float(jnp.mean(apply(params, x).argmax(axis=1) == y)) >= 0.85
    assert float(jnp.mean(apply(params, fresh_x).argmax(axis=1) == fresh_y)) >= 0.76
    report = tritia.tiam_diagnostics(state)
    assert bool(report.finite)
    assert not bool(report.inputs_changed)
    assert report.coupling_residual.shape == (2,)
    assert report.step_norms.shape == (3,)
    assert float(report.objective) >= float(report.loss) > 0


def test_the_objective_is_the_documented_one():
    """Penalties of every layer and the diagnostics, against the docstring's formulas in NumPy."""
    x, y = make_data()
    before = make_params(D, 8, 5, K)
    rho, gamma, mu, q = 0.02, 0.03, 0.4, 3.0
    solver = tritia.tiam(N, rho=rho, gamma=gamma, mu=mu, penalty_growth=q, standardize=False)
    params, state = train(solver, before, x, y, 1)
    z = [np.asarray(block, float) for block in state.pre_activations]
    a = [np.asarray(x, float), *(np.asarray(block, float) for block in state.activations)]
    shifted = z[2] - z[2].max(axis=1, keepdims=True)
    loss = np.sum(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(N), np.asarray(y)])
    objective = loss
    for layer, width in enumerate((D, 8, 5)):  # l = layer + 1, L = 3
        kernel = np.asarray(params[layer]["kernel"], float)
        fit = a[layer] @ kernel + np.asarray(params[layer]["bias"])
        rho_l = rho * q ** (layer - 2)
        objective += 0.5 * rho_l * np.sum((z[layer] - fit) ** 2)
        objective += 0.5 * mu * rho_l * width * np.sum(kernel**2)
        if layer < 2:
            gap = a[layer + 1] - np.maximum(z[layer], 0)
            objective += 0.5 * gamma * q ** (layer - 1.5) * np.sum(gap**2)
    report = tritia.tiam_diagnostics(state)
    np.testing.assert_allclose(report.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(report.objective, objective, rtol=1e-5)
    steps = [np.linalg.norm(w["kernel"] - v["kernel"]) for w, v in zip(params, before, strict=True)]
    np.testing.assert_allclose(report.step_norms, steps, rtol=1e-4)


@pytest.mark.parametrize(
    "preset", [tritia.dlam, pytest.param(tritia.mdlam, marks=pytest.mark.slow), tritia.bcd]
)
def test_the_published_methods_run(preset):
    x, y = make_data()
    params = make_params(D, 20, K)
    before = optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()
    params, state = train(preset(N), params, x, y, 40)
    after = optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()
    assert float(after) < float(before)
    if preset is not tritia.bcd:
        assert float(jnp.max(tritia.tiam_diagnostics(state).coupling_residual)) <= 1e-3 + 1e-5


def test_one_layer_of_squared_error_is_ridge_regression(x64):
    """z is eliminated: min over z of |z-y|^2/2 + rho|z-m|^2/2 is rho/(1+rho) |y-m|^2/2."""
    x, _ = make_data()
    x = x.astype(float)
    y = x @ jnp.ones((D, 2)) + jnp.sin(x[:, :2])
    rho, mu = 0.5, 0.3
    solver = tritia.tiam(
        N,
        loss="squared_error",
        rho=rho,
        mu=mu,
        scale_mu=False,
        standardize=False,
        inertia=tritia.Inertia(),
    )
    params, _ = train(solver, make_params(D, 2, dtype=float), x, y, 400)
    centred, target = x - x.mean(0), y - y.mean(0)
    lam = mu * (1 + rho) / rho
    kernel = jnp.linalg.solve(centred.T @ centred + lam * jnp.eye(D), centred.T @ target)
    np.testing.assert_allclose(params[0]["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(params[0]["bias"], y.mean(0) - x.mean(0) @ kernel, atol=1e-6)


def test_one_layer_of_logistic_regression_reaches_its_optimum(x64):
    """The problem is convex in (W, b, z) together: where its gradient is zero is the optimum."""
    x, y = make_data()
    x = x.astype(float)
    params = make_params(D, K, dtype=float)
    rho, mu = 1.0, 0.5
    solver = tritia.tiam(
        N,
        rho=rho,
        mu=mu,
        scale_mu=False,
        standardize=False,
        inertia=tritia.Inertia(0.0, 0.0, 0.5),
    )

    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = solver.update(None, state, params, inputs=x, targets=y)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, solver.init(params)), length=1500)[0]

    def objective(params, z):
        rows = optax.softmax_cross_entropy_with_integer_labels(z, y)
        fit = 0.5 * rho * jnp.sum((z - apply(params, x)) ** 2)
        return rows.sum() + fit + 0.5 * mu * jnp.sum(params[0]["kernel"] ** 2)

    params, state = jax.jit(run)(params)
    gradient = jax.grad(objective, argnums=(0, 1))(params, state.pre_activations[0])
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)) < 1e-6


def test_missing_biases_stay_missing():
    x, y = make_data()
    params = make_params(D, 20, K, bias=False)
    trained, _ = train(tritia.tiam(N), params, x, y, 10)
    assert jax.tree.structure(trained) == jax.tree.structure(params)
    assert float(jnp.mean(apply(trained, x).argmax(axis=1) == y)) > 0.8


@pytest.mark.parametrize(
    "kernel_step", ["exact", pytest.param("line_search", marks=pytest.mark.slow)]
)
def test_padded_rows_change_nothing(kernel_step):
    x, y = make_data()
    params = make_params(D, 8, K)
    alone, _ = train(tritia.tiam(N, kernel_step=kernel_step), params, x, y, 5)
    padded_x = jnp.concatenate([x, jnp.full((7, D), jnp.nan)])
    padded_y = jnp.concatenate([y, jnp.full(7, -1)])
    weights = (jnp.arange(N + 7) < N).astype(float)
    solver = tritia.tiam(N + 7, kernel_step=kernel_step)
    padded, state = train(solver, params, padded_x, padded_y, 5, weights=weights)
    assert_close(padded, alone, 2e-3)
    assert bool(tritia.tiam_diagnostics(state).finite)


@pytest.mark.parametrize(
    ("kernel_step", "hidden"),
    [pytest.param("auto", 64, marks=pytest.mark.slow), ("line_search", 15)],
)
def test_rows_of_weight_zero_stay_bounded(kernel_step, hidden):
    """Going on from fits that no block pass made for them, they grew by a third an update."""
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.random.normal(keys[0], (N, 120))
    y = jax.random.randint(keys[1], (N,), 0, K)
    weights = (jnp.arange(N) < 30).astype(float)
    solver = tritia.tiam(N, kernel_step=kernel_step)
    _, state = train(solver, make_params(120, hidden, K), x, y, 40, weights=weights)
    assert all(float(jnp.max(jnp.abs(a))) < 100 for a in state.activations)


def test_a_sum_over_rows_ignores_nan_in_rows_of_weight_zero():
    rows = Rows(jnp.array([[2.0], [0.0]]))
    assert float(rows.sum(jnp.array([[1.0, 3.0], [jnp.nan, jnp.inf]]))) == 8.0


def test_a_weight_of_two_is_the_row_twice():
    x, y = make_data()
    params = make_params(D, 8, K)
    weighted, _ = train(tritia.tiam(N), params, x, y, 4, weights=jnp.where(y == 0, 2.0, 1.0))
    again = jnp.concatenate([jnp.arange(N), jnp.flatnonzero(y == 0)])
    twice, _ = train(tritia.tiam(len(again)), params, x[again], y[again], 4)
    assert_close(weighted, twice, 2e-3)


def test_one_hot_targets_are_labels():
    x, y = make_data()
    params = make_params(D, 8, K)
    labels, _ = train(tritia.tiam(N), params, x, y, 3)
    one_hot, _ = train(tritia.tiam(N), params, x, jax.nn.one_hot(y, K), 3)
    assert_close(one_hot, labels, 1e-6)


@pytest.mark.parametrize(
    "loss", ["squared_error", pytest.param("sigmoid_cross_entropy", marks=pytest.mark.slow)]
)
def test_a_flat_target_is_a_column(loss):
    x, y = make_data()
    column = make_params(D, 8, 1)
    target = (y == 0).astype(jnp.float32)
    flat, _ = train(tritia.tiam(N, loss=loss), column, x, target, 3)
    shaped, _ = train(tritia.tiam(N, loss=loss), column, x, target[:, None], 3)
    assert_close(flat, shaped, 1e-6)


def test_a_users_loss_is_the_named_one():
    x, _ = make_data()
    y = jnp.stack([x[:, 0] * x[:, 1], jnp.abs(x[:, 2])], axis=1)
    params = make_params(D, 8, 2)
    mine = smooth_loss(lambda z, y: 0.5 * jnp.sum((z - y) ** 2, axis=-1))
    named, _ = train(tritia.tiam(N, loss="squared_error"), params, x, y, 3)
    own, _ = train(tritia.tiam(N, loss=mine), params, x, y, 3)
    assert_close(own, named, 1e-3)


def test_inertia_per_kind_of_block():
    x, y = make_data()
    params = make_params(D, 8, K)
    same = {
        kind: tritia.Inertia(0.0, 0.0, 0.4)
        for kind in ("kernels", "biases", "pre_activations", "activations", "outputs")
    }
    together, _ = train(tritia.tiam(N, inertia=same["kernels"]), params, x, y, 3)
    each, _ = train(tritia.tiam(N, inertia=same), params, x, y, 3)
    assert_close(each, together, 1e-6)
    partial, _ = train(tritia.tiam(N, inertia={"kernels": same["kernels"]}), params, x, y, 3)
    assert float(jnp.max(jnp.abs(partial[0]["kernel"] - together[0]["kernel"]))) > 1e-4


def test_history_is_kept_only_where_it_is_read():
    params = make_params(D, 8, K)
    assert tritia.tiam(N).init(params).displacement == ()
    momentum = tritia.Inertia(0.5, 0.5, 0.0)
    state = tritia.tiam(N, inertia=momentum).init(params)
    assert jax.tree.structure(state.displacement) == jax.tree.structure(params)
    both = tritia.tiam(N, inertia=momentum, coupling="inequality").init(params)
    assert len(both.activation_displacements) == 1


DEGENERATE = ("one row", "constant columns", "duplicate columns", "wide")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float64])
def test_dtypes(dtype, x64):
    x, y = make_data()
    params = make_params(D, 20, K, dtype=dtype)
    trained, state = train(tritia.tiam(N), params, x, y, 20)
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype(dtype)}
    wide = jnp.promote_types(dtype, jnp.float32)
    assert {z.dtype for z in state.pre_activations} == {wide}
    accuracy = jnp.mean(apply(jax.tree.map(lambda w: w.astype(float), trained), x).argmax(1) == y)
    assert float(accuracy) > 0.85


@pytest.mark.parametrize(
    ("kernel_step", "case"),
    [
        *(
            pytest.param("exact", case, marks=pytest.mark.slow if case == "wide" else [])
            for case in DEGENERATE
        ),
        *(
            pytest.param("line_search", case, marks=[] if case == "wide" else pytest.mark.slow)
            for case in DEGENERATE
        ),
    ],
)
def test_degenerate_data_gives_no_nan(case, kernel_step):
    x, y = make_data()
    if case == "one row":
        x, y = x[:1], y[:1]
    elif case == "constant columns":
        x = x.at[:, 1:].set(3.0)
    elif case == "duplicate columns":
        x = jnp.concatenate([x[:, :3]] * 2, axis=1)
    else:
        x, y = x[:4], y[:4]
    solver = tritia.tiam(len(x), kernel_step=kernel_step, mu=0.0)
    params, state = train(solver, make_params(D, 8, K), x, y, 5)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((params, state)))


def test_schedules_and_changed_params():
    """A schedule is read at each step, and damping by the rest of the chain does no harm."""
    x, y = make_data()
    params = make_params(D, 8, K)
    jump = optax.piecewise_constant_schedule(3e-3, {2: 10.0})
    fixed, jumping = tritia.tiam(N, rho=3e-3), tritia.tiam(N, rho=jump)
    constant, _ = train(fixed, params, x, y, 2)
    scheduled, _ = train(jumping, params, x, y, 2)
    assert_close(scheduled, constant, 1e-5)
    later, _ = train(jumping, params, x, y, 4)
    still, _ = train(fixed, params, x, y, 4)
    assert float(jnp.max(jnp.abs(later[0]["kernel"] - still[0]["kernel"]))) > 1e-4
    damping = optax.chain(tritia.tiam(N), optax.scale(0.5))
    damped, state = train(damping, params, x, y, 30)
    assert float(jnp.mean(apply(damped, x).argmax(axis=1) == y)) > 0.85
    assert bool(tritia.tiam_diagnostics(state).finite)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"kernel_step": "exact"}, marks=pytest.mark.slow),
        pytest.param({"kernel_step": "line_search"}, marks=pytest.mark.slow),
        {"kernel_step": "backtracking", "inertia": tritia.Inertia(0.5, 0.5, 0.3)},
        {"coupling": "inequality", "block_order": "forward"},
        {"block_order": "symmetric", "kernel_step": "exact", "num_examples": 5},
    ],
    ids=str,
)
def test_kept_fits_are_those_that_would_be_computed(settings):
    """Zeros for the params that the fits belong to make every update compute its fits."""
    settings = {"num_examples": N, **settings}
    x, y = make_data(settings["num_examples"])
    solver = tritia.tiam(**settings)
    update = jax.jit(functools.partial(solver.update, None))
    kept = computed = make_params(D, 8, 5, K)
    kept_state = computed_state = solver.init(kept)
    for _ in range(6):
        updates, kept_state = update(kept_state, kept, inputs=x, targets=y)
        kept = optax.apply_updates(kept, updates)
        forgetful = computed_state._replace(fitted=jax.tree.map(jnp.zeros_like, kept))
        updates, computed_state = update(forgetful, computed, inputs=x, targets=y)
        computed = optax.apply_updates(computed, updates)
    assert_close(kept, computed, 1e-3)
    fits = [x, *kept_state.activations]
    for a, layer, fit in zip(fits, kept, kept_state.fits, strict=True):
        assert_close(fit, a @ layer["kernel"] + layer["bias"], 1e-4)


def test_fits_are_kept_for_the_params_they_belong_to():
    """NaN in the kept fits is seen where they are read, and only there."""
    x, y = make_data()
    solver = tritia.tiam(N)
    params, state = train(solver, make_params(D, 8, K), x, y, 3)
    update = jax.jit(functools.partial(solver.update, None))
    poisoned = state._replace(fits=jax.tree.map(lambda fit: jnp.nan * fit, state.fits))

    def finite(state, params, inputs=x):
        _, state = update(state, params, inputs=inputs, targets=y)
        return bool(tritia.tiam_diagnostics(state).finite)

    assert not finite(poisoned, params)
    assert finite(poisoned, jax.tree.map(lambda leaf: 1.001 * leaf, params))
    assert finite(poisoned, params, 1.001 * x)
    assert finite(poisoned._replace(count=jnp.int32(64)), params)


def test_halving():
    eps = halving(8.0, floor=0.5)
    assert [float(eps(k)) for k in (0, 1, 4, 5, 1000, 2**31 - 1)] == [8, 4, 0.5, 0.5, 0.5, 0.5]


def test_vmap_over_penalties_and_seeds():
    x, y = make_data()

    def run(seed, mu):
        solver = tritia.tiam(N, mu=mu)
        params = make_params(D, 8, K, seed=0)
        params = jax.tree.map(lambda w: w * (1 + 0.1 * seed), params)

        def body(carry, _):
            params, state = carry
            updates, state = solver.update(None, state, params, inputs=x, targets=y)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, solver.init(params)), length=3)[0][0]

    seeds, mus = jnp.array([0.0, 1.0]), jnp.array([1.0, 20.0])
    together = jax.jit(jax.vmap(run))(seeds, mus)
    alone = jax.jit(run)
    for i in range(2):
        expected = alone(seeds[i], mus[i])
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), expected, 1e-3)


def test_diagnostics_notice_other_inputs_and_nan_under_jit():
    x, y = make_data()
    solver, params = tritia.tiam(N), make_params(D, 8, K)

    @jax.jit
    def step(state, x, y):
        return solver.update(None, state, params, inputs=x, targets=y)[1]

    state = step(solver.init(params), x, y)
    assert not bool(tritia.tiam_diagnostics(step(state, x, y)).inputs_changed)
    assert bool(tritia.tiam_diagnostics(step(state, x[::-1], y)).inputs_changed)
    changed = step(step(state, x[::-1], y), x, y)
    assert bool(tritia.tiam_diagnostics(changed).inputs_changed)  # the flag stays
    assert not bool(
        tritia.tiam_diagnostics(step(solver.init(params), x.at[3, 2].set(jnp.nan), y)).finite
    )
    assert not bool(tritia.tiam_diagnostics(step(solver.init(params), x, y.at[3].set(K))).finite)
    with pytest.raises(ValueError, match=r"state holds 0 states of tritia\.tiam"):
        tritia.tiam_diagnostics(optax.sgd(0.1).init(params))


def test_diagnostics_notice_other_weights_and_negative_ones_under_jit():
    x, y = make_data()
    solver, params = tritia.tiam(N), make_params(D, 8, K)
    step = jax.jit(
        lambda state, w: solver.update(None, state, params, inputs=x, targets=y, weights=w)[1]
    )
    state = step(solver.init(params), jnp.ones(N))
    assert not bool(tritia.tiam_diagnostics(step(state, jnp.ones(N))).inputs_changed)
    assert bool(tritia.tiam_diagnostics(step(state, jnp.ones(N).at[3].set(9.0))).inputs_changed)
    negative = step(solver.init(params), jnp.ones(N).at[3].set(-1.0))
    assert not bool(tritia.tiam_diagnostics(negative).finite)


@pytest.mark.parametrize("shape", [(205, 30), (100, 20), (40, 6), (3, 5000)])
def test_the_fingerprint_looks_at_all_parts_of_the_inputs(shape):
    entries = jnp.arange(shape[0] * shape[1], dtype=jnp.float32).reshape(shape)
    seen = np.asarray(examples.fingerprint(entries))
    assert seen.shape == (examples.fingerprint_size(*shape),)
    assert len(np.unique(seen)) == len(seen)
    rows, columns = seen // shape[1], seen % shape[1]
    for positions, size in ((rows, shape[0]), (columns, shape[1])):
        parts = min(4, size)  # each quarter of the rows, and of the columns
        counts = np.bincount((positions * parts // size).astype(int), minlength=parts)
        assert counts.min() >= len(seen) / (2 * parts)


@pytest.mark.parametrize("kernel_step", ["exact", "backtracking"])
def test_a_coefficient_of_another_precision_changes_no_type(x64, kernel_step):
    x, y = make_data()
    x, params = x.astype(jnp.float32), make_params(D, 8, K)
    wide = np.float64(0.3)
    solver = tritia.tiam(
        N,
        kernel_step=kernel_step,
        inertia=tritia.Inertia(wide, lambda count: jnp.float64(0.3), wide),
    )

    def body(carry, _):
        params, state = carry
        updates, state = solver.update(None, state, params, inputs=x, targets=y)
        return (optax.apply_updates(params, updates), state), None

    # A carry that changes its types is refused here.
    jax.eval_shape(lambda p: jax.lax.scan(body, (p, solver.init(p)), length=2), params)


def bad_update(**changes):
    x, y = make_data()
    settings = {"inputs": x, "targets": y, "loss": "softmax_cross_entropy", "outputs": K} | changes
    solver = tritia.tiam(N, loss=settings.pop("loss"))
    params = make_params(D, 8, settings.pop("outputs"))
    return solver.update(None, solver.init(params), params, **settings)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inputs": None}, ValueError, r"inputs is missing: call .*update\(None, state, params, i"),
        ({"targets": None}, ValueError, "targets is missing"),
        ({"inputs": np.ones((N - 1, D))}, ValueError, f"{N - 1} rows.*num_examples={N}"),
        ({"inputs": np.ones((N, D + 1))}, ValueError, rf"shape \({N}, 7\).*takes {D} inputs"),
        ({"inputs": np.ones((N, 2, 3))}, ValueError, r"inputs has shape \(40, 2, 3\).*reshape"),
        ({"inputs": np.ones((N, D), complex)}, TypeError, "inputs has dtype complex"),
        ({"inputs": [[1.0] * D] * N}, TypeError, "inputs is a list; tiam needs an array"),
        (
            {"inputs": np.where(np.arange(N * D).reshape(N, D) == 45, np.nan, 1.0)},
            ValueError,
            "inputs is nan in row 7",
        ),
        ({"targets": np.full(N, K)}, ValueError, r"targets is 3 in row 0; allowed: class labels 0"),
        ({"targets": np.ones(N)}, TypeError, "integer class labels"),
        ({"targets": np.ones((N, K + 1))}, ValueError, r"\(40, 4\).*last layer has 3 outputs"),
        ({"targets": np.ones(N - 1, int)}, ValueError, "as many rows as inputs, 40"),
        ({"targets": np.full((N, K), 2.0)}, ValueError, r"targets is 2.0 in row 0.*\[0, 1\]"),
        (
            {"targets": np.full((N, K), np.inf), "loss": "squared_error"},
            ValueError,
            "targets is inf in row 0",
        ),
        ({"weights": np.ones(3)}, ValueError, r"weights has shape \(3,\).*\(40,\)"),
        ({"weights": -np.ones(N)}, ValueError, "weights is -1.0 in row 0"),
    ],
)
def test_bad_examples_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        bad_update(**changes)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"activation": "rely"}, ValueError, "activation is 'rely'.*Did you mean 'relu'"),
        ({"activation": 3}, TypeError, "activation must be a name"),
        ({"activation": "gelu", "coupling": "inequality"}, ValueError, "'gelu'.*not monotone"),
        ({"loss": "hinge"}, ValueError, "loss is 'hinge'; allowed: 'softmax_cross_entropy'"),
        ({"loss": 1}, TypeError, "loss must be a name"),
        ({"kernel_step": "cg"}, ValueError, "kernel_step is 'cg'"),
        ({"rho": 0.0}, ValueError, "rho is 0.0; allowed: 0 < rho"),
        ({"inertia": 0.3}, TypeError, "inertia must be a tritia.Inertia or a dict"),
        ({"inertia": {"kernel": tritia.Inertia()}}, ValueError, "Did you mean 'kernels'"),
        ({"inertia": {"kernels": 0.3}}, TypeError, r"inertia\['kernels'\] must be"),
        ({"inertia": tritia.Inertia("x")}, TypeError, "inertia of kernels: predict"),
        ({"safeguard": 1}, TypeError, "safeguard must be True or False"),
        ({"row_sharding": "data"}, TypeError, "row_sharding must be a jax.sharding.Sharding"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        tritia.tiam(N, **settings)
    with pytest.raises(ValueError, match="num_examples is 0"):
        tritia.tiam(0)


def test_a_wrong_number_of_activations_and_missing_params():
    params = make_params(D, 8, 8, K)
    with pytest.raises(ValueError, match=r"lists 1 activations, but params has 3 layers.*needs 2"):
        tritia.tiam(N, activation=["relu"]).init(params)
    solver = tritia.tiam(N, activation=["relu", "tanh"])
    x, y = make_data()
    with pytest.raises(ValueError, match=r"tiam needs params: call"):
        solver.update(None, solver.init(params), inputs=x, targets=y)
    for order in (3, "0", [0, 1, 2]):
        with pytest.raises(TypeError, match=r"layer_order is .*a sequence of the layers' paths"):
            tritia.tiam(N, layer_order=order).init(params)


@pytest.mark.slow
def test_row_sharding():
    assert len(jax.devices()) >= 2  # tests/conftest.py asks for two
    x, y = make_data()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = make_params(D, 60, K)  # wider than there are rows
    alone, _ = train(tritia.tiam(N), params, x, y, 3)
    solver = tritia.tiam(N, row_sharding=rows)
    state = solver.init(params)
    assert all(z.sharding.is_equivalent_to(rows, 2) for z in state.pre_activations)
    spread, after = train(solver, params, jax.device_put(x, rows), jax.device_put(y, rows), 3)
    assert all(z.sharding.is_equivalent_to(rows, 2) for z in after.pre_activations)
    assert_close(spread, alone, 1e-3)
    hlo = (
        jax.jit(functools.partial(solver.update, None))
        .lower(after, params, inputs=x, targets=y)
        .as_text()
    )
    assert f"tensor<{N}x{N}x" not in hlo


def test_state_and_data_may_be_closed_over_by_a_traced_function():
    x, y = make_data()
    params, solver = make_params(D, K), tritia.tiam(N)
    state = solver.init(params)

    def first_step(params):
        return solver.update(None, state, params, inputs=x, targets=y)[0]

    expected = jax.jit(
        lambda params, state: solver.update(None, state, params, inputs=x, targets=y)
    )
    assert_close(jax.jit(first_step)(params), expected(params, state)[0])
    bad = jnp.full_like(x, jnp.nan)
    with pytest.raises(ValueError, match="inputs is nan in row 0"):
        jax.jit(lambda p: solver.update(None, state, p, inputs=bad, targets=y)[0])(params)
