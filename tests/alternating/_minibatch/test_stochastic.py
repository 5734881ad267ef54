"""Mini-batch TIAM against gradients by JAX, least squares by NumPy, and the full-batch blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia.alternating._blocks import activations as act, dense
from tritia.alternating._blocks.rows import Rows

inertial = functools.partial(tritia.stochastic_tiam, step=tritia.Inertia(0.9))
N, SIZES = 37, (5, 8, 6, 3)  # no layer has N inputs or outputs
TWO_LAYERS = (5, 8, 3)


def make_params(*sizes, seed=0, dtype=jnp.float32, bias=True):
    keys = jax.random.split(jax.random.key(seed), 2 * len(sizes))
    return [
        {
            "kernel": (jax.random.normal(key, (i, o)) * (2 / i) ** 0.5).astype(dtype),
            **({"bias": 0.1 * jax.random.normal(other, (o,)).astype(dtype)} if bias else {}),
        }
        for key, other, i, o in zip(keys[::2], keys[1::2], sizes[:-1], sizes[1:], strict=False)
    ]


def make_data(n=N, classes=3, seed=0):
    keys = jax.random.split(jax.random.key(100 + seed), 2)
    return jax.random.normal(keys[0], (n, 5)), jax.random.randint(keys[1], (n,), 0, classes)


def layer_inputs(params, x, h=jax.nn.relu):
    inputs = [x]
    for layer in params[:-1]:
        inputs.append(h(inputs[-1] @ layer["kernel"] + layer.get("bias", 0)))
    return inputs


def outputs(params, x, h=jax.nn.relu):
    return layer_inputs(params, x, h)[-1] @ params[-1]["kernel"] + params[-1].get("bias", 0)


def mean_loss(params, x, y, h=jax.nn.relu):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs(params, x, h), y))


def first_update(solver, params, x, y, **extra):
    """Compiled, because op by op takes seconds."""

    @jax.jit
    def update(params, x, y, extra):
        return solver.update(None, solver.init(params), params, inputs=x, targets=y, **extra)

    return update(params, x, y, extra)


def assert_close(actual, expected, tolerance=1e-5):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def with_ones(a):
    return np.concatenate([np.asarray(a), np.ones((len(a), 1))], axis=1)


def stacked(layer):
    return np.concatenate([np.asarray(layer["kernel"]), np.asarray(layer["bias"])[None]])


GRAMS = {"damping": 0.5, "refresh_period": 2, "factor_period": 2, "rank": None}


def four_steps(update, params, state):
    """The params and the state after four minibatches, of a function like an optimizer's update."""
    update, (x, y) = jax.jit(update), make_data()
    for i in (0, 10, 5, 17):
        updates, state = update(state, params, x[i : i + 20], y[i : i + 20])
        params = optax.apply_updates(params, updates)
    return params, state


def four_block_steps(solver, params):
    """The params after four minibatches, and their average."""
    params, state = four_steps(
        lambda state, params, x, y: solver.update(None, state, params, inputs=x, targets=y),
        params,
        solver.init(params),
    )
    return params, tritia.eval_params(state, params)


def test_the_default_step_is_that_of_spectral_momentum_with_input_grams():
    """Two ways to the same direction: block targets, and gradients times inverse Gram matrices."""
    params = make_params(*SIZES, bias=False)
    blocks = tritia.stochastic_tiam(0.1, step=tritia.SpectralStep(momentum=0.8, rank=2), **GRAMS)
    whole = tritia.spectral_momentum(
        0.1, momentum=0.8, rank=2, input_gram=tritia.scale_by_input_gram(**GRAMS)
    )
    recorded = jax.value_and_grad(tritia.with_layer_inputs(mean_loss), has_aux=True)

    def update(state, params, x, y):
        (_, inputs), grads = recorded(params, x, y)
        return whole.update(grads, state, params, layer_inputs=inputs)

    after, state = four_steps(update, params, whole.init(params))
    expected = after, tritia.eval_params(state, after)
    assert_close(four_block_steps(blocks, params), expected, 1e-3)


def test_a_bias_is_a_row_of_its_layer_that_does_not_decay():
    """With the bias in the kernel, and inputs with a column of ones, `spectral_momentum` itself."""
    params = make_params(*SIZES)
    blocks = tritia.stochastic_tiam(0.1, step=tritia.SpectralStep(weight_decay=0.2), **GRAMS)

    def apart(matrices):
        return [{"kernel": w[:-1], "bias": w[-1]} for w in matrices.values()]

    gram = tritia.scale_by_input_gram(**GRAMS)
    whole = tritia.spectral_momentum(0.1, weight_decay=0.0, input_gram=gram)
    average = tritia.polyak_average()

    def update_joined(states, matrices, x, y):
        grads = jax.grad(lambda matrices: mean_loss(apart(matrices), x, y))(matrices)
        rows = {
            str(i): jnp.pad(a, ((0, 0), (0, 1)), constant_values=1)
            for i, a in enumerate(layer_inputs(apart(matrices), x))
        }
        steps, first = whole.update(grads, states[0], matrices, layer_inputs=rows)
        steps = {name: s.at[:-1].add(-0.1 * 0.2 * matrices[name][:-1]) for name, s in steps.items()}
        return steps, (first, average.update(steps, states[1], matrices)[1])

    matrices = {str(i): jnp.asarray(stacked(layer)) for i, layer in enumerate(params)}
    start = whole.init(matrices), average.init(matrices)
    joined, (_, state) = four_steps(update_joined, matrices, start)
    expected = apart(joined), apart(state.average)
    assert_close(four_block_steps(blocks, params), expected, 1e-3)


def test_the_numbers_of_the_default_step_may_be_traced_or_schedules():
    params, (x, y) = make_params(*TWO_LAYERS), make_data()

    def update(weight_decay, momentum):
        step = tritia.SpectralStep(weight_decay, momentum)
        solver = tritia.stochastic_tiam(0.1, step=step)

        def once(params, state):
            updates, state = solver.update(None, state, params, inputs=x, targets=y)
            return optax.apply_updates(params, updates), state

        return once(*once(params, solver.init(params)))[0]

    traced = jax.jit(update)(0.2, 0.7)
    scheduled = jax.jit(lambda: update(lambda count: 0.2 + 0.1 * count, lambda count: 0.7 * count))
    assert_close(traced, jax.jit(lambda: update(0.2, 0.7))())
    # The first step has no momentum yet, whatever its coefficient.
    assert_close(scheduled(), jax.jit(lambda: update(lambda c: 0.2 + 0.1 * c, 0.7))())
    assert not np.allclose(scheduled()[0]["kernel"], traced[0]["kernel"])


def test_a_minibatch_without_weight_leaves_the_default_step_its_decay():
    params, (x, y) = make_params(*TWO_LAYERS), make_data()
    solver = tritia.stochastic_tiam(0.1)
    updates, state = first_update(solver, params, x, y, weights=jnp.zeros(N))
    for update, layer in zip(updates, params, strict=True):
        np.testing.assert_allclose(update["kernel"], -0.1 * 0.3 * layer["kernel"], rtol=1e-6)
        assert not np.any(update["bias"])
    assert float(state.block.loss) == 0


@pytest.mark.parametrize("activation", [pytest.param("relu", marks=pytest.mark.slow), "gelu"])
def test_with_large_damping_it_is_gradient_descent(x64, activation):
    params, (x, y) = make_params(*SIZES, dtype=jnp.float64), make_data()
    x = x.astype(jnp.float64)
    h = tritia.alternating.ACTIVATIONS[activation].value
    rate, damping = 0.7, 1e9
    solver = inertial(rate, activation=activation, damping=damping)
    updates, _ = first_update(solver, params, x, y)
    gradients = jax.jit(jax.grad(lambda p: mean_loss(p, x, y, h)))(params)
    inputs = jax.jit(lambda p: layer_inputs(p, x, h))(params)
    for update, gradient, a in zip(updates, gradients, inputs, strict=True):
        lam = damping * np.mean(with_ones(a) ** 2)
        scaled = jax.tree.map(lambda u, lam=lam: lam * u, update)
        assert_close(scaled, jax.tree.map(lambda g: -rate * g, gradient), 1e-7)


@pytest.mark.parametrize(
    ("bias", "target_step"),
    [
        (True, "gradient"),
        pytest.param(False, "gradient", marks=pytest.mark.slow),
        (False, "exact"),
    ],
)
def test_a_small_step_on_all_rows_is_the_full_batch_weight_block(x64, bias, target_step):
    """Same inputs, same targets: the kernels of `dense.kernel_exact`, which tiam uses."""
    params = make_params(*SIZES, dtype=jnp.float64, bias=bias)
    x, y = make_data()
    x = x.astype(jnp.float64)
    rate, damping = 1e-5, 0.0 if bias else 0.2  # the full-batch block leaves biases undamped
    solver = inertial(rate, damping=damping, target_step=target_step)
    updates, _ = first_update(solver, params, x, y)

    @jax.jit
    def full_batch_moves(params):
        moves = []
        for layer, a in enumerate(layer_inputs(params, x)):
            kernel, offset = params[layer]["kernel"], params[layer].get("bias")
            z = dense.fit(a, kernel, offset)

            def total_loss(z, rest=params[layer + 1 :]):
                out = outputs(rest, jax.nn.relu(z)) if rest else z
                return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(out, y))

            block = dense.kernel_exact(
                a,
                z - rate * jax.grad(total_loss)(z),
                dense.Layer(kernel, offset, z),
                rho=1.0,
                mu=0.0,
                tau=damping * N * jnp.mean(a**2),
                rows=Rows(),
                by_rows=False,
            )
            moves.append(block.moved / rate)
        return moves

    for update, moved in zip(updates, full_batch_moves(params), strict=True):
        np.testing.assert_allclose(update["kernel"] / rate, moved, rtol=1e-3, atol=1e-4)
        assert float(jnp.linalg.norm(moved)) > 1e-2


@pytest.mark.parametrize("target_step", ["gradient", "exact"])
def test_one_step_solves_least_squares(x64, target_step):
    """A linear layer: eta = 1 for a gradient step, eta = infinity for the prox itself."""
    x = jax.random.normal(jax.random.key(0), (N, 5), jnp.float64) * jnp.logspace(-2, 2, 5)
    y = jax.random.normal(jax.random.key(1), (N, 2), jnp.float64)
    params = make_params(5, 2, dtype=jnp.float64)
    rate = 1.0 if target_step == "gradient" else 1e12
    solver = inertial(rate, loss="squared_error", damping=0.0, target_step=target_step)
    updates, state = first_update(solver, params, x, y)
    solution = np.linalg.lstsq(with_ones(x), np.asarray(y), rcond=None)[0]
    np.testing.assert_allclose(
        stacked(optax.apply_updates(params, updates)[0]), solution, rtol=1e-5, atol=1e-8
    )
    before = 0.5 * np.mean(np.sum((with_ones(x) @ stacked(params[0]) - y) ** 2, axis=1))
    np.testing.assert_allclose(state.inner_state.loss, before, rtol=1e-12)


@pytest.mark.parametrize("activation", ["relu", pytest.param("silu", marks=pytest.mark.slow)])
def test_first_order_targets_are_the_exact_ones_to_first_order(x64, activation):
    params, (x, y) = make_params(*SIZES, dtype=jnp.float64), make_data()
    x = x.astype(jnp.float64)

    @jax.jit
    def gap(rate):
        steps = [
            first_update(inertial(rate, activation=activation, target_step=kind), params, x, y)[0]
            for kind in ("gradient", "exact")
        ]
        difference = jax.tree.map(jnp.subtract, *steps)
        norms = (
            optax.tree.norm(d) / optax.tree.norm(s)
            for d, s in zip(difference, steps[0], strict=True)
        )
        return jnp.stack(list(norms))

    gaps = np.array([gap(jnp.float64(rate)) for rate in (4e-4, 2e-4, 1e-4)])
    assert np.all(gaps > 1e-7)  # they do differ
    orders = np.log2(gaps[:-1] / gaps[1:])
    np.testing.assert_allclose(orders, 1.0, atol=0.05)


def test_exact_targets_are_the_blocks_of_tiam_with_equal_penalties(x64):
    params, x = make_params(*SIZES[:3], dtype=jnp.float64), make_data()[0]
    x = x.astype(jnp.float64)
    targets = jax.random.normal(jax.random.key(5), (N, 6), jnp.float64)
    rate = 0.5
    solver = inertial(rate, loss="squared_error", target_step="exact", rho=1 / rate, damping=0.0)
    updates, _ = first_update(solver, params, x, targets)
    z = x @ params[0]["kernel"] + params[0]["bias"]
    a = jax.nn.relu(z)
    top = a @ params[1]["kernel"] + params[1]["bias"]
    wanted = (targets + top / rate) / (1 + 1 / rate)
    a_star = dense.activation_penalty(
        a, params[1]["kernel"], params[1]["bias"], wanted, gamma=1 / rate, rho=1 / rate
    )
    z_star = act.prox(act.ACTIVATIONS["relu"], a_star, z, z, 1 / rate, 1 / rate)
    for update, inputs, move in ((updates[1], a, wanted - top), (updates[0], x, z_star - z)):
        solution = np.linalg.lstsq(with_ones(inputs), np.asarray(move), rcond=None)[0]
        np.testing.assert_allclose(stacked(update), solution, atol=1e-8)


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(tritia.stochastic_tiam(0.3), id="fixed size"),
        pytest.param(inertial(0.3), id="gradient", marks=pytest.mark.slow),
        pytest.param(inertial(0.3, target_step="exact"), id="exact"),
    ],
)
def test_rows_of_weight_zero_count_nothing(solver):
    params, (x, y) = make_params(*TWO_LAYERS), make_data()
    expected = first_update(solver, params, x, y)
    padded = (
        jnp.concatenate([x, jnp.full((4, 5), jnp.nan)]),
        jnp.concatenate([y, -jnp.ones(4, int)]),
    )
    weights = jnp.concatenate([jnp.ones(N), jnp.zeros(4)])
    assert_close(first_update(solver, params, *padded, weights=weights), expected)


def test_a_weight_of_two_is_a_row_twice_and_only_ratios_of_weights_matter():
    params, (x, y) = make_params(*TWO_LAYERS), make_data()
    solver = inertial(0.3)
    weights = jnp.ones(N).at[:7].set(2.0)
    twice = jnp.concatenate([x, x[:7]]), jnp.concatenate([y, y[:7]])
    expected = first_update(solver, params, *twice)
    assert_close(first_update(solver, params, x, y, weights=weights), expected)
    assert_close(first_update(solver, params, x, y, weights=10 * weights), expected)


def test_a_batch_without_any_weight_changes_nothing():
    params, (x, y) = make_params(*SIZES), make_data()
    solver = inertial(0.3)

    @jax.jit
    def update(state, weights):
        return solver.update(None, state, params, inputs=x, targets=y, weights=weights)

    updates, state = update(solver.init(params), jnp.zeros(N))
    assert_close(updates, jax.tree.map(jnp.zeros_like, params))
    # The next one is as if it were the first, whatever the periods.
    assert_close(update(state, jnp.ones(N))[0], first_update(solver, params, x, y)[0])


@pytest.mark.parametrize(
    "settings",
    [{}, *(pytest.param(s, marks=pytest.mark.slow) for s in ({"rank": 2}, {"max_gram": 5}))],
    ids=str,
)
def test_the_cheaper_order_of_products_is_the_same_step(settings):
    """Fewer rows than outputs and more rows than outputs go through different products."""
    params = make_params(5, 30, 3)
    x, y = make_data(20)
    solver = inertial(0.3, **settings)
    updates, _ = first_update(solver, params, x, y)
    again, _ = first_update(solver, params, jnp.tile(x, (2, 1)), jnp.tile(y, 2))
    assert_close(updates, again)


def test_it_is_the_preconditioner_applied_to_gradients():
    params, (x, y) = make_params(*SIZES), make_data()
    updates, _ = first_update(inertial(0.3, max_gram=7), params, x, y)
    solver = tritia.scale_by_input_gram(max_gram=7, rank=32)

    def joined(tree):  # kernel and bias as one matrix, for inputs with a column of ones
        return {
            str(i): jnp.concatenate([layer["kernel"], layer["bias"][None]])
            for i, layer in enumerate(tree)
        }

    @jax.jit
    def update(params):
        gradients = joined(jax.grad(mean_loss)(params, x, y))
        rows = {
            str(i): jnp.pad(a, ((0, 0), (0, 1)), constant_values=1)
            for i, a in enumerate(layer_inputs(params, x))
        }
        return solver.update(gradients, solver.init(gradients), layer_inputs=rows)

    scaled = update(params)[0]
    assert_close(joined(updates), jax.tree.map(lambda g: -0.3 * g, scaled))


def train(solver, params, batches, scan=True):
    def step(carry, batch):
        params, state = carry
        updates, state = solver.update(None, state, params, inputs=batch[0], targets=batch[1])
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda p: jax.lax.scan(step, (p, solver.init(p)), batches)[0])(params)


def make_batches(steps, n=16):
    x, y = make_data(steps * n)
    return x.reshape(steps, n, 5), y.reshape(steps, n)


def test_it_learns_in_one_scan():
    x = jax.random.normal(jax.random.key(0), (40, 32, 5))
    y = jnp.argmax(x[..., :3] * x[..., 1:4], axis=-1)
    solver = tritia.stochastic_tiam(0.6, step=tritia.Inertia(0.5, 0.5, 0.1))
    batches = jnp.tile(x, (8, 1, 1)), jnp.tile(y, (8, 1))
    params, state = train(solver, make_params(5, 32, 32, 3), batches)
    params = tritia.eval_params(state, params)
    accuracy = jnp.mean(outputs(params, x.reshape(-1, 5)).argmax(axis=1) == y.ravel())
    assert float(accuracy) > 0.9


def test_inertia_is_the_recursion_of_the_three_extrapolations():
    """By hand, with the block step of an uninertial solver at e, whose Gram is frozen."""
    p1, p2, p3 = 0.6, 0.4, 0.2
    batches = make_batches(5)
    settings = {"refresh_period": 1000, "factor_period": 1000}
    params = make_params(*TWO_LAYERS)
    e, state = train(
        tritia.stochastic_tiam(0.2, step=tritia.Inertia(p1, p2, p3), **settings), params, batches
    )
    plain = tritia.stochastic_tiam(0.2, step=None, **settings)

    @jax.jit
    def block_step(memory, at, x, y):
        return plain.update(None, memory, at, inputs=x, targets=y)

    u, d, memory = params, jax.tree.map(jnp.zeros_like, params), plain.init(params)
    for x, y in zip(*batches, strict=True):
        at = jax.tree.map(lambda u, d: u + p2 * d, u, d)
        s, memory = block_step(memory, at, x, y)
        v = jax.tree.map(lambda u, d, s: u + p1 * d + s, u, d, s)
        after = jax.tree.map(lambda u, v: v + p3 * (v - u), u, v)
        u, d = after, jax.tree.map(jnp.subtract, after, u)
    assert_close(e, jax.tree.map(lambda u, d: u + p2 * d, u, d), 1e-4)
    assert_close(tritia.eval_params(state, e), u, 1e-4)
    zero = tritia.stochastic_tiam(0.2, step=tritia.Inertia(), **settings)
    without, _ = train(zero, params, batches)
    assert_close(without, train(plain, params, batches)[0], 1e-6)


def test_decay_chained_after_it_acts_on_the_iterate():
    params, (x, y) = make_params(*TWO_LAYERS), make_data()
    solver = tritia.stochastic_tiam(0.2, step=tritia.Inertia(0.9, 0.9, 0.0))
    decayed = optax.chain(solver, optax.add_decayed_weights(-0.01))
    updates, state = first_update(decayed, params, x, y)
    expected, plain = first_update(solver, params, x, y)
    iterate = tritia.eval_params(plain, optax.apply_updates(params, expected))
    assert_close(
        tritia.eval_params(state, optax.apply_updates(params, updates)),
        jax.tree.map(lambda u, w: u - 0.01 * w, iterate, params),
    )


def test_clipping_chained_after_it_bounds_each_displacement():
    params, (x, y) = make_params(*TWO_LAYERS), make_data()
    most = 0.01
    solver = optax.chain(inertial(0.3), optax.clip_by_global_norm(most))

    @jax.jit
    def update(params, state):
        return solver.update(None, state, params, inputs=x, targets=y)

    state = solver.init(params)
    for _ in range(3):
        before = tritia.eval_params(state, params)
        updates, state = update(params, state)
        params = optax.apply_updates(params, updates)
        moved = jax.tree.map(jnp.subtract, tritia.eval_params(state, params), before)
        np.testing.assert_allclose(optax.tree.norm(moved), most, rtol=1e-4)


def test_the_state_has_no_row_for_an_example():
    params, (x, y) = make_params(*SIZES), make_data()
    solver = tritia.stochastic_tiam(0.2, step=tritia.Inertia(0.9, 0.9, 0.0))
    state = jax.eval_shape(lambda: first_update(solver, params, x, y))[1]
    assert all(N not in leaf.shape for leaf in jax.tree.leaves(state))

    def next_update(state):  # on a minibatch of another size
        x, y = make_data(11)
        return solver.update(None, state, params, inputs=x, targets=y)[1]

    assert jax.tree.map(jnp.shape, jax.eval_shape(next_update, state)) == jax.tree.map(
        jnp.shape, state
    )


def test_vmap_over_learning_rates_factors_in_lockstep():
    batches, params = make_batches(12), make_params(*TWO_LAYERS)
    rates = jnp.array([0.05, 0.2])

    @jax.jit
    def run(rate):
        solver = inertial(rate, refresh_period=2, factor_period=5)
        return train(solver, params, batches)[0]

    together = jax.vmap(run)(rates)
    for i, rate in enumerate(rates):
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), run(rate), 1e-4)
    # A batched count, as of a state that was stacked, keeps the conditionals.
    solver = inertial(0.1)
    state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), solver.init(params))
    x, y = make_data()
    jaxpr = jax.make_jaxpr(jax.vmap(lambda s: solver.update(None, s, params, inputs=x, targets=y)))(
        state
    )
    names = list(primitives(jaxpr.jaxpr))
    assert names.count("cond") == 2
    assert "dot_general" in names
    assert "cholesky" not in names


def primitives(jaxpr):
    """The names of all operations, those inside of conditionals left out."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name != "cond":
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda value: hasattr(value, "jaxpr")
            ):
                if hasattr(inner, "jaxpr"):
                    yield from primitives(inner.jaxpr)


@pytest.mark.parametrize(
    ("step", "target_step"),
    [
        (tritia.SpectralStep(), "gradient"),
        pytest.param(tritia.Inertia(0.9), "gradient", marks=pytest.mark.slow),
        (tritia.Inertia(0.9), "exact"),
    ],
)
def test_degenerate_minibatches_stay_finite(step, target_step):
    params = make_params(*TWO_LAYERS)
    solver = tritia.stochastic_tiam(0.1, step=step, target_step=target_step, damping=0.01)

    @jax.jit
    def update(params, x, y):
        return solver.update(None, solver.init(params), params, inputs=x, targets=y)

    labels = jnp.arange(8) % 3
    cases = [
        (params, jnp.ones((1, 5)), labels[:1]),
        (params, jnp.ones((8, 5)), 0 * labels),
        (params, jnp.zeros((8, 5)), labels),
        (params, 1e15 * jnp.ones((8, 5)), labels),
    ]
    if target_step == "gradient":  # without biases Gram matrices of zeros are zero
        cases.append((make_params(*TWO_LAYERS, bias=False), jnp.zeros((8, 5)), labels))
    for case in cases:
        for leaf in jax.tree.leaves(update(*case)):
            assert bool(jnp.all(jnp.isfinite(leaf)))


def test_nan_is_seen_and_stays_out_of_the_averages():
    params, (x, y) = make_params(*TWO_LAYERS), make_data()
    solver = tritia.stochastic_tiam(0.1, step=None)

    @jax.jit
    def update(state, x, y):
        return solver.update(None, state, params, inputs=x, targets=y)

    updates, state = update(solver.init(params), x.at[3, 2].set(jnp.nan), y)
    assert bool(jnp.isnan(state.loss))
    assert bool(jnp.isnan(updates[0]["kernel"]).any())
    updates, state = update(state, x, y)
    assert_close(updates, update(solver.init(params), x, y)[0])
    wrong = y.at[0].set(7)  # a label without a class
    assert bool(jnp.isnan(update(state, x, wrong)[1].loss))


@pytest.mark.parametrize(
    "make", [tritia.stochastic_tiam, pytest.param(inertial, marks=pytest.mark.slow)]
)
def test_half_precision_params_are_solved_in_float32(make):
    params, (x, y) = make_params(*TWO_LAYERS, dtype=jnp.bfloat16), make_data()
    updates, state = first_update(make(0.3), params, x, y)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    block = state.block if isinstance(state, tritia.SpectralStepState) else state.inner_state
    assert {leaf.dtype for leaf in block.grams.inverses} == {jnp.dtype("float32")}
    wide = jax.tree.map(lambda w: w.astype(jnp.float32), params)
    expected, _ = first_update(make(0.3), wide, x, y)
    assert_close(
        jax.tree.map(lambda w: w.astype(jnp.float32), updates),
        jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), expected),
    )


@pytest.mark.parametrize("target_step", ["gradient", "exact"])
def test_one_layer_alone(target_step):
    params, (x, y) = make_params(5, 3), make_data()
    solver = tritia.stochastic_tiam(
        1.0, target_step=target_step, damping=0.1, step=tritia.Inertia()
    )
    state = solver.init(params)
    step = jax.jit(lambda p, s: solver.update(None, s, p, inputs=x, targets=y))
    losses = []
    for _ in range(10):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(state.inner_state.loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_the_first_gram_matrix_may_be_given():
    params, batches = make_params(*SIZES), make_batches(6)
    rows = with_ones(batches[0].reshape(-1, 5))
    given = jnp.asarray(rows.T @ rows / len(rows), jnp.float32)
    settings = {"refresh_period": 1, "factor_period": 2, "damping": 0.1}
    _, state = train(inertial(0.1, input_gram=given, **settings), params, batches)
    memory = state.inner_state.grams
    assert_close(memory.grams[0], given)
    shifted = given + 0.1 * jnp.mean(jnp.diagonal(given)) * jnp.eye(6)
    assert_close(memory.inverses[0], np.linalg.inv(shifted), 1e-4)
    with pytest.raises(ValueError, match=r"input_gram has shape \(5, 5\).*\(6, 6\)"):
        inertial(0.1, input_gram=jnp.eye(5)).init(params)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": None}, ValueError, "inputs is missing"),
        ({"targets": None}, ValueError, "targets is missing"),
        ({"inputs": jnp.ones((N, 4))}, ValueError, r"inputs has shape \(37, 4\)"),
        ({"inputs": jnp.ones(N)}, ValueError, r"inputs has shape \(37,\)"),
        ({"targets": jnp.zeros(N + 1, int)}, ValueError, "as many rows as inputs, 37"),
        ({"targets": jnp.zeros(N)}, TypeError, "integer class labels"),
        ({"weights": jnp.ones(3)}, ValueError, r"weights has shape \(3,\)"),
        ({"params": None}, ValueError, "needs params"),
    ],
)
def test_what_update_refuses(arguments, error, message):
    params, (x, y) = make_params(*SIZES), make_data()
    solver = tritia.stochastic_tiam(0.1)
    given = {"params": params, "inputs": x, "targets": y, **arguments}
    with pytest.raises(error, match=message):
        solver.update(None, solver.init(params), **given)


def test_what_init_refuses():
    with pytest.raises(ValueError, match="needs 2"):
        tritia.stochastic_tiam(0.1, activation=["relu"]).init(make_params(*SIZES))
    with pytest.raises(ValueError, match="convolution"):
        tritia.stochastic_tiam(0.1).init({"kernel": jnp.ones((3, 3, 1, 4))})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"step": "spectral"}, TypeError, "step must be a tritia.SpectralStep, a tritia.Inertia"),
        ({"step": tritia.SpectralStep(-1.0)}, ValueError, "step: weight_decay"),
        ({"step": tritia.SpectralStep(momentum=1.0)}, ValueError, "step: momentum"),
        ({"step": tritia.SpectralStep(rank=-1)}, ValueError, "step: rank"),
        ({"step": tritia.Inertia(predict="fast")}, TypeError, "step: predict"),
        ({"target_step": "exact"}, ValueError, "target_step is 'exact'.*allowed with it"),
    ],
)
def test_what_is_refused_before_any_work(arguments, error, message):
    with pytest.raises(error, match=message):
        tritia.stochastic_tiam(0.1, **arguments)
