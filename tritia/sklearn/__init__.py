"""Estimators for tables, with scikit-learn's interface and no number to tune.

`TiamClassifier` and `TiamRegressor` train multilayer perceptrons with `tritia.tiam` or
`tritia.stochastic_tiam`, whichever suits the size of the table. Both standardise, choose the weight
decay and the number of updates on held-out rows, and average networks trained on different rows.
They need scikit-learn: `pip install "tritia[sklearn]"`.
"""

from tritia.sklearn._estimators import (
    TiamClassifier as TiamClassifier,
    TiamRegressor as TiamRegressor,
)
