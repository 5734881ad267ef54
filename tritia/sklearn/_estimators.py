"""The estimators: what scikit-learn asks of them, around `train_path`."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from tritia._arguments import check_choice
from tritia.sklearn._folds import bucket, split
from tritia.sklearn._path import Data, Lanes, PathResult, Solver, train_path
from tritia.sklearn._plan import SOLVERS, plan_for, solver_for


class _Perceptron(BaseEstimator):
    """What classifier and regressor share."""

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100, 100),
        *,
        solver: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.solver = solver
        self.random_state = random_state

    def _fit(
        self,
        x: np.ndarray,
        targets: np.ndarray,
        classes: np.ndarray | None,
        sample_weight: np.ndarray,
        loss: str,
    ) -> None:
        """Trains on targets (n, k)."""
        hidden = _check_sizes(self.hidden_layer_sizes)
        check_choice("solver", self.solver, SOLVERS)
        used = sample_weight > 0
        if not used.all():
            x, targets, sample_weight = x[used], targets[used], sample_weight[used]
            classes = None if classes is None else classes[used]
        rows, columns = x.shape
        if rows < 2:
            raise ValueError(
                f"n_samples={rows} with a positive weight; {type(self).__name__} needs at least 2,"
                " to train on and to hold out."
            )
        self._offset, deviation = _standard(x, sample_weight)
        self._scale = _scale(deviation)
        random = check_random_state(self.random_state)
        chosen = solver_for(rows, columns) if self.solver == "auto" else self.solver
        self.solver_ = cast(Solver, chosen)
        plan = plan_for(self.solver_, rows, loss)
        training, validation = split(
            classes, rows, min(plan.folds, rows), min(plan.parts, rows), random
        )
        length = bucket(rows)

        def padded(array: np.ndarray) -> np.ndarray:
            shape = (length - rows, *array.shape[1:])
            return np.concatenate([array, np.zeros(shape)]).astype(np.float32)

        data = Data(
            padded((x - self._offset) * self._scale),
            padded(targets),
            padded(sample_weight / sample_weight.mean()),
            training,
            validation,
        )
        lanes = Lanes(
            sizes=(columns, *hidden, targets.shape[1]),
            loss=loss,
            solver=self.solver_,
            batch=plan.batch,
            learning_rate=plan.learning_rate,
        )
        result: PathResult = train_path(
            lanes,
            data,
            plan.mus,
            rounds=plan.rounds,
            updates=plan.updates,
            patience=plan.patience,
            seed=int(random.randint(np.iinfo(np.int32).max)),
        )
        if not np.isfinite(result.losses.min()):
            advice = "" if self.solver_ == "tiam" else '; solver="tiam" has no learning rate'
            raise ValueError(
                f"the loss of the validation rows is not finite at any weight decay{advice}."
            )
        self.params_ = result.params
        self.mu_ = result.mu
        self.n_iter_ = result.updates
        self.mus_ = np.array(plan.mus)
        self.validation_losses_ = result.losses

    def _outputs(self, x: Any) -> np.ndarray:
        """The outputs of the networks, (networks, n, k)."""
        check_is_fitted(self)
        x = validate_data(self, x, reset=False, dtype=np.float64)
        a = ((x - self._offset) * self._scale).astype(np.float32)[None]
        for layer in self.params_[:-1]:
            a = np.maximum(a @ layer["kernel"] + layer["bias"][:, None], 0)
        return a @ self.params_[-1]["kernel"] + self.params_[-1]["bias"][:, None]


class TiamClassifier(ClassifierMixin, _Perceptron):
    r"""A multilayer perceptron that classifies the rows of a table, with no number to tune.

    `fit` standardises the columns, trains with several weight decays on several folds as lanes of
    one computation, chooses the decay and the number of updates by the log loss of the held-out
    rows, and keeps the networks of all folds at this choice; their probabilities are averaged. The
    first `fit` of a shape compiles for some seconds; rows are padded to powers of two, so that
    tables of about the same size share it.

    Args:
      hidden_layer_sizes: the widths of the hidden layers.
      solver: "tiam" (all rows at every update), "stochastic_tiam" (minibatches), or "auto": "tiam"
        for at most 500 rows that are fewer than the columns, "stochastic_tiam" otherwise.
      random_state: of the initial networks, the folds and the minibatches; an int, a
        `numpy.random.RandomState` or None.

    Attributes:
      classes_: (k,), the labels.
      solver_: "tiam" or "stochastic_tiam": the one that `fit` has used.
      mu_: the weight decay that was chosen: `mu` of `tritia.tiam`, or for "stochastic_tiam" the
        coefficient of :math:`\frac\mu2 |W|^2` beside the mean loss.
      mus_: those that were tried.
      n_iter_: the updates that were chosen.
      validation_losses_: (rounds, mus), the loss of the held-out rows after each round of updates.
      params_: one dict for each layer: "kernel", (networks, d, k), and "bias", (networks, k).
      n_features_in_: the columns.
      feature_names_in_: their names, where `fit` has seen a DataFrame.

    Examples:
      >>> from sklearn.datasets import load_wine
      >>> from tritia.sklearn import TiamClassifier
      >>> x, y = load_wine(return_X_y=True)
      >>> model = TiamClassifier(random_state=0).fit(x[::2], y[::2])
      >>> bool(model.score(x[1::2], y[1::2]) > 0.9)
      True
      >>> model.solver_
      'stochastic_tiam'
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TiamClassifier:
        """Trains, and returns the estimator.

        Args:
          X: (n, d), numbers.
          y: (n,), labels of at least two classes: numbers or strings.
          sample_weight: (n,), >= 0; None for 1 each. Rows of weight 0 are left out.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        sample_weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        found = np.unique(labels[sample_weight > 0])
        if len(found) < 2:
            raise ValueError(
                f"y holds one class, {self.classes_[found].tolist()}, in rows of positive weight;"
                " TiamClassifier needs at least two."
            )
        one_hot = np.eye(len(self.classes_))[labels]
        self._fit(X, one_hot, labels, sample_weight, "softmax_cross_entropy")
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probability of each of `classes_`, (n, k)."""
        z = self._outputs(X).astype(float)
        z = np.exp(z - z.max(axis=-1, keepdims=True))
        return np.mean(z / z.sum(axis=-1, keepdims=True), axis=0)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable label of each row, (n,)."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]


class TiamRegressor(RegressorMixin, _Perceptron):
    r"""A multilayer perceptron that predicts numbers from the rows of a table, untuned.

    As `TiamClassifier`, with the squared error of standardised targets; the predictions of the
    networks are averaged. The slope of a squared error has no bound, so that the step of a
    minibatch, before inertia, is cut at a tenth of the norm of an output's weights
    (`optax.adaptive_grad_clip`): rows far out do not make it diverge.

    Args:
      hidden_layer_sizes: the widths of the hidden layers.
      solver: as of `TiamClassifier`.
      random_state: as of `TiamClassifier`.

    Attributes:
      solver_: as of `TiamClassifier`, as all that follow.
      mu_: the weight decay.
      mus_: those that were tried.
      n_iter_: updates.
      validation_losses_: (rounds, mus).
      params_: the networks.
      n_features_in_: the columns.
      feature_names_in_: their names.

    Examples:
      >>> import numpy as np
      >>> from tritia.sklearn import TiamRegressor
      >>> x = np.random.default_rng(0).uniform(-2, 2, (300, 2))
      >>> y = np.sin(2 * x[:, 0]) + x[:, 1] ** 2
      >>> model = TiamRegressor(random_state=0).fit(x[:200], y[:200])
      >>> bool(model.score(x[200:], y[200:]) > 0.9)
      True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TiamRegressor:
        """Trains, and returns the estimator.

        Args:
          X: (n, d), numbers.
          y: (n,) or (n, k), numbers.
          sample_weight: (n,), >= 0; None for 1 each. Rows of weight 0 are left out.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        sample_weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        self._one_output = y.ndim == 1
        targets = y.reshape(len(y), -1).astype(float)
        self._mean, self._deviation = _standard(targets, sample_weight)
        standard = (targets - self._mean) * _scale(self._deviation)
        self._fit(X, standard, None, sample_weight, "squared_error")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Returns the predictions, shaped like `y` of `fit`: (n,) or (n, k)."""
        z = self._outputs(X).astype(float).mean(axis=0) * self._deviation + self._mean
        return z[:, 0] if self._one_output else z

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _check_sizes(sizes: Any) -> tuple[int, ...]:
    """Checks the widths of the hidden layers."""
    if isinstance(sizes, str) or not isinstance(sizes, Sequence | np.ndarray):
        raise TypeError(f"hidden_layer_sizes must be a sequence of integers; got {sizes!r}.")
    for size in sizes:
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ValueError(f"hidden_layer_sizes must be integers >= 1; got {sizes!r}.")
    return tuple(map(int, sizes))


def _standard(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of each column and its standard deviation, 0 for a constant one."""
    mean = np.average(x, axis=0, weights=weights)
    centred = np.where(weights[:, None] > 0, x - mean, 0)
    largest = np.max(np.abs(centred), axis=0)  # whose square may be too large, or too small
    share = centred / np.where(largest > 0, largest, 1)
    deviation = largest * np.sqrt(np.average(share**2, axis=0, weights=weights))
    varies = deviation > 10 * np.finfo(float).eps * np.abs(mean)
    return mean, np.where(varies, deviation, 0)


def _scale(deviation: np.ndarray) -> np.ndarray:
    """Returns what scales columns to a standard deviation of 1; constant ones stay."""
    return 1 / np.where(deviation > 0, deviation, 1)
