"""Seeds and sweeps run as one computation and compute what each would alone."""

import dataclasses
import inspect
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia._compare import datasets, network, timing, training, tuning
from tritia._compare.optimizers import LEFT_OUT, OPTIMIZERS, Optimizer, learning_rates
from tritia._compare.own_code import look_up

EPOCHS = 2


@pytest.fixture(scope="module")
def wine():
    return training.prepare(datasets.DATASETS["wine"](None), (6,), seeds=3, batch_size=None)


@pytest.fixture(scope="module")
def diabetes():
    return training.prepare(datasets.DATASETS["diabetes"](None), (6,), seeds=2, batch_size=None)


def train(bench, optimizer, setting, epochs=EPOCHS):
    compiled = training.compile_training(bench, optimizer, setting)
    return training.train(bench, optimizer, compiled, epochs)[0]


def by_hand(bench, seed, transform, epochs):
    """The plain loop anybody would write, for one seed, without vmap or scan."""
    dataset, split = bench.dataset, jax.tree.map(lambda leaf: leaf[seed], bench.splits)
    inputs = (dataset.inputs - split.input_shift) * split.input_scale
    targets = jnp.asarray(dataset.targets)
    if dataset.task == "regression":
        targets = (targets - split.target_shift) * split.target_scale
    params = jax.tree.map(lambda leaf: leaf[seed], bench.initial)

    def loss(params, rows):
        outputs = bench.net.apply(params, inputs[rows])
        if dataset.task == "regression":
            return jnp.mean((outputs - targets[rows]) ** 2)
        logs = jax.nn.log_softmax(outputs)
        return -jnp.mean(logs[jnp.arange(len(rows)), targets[rows]])

    @jax.jit
    def step(params, state, rows):
        updates, state = transform.update(jax.grad(loss)(params, rows), state, params)
        return optax.apply_updates(params, updates), state

    state = transform.init(params)
    for epoch in range(epochs):
        for positions in bench.batches(OPTIMIZERS["sgd"], epoch)[seed]:
            params, state = step(params, state, split.training[positions])
    outputs = np.asarray(bench.net.apply(params, inputs[split.test]))
    answers = np.asarray(targets[split.test])
    if dataset.task == "regression":
        variation = ((answers - answers.mean(0)) ** 2).sum()
        metric = 1 - ((outputs - answers) ** 2).sum() / variation
    else:
        metric = (outputs.argmax(1) == answers).mean()
    return float(loss(params, split.training)), float(metric)


@pytest.mark.parametrize(
    ("bench", "seed"), [("wine", 2), pytest.param("diabetes", 1, marks=pytest.mark.slow)]
)
def test_a_vmapped_seed_is_the_plain_loop(bench, seed, request):
    bench = request.getfixturevalue(bench)
    curves = train(bench, OPTIMIZERS["adam"], {"learning_rate": 0.01})
    loss, metric = by_hand(bench, seed, optax.adam(0.01), EPOCHS)
    np.testing.assert_allclose(curves.training_loss[seed, -1], loss, rtol=1e-4)
    np.testing.assert_allclose(curves.test_metric[seed, -1], metric, rtol=1e-3)
    assert curves.training_loss.shape == (bench.seeds, EPOCHS + 1)


def test_seeds_differ_in_initial_weights_order_and_rows(wine):
    kernels = jax.tree.leaves(wine.initial)[1]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(*wine.batches(OPTIMIZERS["sgd"], 0)[:2])
    assert not np.array_equal(wine.splits.training[0], wine.splits.training[1])


def test_an_epoch_sees_each_row_at_most_once_and_epochs_differ(wine):
    first, second = (wine.batches(OPTIMIZERS["sgd"], epoch) for epoch in (0, 1))
    assert first.shape == (3, wine.training_rows // 16, 16)
    for seed in range(3):
        assert len(np.unique(first[seed])) == first[seed].size
    assert not np.array_equal(first, second)


def test_evaluation_in_chunks_is_evaluation_at_once(wine, monkeypatch):
    functions = training.functions(wine, OPTIMIZERS["sgd"])
    carry = functions.start(
        {"learning_rate": 0.1}, jax.tree.map(lambda leaf: leaf[0], wine.initial)
    )
    split = jax.tree.map(lambda leaf: leaf[0], wine.splits)
    at_once = functions.evaluate(carry, wine.rows, split, "training")
    monkeypatch.setattr(training, "_CHUNK_ENTRIES", 13 * 10)  # 10 rows a chunk, the last padded
    in_chunks = functions.evaluate(carry, wine.rows, split, "training")
    np.testing.assert_allclose(in_chunks, at_once, rtol=1e-5)


def test_a_sweep_is_its_settings_one_by_one(wine):
    settings = [{"learning_rate": rate} for rate in (0.01, 0.1)]
    metrics, losses = tuning.validate(wine, OPTIMIZERS["sgd"], settings, EPOCHS)
    alone = tuning.validate(wine, OPTIMIZERS["sgd"], settings[1:], EPOCHS)
    np.testing.assert_allclose((metrics[1], losses[1]), np.ravel(alone), rtol=1e-4)
    assert losses[0] != losses[1]


def test_tuning_never_reads_test_rows(wine):
    poisoned = wine.rows.inputs.at[wine.splits.test[0]].set(jnp.nan)
    bench = dataclasses.replace(wine, rows=wine.rows._replace(inputs=poisoned))
    settings = [{"learning_rate": 0.1}]
    found = tuning.validate(bench, OPTIMIZERS["sgd"], settings, EPOCHS)
    assert found == tuning.validate(wine, OPTIMIZERS["sgd"], settings, EPOCHS)
    assert np.isfinite(found).all()


def test_a_sweep_goes_on_beyond_its_edge_and_says_where_it_stopped(wine, monkeypatch):
    tried = []

    def better_when(closer_to):
        def validate(bench, optimizer, settings, epochs, progress):
            tried.append([setting["learning_rate"] for setting in settings])
            distance = [abs(math.log(setting["learning_rate"] / closer_to)) for setting in settings]
            return [-d for d in distance], distance

        return validate

    sgd = OPTIMIZERS["sgd"]
    monkeypatch.setattr(tuning, "validate", better_when(0.3))
    found = tuning.tune(wine, sgd, 1)
    assert (found.setting, found.at_edge, len(tried)) == ({"learning_rate": 0.3}, "", 1)

    tried.clear()
    monkeypatch.setattr(tuning, "validate", better_when(20.0))
    found = tuning.tune(wine, sgd, 1)
    assert (found.setting, found.at_edge, len(tried)) == ({"learning_rate": 30.0}, "", 2)

    tried.clear()
    monkeypatch.setattr(tuning, "validate", better_when(1e-30))
    found = tuning.tune(wine, sgd, 1)
    assert (found.at_edge, len(tried)) == ("lowest", 1 + tuning.EXTENSIONS)
    assert found.setting["learning_rate"] == min(map(min, tried))


def test_learning_rates_neither_overlap_nor_leave_gaps():
    rates = [rate for step in (-1, 0, 1) for rate in learning_rates(0.1, step)]
    ratios = np.divide(rates[1:], rates[:-1])
    assert ((ratios > 2.9) & (ratios < 3.4)).all()
    assert learning_rates(0.1)[3] == 0.1


def test_a_diverging_setting_scores_minus_infinity(wine):
    found = tuning.validate(wine.only(0, 1), OPTIMIZERS["sgd"], [{"learning_rate": 1e12}], EPOCHS)
    assert found == ([-math.inf], [math.inf])


def test_all_learning_rates_diverging_is_said(wine, monkeypatch):
    def validate(bench, optimizer, settings, epochs, progress):
        return [-math.inf] * len(settings), [math.inf] * len(settings)

    monkeypatch.setattr(tuning, "validate", validate)
    found = tuning.tune(wine, OPTIMIZERS["sgd"], 1)
    assert found.failed
    assert found.at_edge == "lowest"
    assert found.setting == min(found.tried, key=lambda setting: setting["learning_rate"])


def test_the_registry_holds_every_optax_optimizer_that_needs_a_learning_rate():
    import inspect

    for module in (optax, optax.contrib):
        for name in dir(module):
            factory = getattr(module, name)
            if name.startswith(("_", "scale_by")) or not inspect.isfunction(factory):
                continue
            if "learning_rate" in inspect.signature(factory).parameters:
                assert (name in OPTIMIZERS) != (name in LEFT_OUT), name


@pytest.mark.parametrize(
    "name", ["adams_bashforth2", "adams_bashforth3", "bdf2", "bdf3"]
    + [f"difference{steps}" for steps in (3, 4, 5)]
)  # fmt: skip
def test_tritias_optimizers_are_called_what_the_report_says(name):
    assert OPTIMIZERS[name].ours
    params, gradient = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.1])
    ours = OPTIMIZERS[name].build({"learning_rate": 0.1}, None)
    theirs = eval(OPTIMIZERS[name].call, {"tritia": tritia, "learning_rate": 0.1})
    states = [transform.init(params) for transform in (ours, theirs)]
    for _ in range(4):
        updates, states = zip(
            *[
                transform.update(gradient, state, params)
                for transform, state in zip((ours, theirs), states, strict=True)
            ],
            strict=True,
        )
        np.testing.assert_array_equal(*updates)


# One optimizer of each kind that the registry can describe, next to what it must equal.


def two_gradients(learning_rate):
    """Heun's method, written out: the mean of the gradients here and one Euler step ahead."""

    def update(updates, state, params, *, grad_fn):
        ahead = grad_fn(jax.tree.map(lambda p, g: p - learning_rate * g, params, updates))
        mean = jax.tree.map(lambda g, a: -learning_rate * (g + a) / 2, updates, ahead)
        return mean, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def test_an_optimizer_can_ask_for_the_gradient_elsewhere(wine):
    heun = Optimizer(
        "heun",
        lambda setting, task: two_gradients(setting["learning_rate"]),
        0.1,
        gradients_per_step=2,
        extra="grad_fn",
    )
    mine = train(wine, heun, {"learning_rate": 0.1})
    registered = train(wine, OPTIMIZERS["heun"], {"learning_rate": 0.1})
    np.testing.assert_allclose(mine.training_loss, registered.training_loss, rtol=1e-4)


def test_an_optimizer_can_ask_for_the_loss(wine):
    losses = train(wine, OPTIMIZERS["lbfgs"], {}, 10).training_loss
    # Its line search accepts no step that raises the loss.
    assert (np.diff(losses, axis=1) <= 1e-5).all()
    assert (losses[:, -1] < 0.05 * losses[:, 0]).all()


def test_an_optimizer_can_ask_for_examples_and_report_diagnostics(wine):
    kind = wine.net.task

    def build(setting, task):
        assert task.rows == wine.training_rows

        def update(updates, state, params, *, inputs, targets):
            assert updates is None
            assert inputs.shape[0] == task.rows

            def loss(params):
                return jnp.mean(network.row_losses(kind, wine.net.apply(params, inputs), targets))

            value, gradient = jax.value_and_grad(loss)(params)
            step = jax.tree.map(lambda g: -setting["rate"] * g, gradient)
            return step, {"objective": value}

        return optax.GradientTransformationExtraArgs(
            lambda params: {"objective": jnp.zeros(())}, update
        )

    solver = Optimizer(
        "solver",
        build,
        None,
        coefficients={"rate": (0.1, 1e-6)},
        extra="examples",
        full_batch=True,
        diagnostics=lambda state: state,
    )
    assert wine.steps_per_epoch(solver) == 1
    found = tuning.tune(wine, solver, EPOCHS)
    assert found.setting["rate"] == pytest.approx(0.1)
    curves = train(wine, solver, found.setting)
    full_batch = dataclasses.replace(OPTIMIZERS["sgd"], full_batch=True)
    expected = train(wine, full_batch, {"learning_rate": 0.1})
    np.testing.assert_allclose(curves.training_loss, expected.training_loss, rtol=1e-4)
    # The objective after a step is the loss before it.
    objective = curves.diagnostics["objective"]
    np.testing.assert_allclose(objective[:, 1:], curves.training_loss[:, :-1], rtol=1e-4)


def test_what_is_evaluated_may_differ_from_the_loops_params(wine):
    still = dataclasses.replace(
        OPTIMIZERS["sgd"],
        evaluation_params=lambda state, params: jax.tree.map(jnp.zeros_like, params),
    )
    curves = train(wine, still, {"learning_rate": 0.1})
    np.testing.assert_allclose(curves.training_loss, math.log(3), rtol=1e-5)


def test_coefficients_are_tuned_after_the_learning_rate(wine, monkeypatch):
    seen = []

    def validate(bench, optimizer, settings, epochs, progress):
        seen.append(settings)
        score = [
            -abs(math.log10(setting["learning_rate"])) + setting["predict"] for setting in settings
        ]
        return score, [0.0] * len(settings)

    monkeypatch.setattr(tuning, "validate", validate)
    optimizer = dataclasses.replace(OPTIMIZERS["triple_inertia_sgd"], learning_rate=1.0)
    found = tuning.tune(wine, optimizer, 1)
    assert found.setting["learning_rate"] == 1.0
    assert found.setting["predict"] == max(optimizer.coefficients["predict"])
    assert len(seen) == 2
    assert all(setting["learning_rate"] == 1.0 for setting in seen[1])
    assert len(found.tried) == len({tuple(setting.items()) for setting in found.tried})


def test_tiam_tunes_its_weight_decay_on_the_budget_of_a_learning_rate(wine):
    """Every lane against `tritia.tiam` with this decay alone, in a plain loop."""
    bench = wine.only(0, 1)
    found = tuning.tune(bench, OPTIMIZERS["tiam"], EPOCHS)
    assert len(found.tried) == len(learning_rates(1.0))
    assert found.tried[0]["mu"] == inspect.signature(tritia.tiam).parameters["mu"].default
    split = jax.tree.map(lambda leaf: leaf[0], bench.splits)

    def rows(numbers):
        return training.gather(bench.dataset, bench.rows, split, numbers)

    inputs, targets = rows(split.training)
    for setting, loss in zip(found.tried[::3], found.losses[::3], strict=True):
        params = jax.tree.map(lambda leaf: leaf[0], bench.initial)
        solver = tritia.tiam(bench.training_rows, mu=setting["mu"])
        state = solver.init(params)
        step = jax.jit(solver.update)
        for _ in range(EPOCHS):
            updates, state = step(None, state, params, inputs=inputs, targets=targets)
            params = optax.apply_updates(params, updates)
        held_out, labels = rows(split.validation)
        alone = network.row_losses(bench.net.task, bench.net.apply(params, held_out), labels)
        np.testing.assert_allclose(loss, alone.mean(), rtol=2e-3)
    best = max(zip(found.scores, np.negative(found.losses), range(7), strict=True))[2]
    assert found.setting == found.tried[best]


def test_a_method_without_a_learning_rate_is_trained(wine):
    found = tuning.tune(wine.only(0, 1), OPTIMIZERS["cocob"], 1)
    assert found.setting == {}
    assert np.isfinite(found.scores[0])


@pytest.mark.parametrize("name", ["triple_inertia_sgd", "schedule_free_sgd", "rprop", "lamb"])
def test_registered_optimizers_of_every_kind_train(wine, name):
    optimizer = OPTIMIZERS[name]
    setting = {key: values[0] for key, values in optimizer.coefficients.items()}
    curves = train(
        wine.only(0, 2), optimizer, {"learning_rate": optimizer.learning_rate, **setting}
    )
    assert (curves.training_loss[:, -1] < curves.training_loss[:, 0]).all()


def test_epochs_are_timed_in_turn_and_divided_by_the_seeds(wine, monkeypatch):
    order, now = [], iter(range(10_000))
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(now)))
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "_BUDGET_SECONDS", math.inf)

    def compiled(name):
        def epoch(carry, batches):
            order.append(name)
            return carry

        return training.Compiled(None, epoch, None, 0.0, None, None, None)

    chosen = look_up(["sgd", "adam"], [])
    seconds = timing.time_epochs(wine, chosen, {name: compiled(name) for name in chosen})
    assert order == ["sgd", "adam"] * (1 + timing.ROUNDS)
    assert seconds["adam"] == [1.0 / wine.seeds] * timing.ROUNDS
