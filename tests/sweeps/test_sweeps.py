"""Sweeps: every run is what it would be alone, whatever is beside it, however grouped."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import tritia
from tritia import sweeps
from tritia.sweeps import _chunks as chunks

CURVATURE = jnp.array([1.0, 10.0, 30.0])
RATES = [0.001, 0.01, 0.03, 0.05]
STEPS, RECORDS = 12, 4


def quadratic(evaluate=None):
    return sweeps.plain_problem(
        init=lambda key: jax.random.normal(key, (3,)),
        loss=lambda params, batch: 0.5 * jnp.sum(batch * params**2),
        evaluate=evaluate,
    )


def descent(setting):
    return optax.sgd(setting["learning_rate"])


def quadratic_sweep(make=descent, problem=None, **options):
    arguments = {"steps": STEPS, "records": RECORDS, "seeds": 2, **options}
    return sweeps.build(make, problem or quadratic(), CURVATURE, **arguments)


def test_every_run_is_what_it_is_alone():
    make = lambda setting: tritia.difference(setting["learning_rate"])  # noqa: E731
    result = quadratic_sweep(make)(sweeps.grid(learning_rate=RATES))
    for i, rate in enumerate(RATES):
        for seed in range(2):
            params = jax.random.normal(jax.random.key(seed), (3,))
            optimizer = tritia.difference(rate)
            state, losses = optimizer.init(params), []
            update = jax.jit(optimizer.update)
            for _ in range(STEPS):
                losses.append(float(0.5 * jnp.sum(CURVATURE * params**2)))
                updates, state = update(CURVATURE * params, state, params)
                params = optax.apply_updates(params, updates)
            expected = np.reshape(losses, (RECORDS, -1)).mean(axis=1)
            np.testing.assert_allclose(result.losses[i, seed], expected, rtol=2e-5)
    np.testing.assert_array_equal(result.steps, [3, 6, 9, 12])
    np.testing.assert_allclose(result.scores, result.losses[:, :, -1].mean(axis=1))
    assert result.best == {"learning_rate": RATES[int(np.argmin(result.scores))]}
    assert result.at_once == (4, 2)


def test_the_loss_is_there_for_line_searches():
    found = quadratic_sweep(
        lambda setting: optax.lbfgs(memory_size=2, learning_rate=setting["learning_rate"]),
        seeds=np.arange(2),
    )(sweeps.grid(learning_rate=[1.0]))
    assert np.all(found.losses[0, :, -1] < 1e-3 * found.losses[0, :, 0])


def test_a_run_in_a_sweep_has_the_precision_of_a_run_alone(x64):
    found = quadratic_sweep(steps=1, records=1)(sweeps.grid(learning_rate=[0.1]))
    for seed in range(2):
        start = jax.random.normal(jax.random.key(seed), (3,))
        expected = start - 0.1 * (CURVATURE * start)
        np.testing.assert_allclose(found.params[seed], expected, rtol=1e-14)


def test_a_diverged_run_disturbs_no_other():
    rates = [0.01, 0.02, 0.03]
    sweep = quadratic_sweep(steps=200, records=4)
    calm = sweep(sweeps.grid(learning_rate=[*rates, 0.04]))
    wild = sweep(sweeps.grid(learning_rate=[*rates, 1e6]))
    assert not np.isfinite(wild.losses[3]).all()
    np.testing.assert_array_equal(wild.losses[:3], calm.losses[:3])
    np.testing.assert_array_equal(wild.scores[:3], calm.scores[:3])
    assert wild.scores[3] == np.inf
    np.testing.assert_array_equal(wild.diverged, [[False] * 2] * 3 + [[True] * 2])
    assert not calm.diverged.any()
    assert wild.best["learning_rate"] in rates


def test_a_diverged_run_does_not_disturb_steps_that_iterate():
    # The loop of rejected steps runs as long as any run needs it to.
    def adaptive(setting):
        return tritia.adaptive_runge_kutta(rtol=setting["rtol"], max_learning_rate=0.05)

    sweep = quadratic_sweep(adaptive, steps=4, records=2)
    alone = sweep(sweeps.grid(rtol=[1e-2, 1e-2]))
    beside = sweep(sweeps.grid(rtol=[1e-2, 1e-9]))
    np.testing.assert_array_equal(beside.losses[0], alone.losses[0])
    assert not np.array_equal(beside.losses[1], alone.losses[1])


def test_all_may_diverge():
    result = quadratic_sweep(steps=40, records=2)(sweeps.grid(learning_rate=[1e9, 1e10]))
    assert np.all(result.scores == np.inf)
    assert result.diverged.all()
    assert result.best == {"learning_rate": 1e9}


WIDE = jnp.linspace(1.0, 30.0, 400)


def wide_sweep(**options):
    """On one device, where what fits is known; tests/eight_devices/lanes.py has more."""
    problem = sweeps.plain_problem(
        init=lambda key: jax.random.normal(key, (400,)),
        loss=lambda params, batch: 0.5 * jnp.sum(batch * params**2),
    )
    one = jax.sharding.Mesh(jax.devices()[:1], ("lanes",))
    arguments = {"steps": STEPS, "records": RECORDS, "mesh": one, **options}
    return sweeps.build(descent, problem, WIDE, **arguments)


@pytest.mark.parametrize("seeds", [1, 3])
def test_chunks_fit_the_memory_and_change_nothing(seeds):
    settings = sweeps.grid(learning_rate=list(np.linspace(0.001, 0.05, 7)))
    whole = wide_sweep(seeds=seeds)(settings)
    assert whole.at_once == (7, seeds)
    for share, most in ((2, 4 * seeds), (3, 3 * seeds)):
        memory = whole.bytes // share
        part = wide_sweep(seeds=seeds, memory=memory)(settings)
        assert part.bytes <= memory
        assert 1 <= part.at_once[0] * part.at_once[1] <= most
        np.testing.assert_allclose(part.losses, whole.losses, rtol=1e-5)
        chex.assert_trees_all_close(part.params, whole.params, rtol=1e-5)
        assert part.best == whole.best
    with pytest.raises(ValueError, match=r"memory is 20 bytes; one setting .* take \d+"):
        wide_sweep(memory=20)(settings)


def test_progress_is_reported_up_to_the_end():
    told = []
    settings = sweeps.grid(learning_rate=[0.001, 0.01, 0.02, 0.03, 0.04])
    options = {"halving": sweeps.Halving(2, 1), "progress": told.append}
    quadratic_sweep(**options)(settings)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert len(told) == RECORDS


def test_even_chunks():
    assert chunks.evenly(64, 64, 1) == (64, 1)
    assert chunks.evenly(40, 64, 1) == (32, 1)  # not 40 and 24
    assert chunks.evenly(7, 10, 3) == (2, 3)
    assert chunks.evenly(2, 10, 5) == (1, 2)
    assert [list(piece) for piece in chunks.split(5, 2)] == [[0, 1], [2, 3], [4, 4]]


@pytest.mark.parametrize("memory", [None, 60_000])
def test_halving_stops_the_worse_ones_and_leaves_the_others_alone(memory):
    settings = sweeps.grid(learning_rate=[*np.geomspace(0.0005, 0.05, 9), 1e12])
    halving = sweeps.Halving(factor=2, rungs=2)
    whole = wide_sweep(seeds=2)(settings)
    halved = wide_sweep(seeds=2, halving=halving, memory=memory)(settings)
    assert (halved.at_once == (10, 2)) == (memory is None)
    assert sorted(halved.trained) == [1] * 5 + [2] * 2 + [4] * 3
    for i, end in enumerate(halved.trained):
        np.testing.assert_allclose(halved.losses[i, :, :end], whole.losses[i, :, :end], rtol=1e-5)
        assert np.isnan(halved.losses[i, :, end:]).all()
    # At the first rung the five with the least loss after one record go on.
    first = np.where(np.isfinite(whole.losses).all((1, 2)), whole.losses[:, :, 0].mean(1), np.inf)
    assert set(np.flatnonzero(halved.trained > 1)) == set(np.argsort(first)[:5])
    finished = np.flatnonzero(halved.trained == 4)
    winner = finished[np.argmin(whole.scores[finished])]
    assert halved.best == settings[winner]
    np.testing.assert_array_equal(halved.diverged[-1], [True, True])
    with pytest.raises(
        ValueError, match="records is 4, too few for 3 rungs of factor 2: 8 are enough"
    ):
        quadratic_sweep(halving=sweeps.Halving(2, 3))


def test_one_compilation_serves_all_sweeps_of_a_size():
    traces = []

    def make(setting):
        traces.append(1)
        return descent(setting)

    sweep = quadratic_sweep(make)
    first = sweep(sweeps.grid(learning_rate=[0.01, 0.02]))
    count = len(traces)
    second = sweep(sweeps.grid(learning_rate=[0.02, 0.01]))
    assert len(traces) == count
    np.testing.assert_array_equal(first.losses, second.losses[::-1])


def test_evaluation_is_judged_at_the_iterate():
    def make(setting):
        return tritia.triple_inertia(optax.sgd(setting["learning_rate"]), predict=0.5, evaluate=0.9)

    def evaluate(params, data):
        return -jnp.sum(data * params**2)

    sweep = quadratic_sweep(make, quadratic(evaluate), maximise=True)
    result = sweep(sweeps.grid(learning_rate=RATES))
    best = int(np.argmax(result.scores))
    assert result.best == {"learning_rate": RATES[best]}
    value = np.mean([evaluate(result.params[seed], CURVATURE) for seed in range(2)])
    np.testing.assert_allclose(result.scores[best], value, rtol=1e-5)
    # By hand, in NumPy: e = u + 0.9 d.
    u = np.asarray(jax.random.normal(jax.random.key(1), (3,)), np.float64)
    d = np.zeros(3)
    for _ in range(STEPS):
        u_next = u + 0.5 * d - RATES[best] * np.asarray(CURVATURE) * (u + 0.9 * d)
        u, d = u_next, u_next - u
    np.testing.assert_allclose(result.params[1], u, rtol=1e-4, atol=1e-6)


def test_an_average_of_the_iterates_is_judged():
    def make(setting):
        return optax.chain(optax.sgd(setting["learning_rate"]), tritia.polyak_average(0.9))

    result = quadratic_sweep(make)(sweeps.grid(learning_rate=RATES[:1]))
    w = average = np.asarray(jax.random.normal(jax.random.key(1), (3,)), np.float64)
    for _ in range(STEPS):
        w = w - RATES[0] * np.asarray(CURVATURE) * w
        average = average + 0.1 * (w - average)
    np.testing.assert_allclose(result.params[1], average, rtol=1e-4)
    assert not np.allclose(average, w, rtol=1e-2)


@pytest.mark.parametrize("maximise", [False, True])
def test_the_best_record_of_each_seed_is_kept(maximise):
    """Against runs that end there; the goal lies on the way, and seeds get there at other times."""
    sign = -1 if maximise else 1

    def evaluate(params, data):
        return sign * jnp.abs(jnp.sum(data * params**2) - 2.0)

    grid = sweeps.grid(learning_rate=RATES)
    seeds = [0, 3, 4]
    options = {"maximise": maximise, "seeds": seeds}
    result = quadratic_sweep(problem=quadratic(evaluate), keep="best", **options)(grid)
    last = quadratic_sweep(problem=quadratic(evaluate), **options)(grid)
    np.testing.assert_array_equal(result.values, last.values)
    np.testing.assert_allclose(sign * result.scores, (sign * last.values).min(axis=2).mean(axis=1))
    best = RATES.index(result.best["learning_rate"])
    assert best == np.argmin(sign * result.scores)
    assert len(set(result.kept)) > 1
    assert list(last.kept) == [STEPS] * 3
    for place, (seed, steps) in enumerate(zip(seeds, result.kept, strict=True)):
        alone = quadratic_sweep(
            problem=quadratic(evaluate), seeds=[seed], steps=int(steps), records=1
        )
        np.testing.assert_allclose(
            result.params[place], alone([result.best]).params[0], rtol=1e-5, atol=1e-7
        )


def test_the_chosen_lane_of_a_path_of_tiam_is_tiam_with_this_decay_alone():
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(12, 3)), jnp.float32)
    y = jnp.sin(2 * x[:, :1])

    def init(key):
        keys = jax.random.split(key)
        shapes = [(3, 4), (4, 1)]
        return [
            {"kernel": jax.random.normal(k, shape) / 2, "bias": jnp.zeros(shape[1])}
            for k, shape in zip(keys, shapes, strict=True)
        ]

    def error(params, x, y):
        hidden = jax.nn.relu(x @ params[0]["kernel"] + params[0]["bias"])
        return jnp.mean((hidden @ params[1]["kernel"] + params[1]["bias"] - y) ** 2)

    problem = sweeps.plain_problem(
        init,
        lambda params, rows: error(params, rows["inputs"], rows["targets"]),
        evaluate=lambda params, data: error(params, x[8:], y[8:]),
    )
    path = sweeps.run(
        lambda setting: tritia.tiam(8, loss="squared_error", mu=setting["mu"]),
        sweeps.grid(mu=[0.01, 0.1, 1.0]),
        problem,
        {"inputs": x[:8], "targets": y[:8]},
        extra=lambda rows: rows,
        steps=6,
        keep="best",
    )
    params = init(jax.random.key(0))
    solver = tritia.tiam(8, loss="squared_error", mu=path.best["mu"])
    state, update = solver.init(params), jax.jit(solver.update)
    for _ in range(path.kept[0]):
        step, state = update(None, state, params, inputs=x[:8], targets=y[:8])
        params = optax.apply_updates(params, step)
    np.testing.assert_allclose(path.scores.min(), error(params, x[8:], y[8:]), rtol=1e-3)
    for found, wanted in zip(jax.tree.leaves(path.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found[0], wanted, rtol=5e-3, atol=1e-4)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def examples():
    x = jax.random.normal(jax.random.key(1), (20, 4))
    return {"x": x, "y": (x[:, 0] > 0).astype(jnp.int32)}


def cross_entropy(model, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(model(batch["x"]), batch["y"])
    return jnp.mean(losses)


def test_an_nnx_model_with_state_is_trained_as_in_its_own_loop():
    data = examples()
    problem = sweeps.nnx_problem(lambda rngs: Net(rngs), cross_entropy, evaluate=cross_entropy)
    batch = sweeps.minibatches(8)
    rates = [0.1, 0.5]
    result = sweeps.run(
        lambda setting: optax.sgd(setting["learning_rate"]),
        sweeps.grid(learning_rate=rates),
        problem,
        data,
        steps=6,
        seeds=[3],
        batch=batch,
    )
    model = Net(nnx.Rngs(jax.random.key(3)))
    optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        value, grads = nnx.value_and_grad(cross_entropy)(model, batch)
        optimizer.update(model, grads)
        return value

    key = jax.random.fold_in(jax.random.key(3), 1)
    losses = [float(step(model, optimizer, batch(key, i, data))) for i in range(6)]
    np.testing.assert_allclose(result.losses[1, 0], losses, rtol=1e-4)
    model.eval()
    np.testing.assert_allclose(result.values[1, 0, -1], cross_entropy(model, data), rtol=1e-4)


def test_a_linen_model_and_transforms_that_need_more_than_a_gradient():
    module = linen.Sequential([linen.Dense(5), linen.relu, linen.Dense(2)])
    data = examples()

    def loss(params, batch):
        outputs = module.apply({"params": params}, batch["x"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]))

    problem = sweeps.plain_problem(lambda key: module.init(key, data["x"])["params"], loss)
    settings = sweeps.grid(learning_rate=[0.1, 1.0])
    result = sweeps.run(
        lambda setting: tritia.rk4(setting["learning_rate"]),
        settings,
        problem,
        data,
        steps=5,
    )
    assert np.all(np.diff(result.losses[:, 0], axis=1) < 0)
    assert result.best == settings[1]

    solver = lambda setting: tritia.tiam(20, rho=setting["rho"])  # noqa: E731
    result = sweeps.run(
        solver,
        sweeps.grid(rho=[1e-3, 1e-2]),
        problem,
        data,
        steps=4,
        extra=lambda batch: {"inputs": batch["x"], "targets": batch["y"]},
    )
    assert np.all(result.losses[:, 0, -1] < result.losses[:, 0, 0])
    assert not np.array_equal(result.losses[0], result.losses[1])


class Study:
    """Numbers its trials; what Optuna would do is not tested here."""

    def __init__(self):
        self.asked, self.told = 0, []

    def ask(self):
        self.asked += 1
        return self.asked

    def tell(self, trial, value):
        self.told.append((trial, value))


def test_a_study_is_asked_and_told_in_batches():
    study = Study()
    suggest = lambda trial: {"learning_rate": RATES[trial - 1] if trial <= 4 else 1e9}  # noqa: E731
    sweep = quadratic_sweep(steps=40, records=2)
    results = sweeps.drive(study, suggest, sweep, batches=3, size=2)
    assert [trial for trial, _ in study.told] == [1, 2, 3, 4, 5, 6]
    expected = np.concatenate([result.scores for result in results])
    np.testing.assert_array_equal([value for _, value in study.told], expected)
    assert expected[4] == np.inf  # a study learns from it to stay away


def test_draws():
    settings = sweeps.draw(
        2000,
        seed=1,
        a=sweeps.log_uniform(1e-4, 1.0),
        b=sweeps.uniform(-1.0, 3.0),
        c=sweeps.choice([1, 2]),
        d=0.5,
    )
    a, b, c, d = (np.array([setting[name] for setting in settings]) for name in "abcd")
    assert a.min() >= 1e-4
    assert a.max() <= 1.0
    assert np.mean(np.log10(a)) == pytest.approx(-2, abs=0.1)
    assert np.mean(b) == pytest.approx(1, abs=0.1)
    assert np.mean(c) == pytest.approx(1.5, abs=0.05)
    assert set(c) == {1.0, 2.0}
    assert set(d) == {0.5}
    assert (
        sweeps.draw(3, seed=1, a=sweeps.uniform(0, 1))
        == (sweeps.draw(5, seed=1, a=sweeps.uniform(0, 1))[:3])
    )


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: sweeps.grid(), ValueError, "grid needs numbers"),
        (lambda: sweeps.grid(a=[]), ValueError, "no numbers for 'a'"),
        (lambda: sweeps.draw(0, a=1.0), ValueError, "count is 0"),
        (lambda: sweeps.draw(2), ValueError, "draw needs"),
        (lambda: sweeps.log_uniform(0, 1), ValueError, "0 < low"),
        (lambda: sweeps.uniform(1, 1), ValueError, "low < high"),
        (lambda: sweeps.uniform(-1e308, 1e308), ValueError, "low < high"),
        (lambda: sweeps.uniform(0, float("nan")), ValueError, "low < high"),
        (lambda: sweeps.choice([]), ValueError, "choice needs"),
        (lambda: sweeps.minibatches(0), ValueError, "size is 0"),
        (lambda: quadratic_sweep(steps=0), ValueError, "steps is 0"),
        (lambda: quadratic_sweep(records=5), ValueError, "must divide steps, 12"),
        (lambda: quadratic_sweep(seeds=0), ValueError, "seeds is 0"),
        (lambda: quadratic_sweep(seeds=[]), ValueError, "seeds is empty"),
        (lambda: quadratic_sweep(seeds=[0.2]), TypeError, "each of seeds"),
        (lambda: quadratic_sweep(seeds=[-1]), ValueError, "each of seeds is -1"),
        (lambda: sweeps.grid(rate=0.1), TypeError, "grid needs a list of numbers for 'rate'"),
        (
            lambda: quadratic_sweep()([{"learning_rate": "fast"}]),
            TypeError,
            "learning_rate is 'fast'",
        ),
        (lambda: quadratic_sweep(memory=0), ValueError, "memory is 0"),
        (lambda: quadratic_sweep(keep="first"), ValueError, "keep"),
        (lambda: quadratic_sweep(halving=3), TypeError, "halving must be"),
        (lambda: quadratic_sweep()([]), ValueError, "settings is empty"),
        (lambda: quadratic_sweep()([{}]), ValueError, "settings have no numbers"),
        (lambda: quadratic_sweep()({"a": 1}), TypeError, "settings must be a sequence of dicts"),
        (lambda: quadratic_sweep()([{"a": 1}, {"b": 1}]), ValueError, "the same names"),
    ],
)
def test_wrong_arguments_are_named(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


def test_a_schedule_that_needs_the_value_of_a_setting_is_explained():
    """optax 412: Optax compares the peak of this schedule with its ends when it is built."""

    def make(setting):
        return optax.sgd(optax.warmup_cosine_decay_schedule(0.0, setting["peak"], 2, 8))

    with pytest.raises(
        TypeError, match=r"warmup_cosine_decay_schedule.*\['peak'\] \* base\(count\)"
    ):
        sweeps.run(make, sweeps.grid(peak=[0.01, 0.03]), quadratic(), jnp.ones(3), steps=STEPS)
    base = optax.warmup_cosine_decay_schedule(0.0, 1.0, 2, 8)
    result = sweeps.run(
        lambda setting: optax.sgd(lambda count: setting["peak"] * base(count)),
        sweeps.grid(peak=[0.01, 0.03]),
        quadratic(),
        jnp.ones(3),
        steps=STEPS,
    )
    assert np.isfinite(result.losses).all()
