"""The estimators: scikit-learn's own checks, and what `fit` promises beyond them."""

import itertools
import pickle

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine, make_moons
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import tritia
from tritia.sklearn import TiamClassifier, TiamRegressor
from tritia.sklearn._estimators import _standard
from tritia.sklearn._folds import Fold, bucket, split
from tritia.sklearn._path import Data, Lanes, _advance, _draw, train_path

# Rows are drawn and held out at random, so that a weight of 2 is a row twice in expectation alone:
# what scikit-learn says of its own estimators that draw rows, such as RandomForestClassifier.
DRAWS = {
    f"check_sample_weight_equivalence_on_{kind}_data": "rows are drawn at random"
    for kind in ("dense", "sparse")
}
SMALL = {"hidden_layer_sizes": (8,), "random_state": 0}


@pytest.mark.slow
@parametrize_with_checks(
    [TiamClassifier(hidden_layer_sizes=(20,)), TiamRegressor(hidden_layer_sizes=(20,))],
    expected_failed_checks=lambda estimator: DRAWS,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def wine():
    x, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return x[order], y[order]


@pytest.fixture(scope="module")
def classifier():
    x, y = wine()
    return TiamClassifier(**SMALL).fit(x[:130], np.array(["red", "white", "rosé"])[y[:130]])


def test_string_labels_and_probabilities(classifier):
    x, y = wine()
    x, y = x[130:], np.array(["red", "white", "rosé"])[y[130:]]
    assert classifier.score(x, y) >= 0.9
    probabilities = classifier.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(
        classifier.classes_[probabilities.argmax(axis=1)], classifier.predict(x)
    )


def test_the_prediction_is_the_average_of_the_networks(classifier):
    """Against JAX, from the attributes, on standardised columns."""
    x = wine()[0]
    train = x[:130]
    inputs = (x - train.mean(axis=0)) / train.std(axis=0)
    mean = np.zeros((len(x), 3))
    for network in range(4):
        a = inputs
        for layer in classifier.params_[:-1]:
            a = np.asarray(jax.nn.relu(a @ layer["kernel"][network] + layer["bias"][network]))
        z = a @ classifier.params_[-1]["kernel"][network] + classifier.params_[-1]["bias"][network]
        mean += np.asarray(jax.nn.softmax(z, axis=1)) / 4
    np.testing.assert_allclose(classifier.predict_proba(x), mean, atol=1e-5)


def test_the_choice_is_the_lowest_loss_of_held_out_rows(classifier):
    losses = classifier.validation_losses_
    best_round, best_mu = np.unravel_index(losses.argmin(), losses.shape)
    assert classifier.mu_ == pytest.approx(classifier.mus_[best_mu])
    assert classifier.n_iter_ == (best_round + 1) * 30


@pytest.mark.parametrize(
    "solver", [pytest.param("tiam", marks=pytest.mark.slow), "stochastic_tiam"]
)
def test_scale_and_offset_of_the_columns_do_not_matter(solver):
    x, y = wine()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    scaled = x * np.logspace(-8, 8, x.shape[1]) + np.linspace(-100, 100, x.shape[1]) * np.logspace(
        -8, 8, x.shape[1]
    )
    model = TiamClassifier(**SMALL, solver=solver)
    plain = model.fit(x, y).predict_proba(x)
    np.testing.assert_allclose(model.fit(scaled, y).predict_proba(scaled), plain, atol=1e-3)


def test_a_seed_decides_everything(classifier):
    x, y = wine()
    labels = np.array(["red", "white", "rosé"])[y[:130]]
    again = clone(classifier).fit(x[:130], labels)
    np.testing.assert_array_equal(again.predict_proba(x), classifier.predict_proba(x))
    other = clone(classifier).set_params(random_state=1).fit(x[:130], labels)
    assert np.any(other.predict_proba(x) != classifier.predict_proba(x))


def test_a_fitted_estimator_is_pickled(classifier):
    x = wine()[0]
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copy.predict_proba(x), classifier.predict_proba(x))


def test_regression_of_one_and_of_several_outputs():
    x = np.random.default_rng(0).normal(size=(200, 3))
    y = np.stack([np.sin(x[:, 0]), 1000 * x[:, 1] + 5, np.full(200, 7.0)], axis=1)
    model = TiamRegressor(**SMALL).fit(x[:150], y[:150])
    assert model.predict(x).shape == y.shape
    assert r2_score(y[150:, :2], model.predict(x[150:])[:, :2]) > 0.9
    np.testing.assert_allclose(model.predict(x)[:, 2], 7)
    one = TiamRegressor(**SMALL).fit(x[:150], y[:150, 0])
    assert one.predict(x).shape == (200,)


def _far_out(name):
    """Columns whose largest entries lie tens of deviations away."""
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 4))
    columns = {
        "lognormal": np.exp(2 * x),
        "Student's t": random.standard_t(2, size=x.shape),
        "rare": np.c_[x, np.arange(300) == 7],
    }[name]
    return columns, np.tanh(columns[:, 0]) + 0.1 * random.standard_normal(300)


@pytest.mark.parametrize(
    "name",
    ["lognormal", *(pytest.param(n, marks=pytest.mark.slow) for n in ("Student's t", "rare"))],
)
def test_rows_far_out_do_not_make_it_diverge(name):
    x, y = _far_out(name)
    regressor = TiamRegressor(**SMALL).fit(x[:200], y[:200])
    assert np.all(np.isfinite(regressor.validation_losses_))
    assert regressor.score(x[200:], y[200:]) > 0.3


@pytest.mark.slow
def test_thousands_of_rows_of_a_regression():
    x = np.random.default_rng(0).standard_normal((9000, 3))
    y = x[:, 0] * x[:, 1]
    assert TiamRegressor(random_state=0).fit(x[:8500], y[:8500]).score(x[8500:], y[8500:]) > 0.95


def test_a_decay_that_diverges_does_not_stop_the_others(monkeypatch):
    calls = itertools.count(1)

    def advance(lanes, carry, *rest):
        return carry, np.array([np.nan, 1 / next(calls)])

    monkeypatch.setattr("tritia.sklearn._path._advance", advance)
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    training, validation = split(None, 20, 4, 4, np.random.RandomState(0))
    data = Data(x, x[:, :1], np.ones(20, np.float32), training, validation)
    lanes = Lanes((2, 4, 1), "squared_error", "stochastic_tiam")
    result = train_path(lanes, data, (0.1, 0.2), rounds=9, updates=2, patience=3, seed=0)
    assert result.mu == 0.2
    assert result.updates == 18
    np.testing.assert_array_equal(result.losses[:, 0], np.inf)


@pytest.mark.parametrize("factor", [1e-170, pytest.param(1e200, marks=pytest.mark.slow)])
def test_columns_whose_squares_leave_the_range_of_float64(factor):
    x, y = wine()
    model = TiamClassifier(**SMALL)
    plain = model.fit(x, y).predict_proba(x)
    np.testing.assert_allclose(model.fit(factor * x, y).predict_proba(factor * x), plain, atol=1e-3)


def test_rows_of_weight_zero_have_no_part_in_the_scale():
    mean, deviation = _standard(np.array([[1.0], [2.0], [1e170]]), np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose([mean[0], deviation[0]], [1.5, 0.5])


def test_few_wide_rows_are_tiams():
    x = np.random.default_rng(0).normal(size=(40, 60))
    y = (x[:, 0] > 0).astype(int)
    assert TiamClassifier(**SMALL).fit(x, y).solver_ == "tiam"
    assert TiamClassifier(**SMALL).fit(x[:, :20], y).solver_ == "stochastic_tiam"


def test_rows_of_weight_zero_are_no_rows():
    x, y = make_moons(80, noise=0.1, random_state=0)
    weights = np.r_[np.ones(60), np.zeros(20)]
    y_wrong = np.where(weights == 0, 1 - y, y)
    weighted = TiamClassifier(**SMALL).fit(x, y_wrong, sample_weight=weights)
    alone = TiamClassifier(**SMALL).fit(x[:60], y[:60])
    np.testing.assert_array_equal(weighted.predict_proba(x), alone.predict_proba(x))


def test_heavy_rows_decide():
    x, y = make_moons(120, noise=0.1, random_state=0)
    both = np.r_[x, x], np.r_[y, 1 - y]
    weights = np.r_[np.full(120, 9.0), np.ones(120)]
    model = TiamClassifier(**SMALL).fit(*both, sample_weight=weights)
    assert model.score(x, y) > 0.8


def test_in_a_pipeline_and_a_grid_search():
    x, y = load_diabetes(return_X_y=True)
    pipeline = make_pipeline(MinMaxScaler(), TiamRegressor(random_state=0))
    grid = {"tiamregressor__hidden_layer_sizes": [(4,), (8,)]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x[:200], y[:200])
    ridge = Ridge().fit(x[:200], y[:200]).score(x[200:], y[200:])
    assert search.score(x[200:], y[200:]) > ridge - 0.1


def test_columns_of_a_data_frame_are_named():
    pandas = pytest.importorskip("pandas")
    x, y = wine()
    frame = pandas.DataFrame(x, columns=[f"column{i}" for i in range(x.shape[1])])
    model = TiamClassifier(**SMALL).fit(frame, pandas.Series(y))
    assert list(model.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[frame.columns[::-1]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_layer_sizes": 100}, TypeError, "hidden_layer_sizes must be a sequence"),
        ({"hidden_layer_sizes": (8, 0)}, ValueError, r"integers >= 1; got \(8, 0\)"),
        ({"hidden_layer_sizes": (2.5,)}, ValueError, r"integers >= 1; got \(2.5,\)"),
        ({"solver": "adam"}, ValueError, "solver is 'adam'; allowed: 'auto', 'tiam'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    x, y = wine()
    with pytest.raises(error, match=message):
        TiamClassifier(**arguments).fit(x, y)


def test_bad_tables_are_refused():
    x, y = wine()
    with pytest.raises(ValueError, match=r"one class, \[0.0\], .* at least two"):
        TiamClassifier().fit(x, np.zeros(len(y)))
    with pytest.raises(ValueError, match="n_samples=1 with a positive weight"):
        TiamRegressor().fit(x[:3], y[:3], sample_weight=[1, 0, 0])
    with pytest.raises(ValueError, match="Negative values in data"):
        TiamRegressor().fit(x[:3], y[:3], sample_weight=[1, -1, 1])


@pytest.mark.parametrize("folds", [1, 3])
def test_folds_hold_out_each_row_once_and_spread_the_classes(folds):
    classes = np.array([0] * 9 + [1] * 6)
    training, validation = split(classes, 15, folds, 3, np.random.RandomState(0))
    assert training.rows.shape == (folds, bucket(10))
    seen = []
    for fold in range(folds):
        kept = training.rows[fold, : training.count[fold]]
        held_out = validation.rows[fold, : validation.count[fold]]
        assert sorted([*kept, *held_out]) == list(range(15))
        assert np.bincount(classes[held_out]).tolist() == [3, 2]
        seen.extend(held_out)
    assert len(set(seen)) == len(seen) == 5 * folds


def _he(random, sizes):
    """The initial network of the first fold: the first normal numbers of the generator."""
    return [
        {
            "kernel": np.float32(random.normal(size=(i, o)) * (2 / i) ** 0.5),
            "bias": np.zeros(o, np.float32),
        }
        for i, o in itertools.pairwise(sizes)
    ]


def test_a_lane_of_the_path_is_the_solver_alone():
    """One fold and decay of "tiam", against `tritia.tiam` on the same rows without padding."""
    random = np.random.default_rng(0)
    x = random.normal(size=(16, 5)).astype(np.float32)
    y = np.eye(2, dtype=np.float32)[(x[:, 0] > 0).astype(int)]
    training, validation = split(None, 16, 2, 2, np.random.RandomState(0))
    data = Data(x, y, np.ones(16, np.float32), training, validation)
    lanes = Lanes((5, 4, 2), "softmax_cross_entropy", "tiam")
    result = train_path(lanes, data, [0.1, 0.5], rounds=1, updates=1, patience=1, seed=0)
    chosen = result.mu
    params = _he(np.random.default_rng(0), (5, 4, 2))
    rows = training.rows[0, :8]
    solver = tritia.tiam(8, mu=chosen, standardize=False)
    updates, _ = jax.jit(solver.update)(
        None, solver.init(params), params, inputs=x[rows], targets=y[rows]
    )
    for layer, (start, step) in enumerate(zip(params, updates, strict=True)):
        expected = start["kernel"] + step["kernel"]
        np.testing.assert_allclose(result.params[layer]["kernel"][0], expected, atol=2e-3)


@pytest.mark.parametrize(
    "loss", ["squared_error", pytest.param("softmax_cross_entropy", marks=pytest.mark.slow)]
)
def test_a_minibatch_lane_of_the_path_is_the_solver_alone(loss):
    """A round of two updates, against heavy ball around the block step, written out."""
    random = np.random.default_rng(1)
    x = random.normal(size=(16, 5)).astype(np.float32)
    y = random.random(size=(16, 2)).astype(np.float32)
    y /= y.sum(axis=1, keepdims=True)
    y *= 20 if loss == "squared_error" else 1  # long steps, which are cut
    training, validation = split(None, 16, 2, 2, np.random.RandomState(0))
    data = Data(x, y, np.ones(16, np.float32), training, validation)
    lanes = Lanes((5, 4, 2), loss, "stochastic_tiam", batch=6, learning_rate=0.5)
    result = train_path(lanes, data, [0.1, 0.5], rounds=1, updates=2, patience=1, seed=0)
    random = np.random.default_rng(0)
    params, _ = _he(random, (5, 4, 2)), _he(random, (5, 4, 2))
    drawn = _draw(random, lanes, data.weights, training, 2)[0]
    solver = tritia.stochastic_tiam(1.0, loss=loss, rank=None, step=None)
    state, last, update = solver.init(params), params, jax.jit(solver.update)
    for rate, rows in zip([0.5, 0.25], drawn, strict=True):
        ahead = jax.tree.map(lambda u, v: u + 0.9 * (u - v), params, last)
        step, state = update(None, state, params, inputs=x[rows], targets=y[rows])
        for layer, e in zip(step, params, strict=True):
            layer["kernel"] -= result.mu / 10 * e["kernel"]
            if loss == "squared_error":
                length = np.linalg.norm(rate * layer["kernel"], axis=0)
                longest = 0.1 * np.linalg.norm(e["kernel"], axis=0)
                layer["kernel"] *= np.minimum(1, longest / length)
        last, params = params, jax.tree.map(lambda c, d, r=rate: c + r * d, ahead, step)
    for found, wanted in zip(result.params, params, strict=True):
        for name in ("kernel", "bias"):
            np.testing.assert_allclose(found[name][0], wanted[name], rtol=2e-4, atol=1e-5)


def test_a_row_of_weight_two_is_drawn_as_two_rows():
    """And one of weight 0 never; the numbers drawn are the same, so the rows are too."""
    lanes = Lanes((1, 1), "squared_error", "stochastic_tiam", batch=50)
    once = Fold(np.arange(4, dtype=np.int32)[None], np.array([4], np.int32))
    twice = Fold(np.arange(5, dtype=np.int32)[None], np.array([5], np.int32))
    weights = np.array([1, 2, 0, 2], np.float32)
    by_weight = _draw(np.random.default_rng(0), lanes, weights, once, 3)
    by_copies = _draw(np.random.default_rng(0), lanes, np.ones(5, np.float32), twice, 3)
    np.testing.assert_array_equal(by_weight, np.array([0, 1, 1, 3, 3])[by_copies])
    assert set(by_weight.ravel()) == {0, 1, 3}


@pytest.mark.parametrize(
    "solver", [pytest.param("tiam", marks=pytest.mark.slow), "stochastic_tiam"]
)
def test_rounds_share_one_program(solver):
    x, y = make_moons(20, random_state=0)
    size = _advance._cache_size()
    TiamClassifier((3,), solver=solver, random_state=0).fit(x, y)
    assert _advance._cache_size() == size + 1
