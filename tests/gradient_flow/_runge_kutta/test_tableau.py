"""Tableaus against published facts, Diffrax's copies, and each other."""

import math
from fractions import Fraction

import diffrax
import numpy as np
import pytest
import scipy.integrate

import tritia
from tritia.gradient_flow._runge_kutta import order_conditions
from tritia.gradient_flow._runge_kutta.stability_polynomial import evaluate, stable_up_to

TABLEAUS = list(tritia.TABLEAUS.values())
BY_NAME = pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda tableau: tableau.name)

HALF = Fraction(1, 2)


def test_rooted_trees_are_counted_as_in_the_literature():
    # OEIS A000081.
    counts = [len(order_conditions.rooted_trees(order)) for order in range(1, 9)]
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115]
    for order in range(1, 7):
        trees = order_conditions.rooted_trees(order)
        assert all(order_conditions.tree_order(tree) == order for tree in trees)
        # Hairer, Norsett, Wanner, II.2: the monotone labellings, n! / (sigma gamma), add to (n-1)!.
        labellings = [
            Fraction(
                math.factorial(order),
                order_conditions.symmetry(tree) * order_conditions.density(tree),
            )
            for tree in trees
        ]
        assert sum(labellings) == math.factorial(order - 1)


def test_conditions_read_as_in_textbooks():
    written = [
        order_conditions.condition(tree)
        for n in (1, 2, 3)
        for tree in order_conditions.rooted_trees(n)
    ]
    assert set(written) == {
        "sum_i b_i = 1",
        "sum_i b_i c_i = 1/2",
        "sum_i b_i c_i^2 = 1/3",
        "sum_i b_i (sum_j a_ij c_j) = 1/6",
    }


@BY_NAME
def test_stated_order_is_the_true_order(tableau):
    # Construction has checked the conditions up to the order; the next order must fail.
    assert tableau.principal_error_norm > 1e-5
    if tableau.b_embedded is not None:
        missed = [
            abs(float(order_conditions.order_defect(tree, tableau.a, tableau.b_embedded)))
            for tree in order_conditions.rooted_trees(tableau.embedded_order + 1)
        ]
        assert max(missed) > 1e-4


@BY_NAME
def test_coefficients_are_exact_where_they_are_rational(tableau):
    rows = (*tableau.a, tableau.b, tableau.c, tableau.b_embedded or ())
    exact = all(isinstance(x, Fraction) for row in rows for x in row)
    assert exact == (tableau.name != "tsitouras")
    assert tableau.source


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("midpoint", diffrax.Midpoint),
        ("heun", diffrax.Heun),
        ("ralston", diffrax.Ralston),
        ("bogacki_shampine", diffrax.Bosh3),
        ("dormand_prince", diffrax.Dopri5),
        ("tsitouras", diffrax.Tsit5),
    ],
)
def test_coefficients_agree_with_diffrax(name, solver):
    ours, theirs = tritia.TABLEAUS[name], solver.tableau
    for row, expected in zip(ours.a[1:], theirs.a_lower, strict=True):
        np.testing.assert_allclose(np.array(row, float), expected, rtol=2e-14)
    np.testing.assert_allclose(np.array(ours.b, float), theirs.b_sol, rtol=2e-14)
    np.testing.assert_allclose(np.array(ours.c[1:], float), theirs.c, rtol=2e-14)
    if name != "dormand_prince":  # Diffrax has Shampine's other embedded weights there
        error = np.array(ours.b, float) - np.array(ours.b_embedded, float)
        np.testing.assert_allclose(np.abs(error), np.abs(theirs.b_error), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "solver"),
    [("bogacki_shampine", scipy.integrate.RK23), ("dormand_prince", scipy.integrate.RK45)],
)
def test_embedded_weights_agree_with_scipy(name, solver):
    tableau = tritia.TABLEAUS[name]
    error = np.array(tableau.b_embedded, float) - np.array(tableau.b, float)
    np.testing.assert_allclose(error, solver.E, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize(
    ("name", "interval", "constant", "norm"),
    [
        # Intervals: Hairer, Wanner, Solving ODEs II, table IV.2.1 and its figure; norms: the
        # papers named in `source`.
        ("euler", 2.0, HALF, 0.5),
        ("heun", 2.0, Fraction(1, 6), math.sqrt(1 / 12**2 + 1 / 6**2)),
        ("ralston", 2.0, Fraction(1, 6), 1 / 6),
        ("kutta3", 2.5127, Fraction(1, 24), None),
        ("rk4", 2.7853, Fraction(1, 120), None),
        ("bogacki_shampine", 2.5127, Fraction(1, 24), 4.18e-2),
        ("dormand_prince", 3.3066, Fraction(1, 720) - Fraction(1, 600), 3.99e-4),
        ("tsitouras", 3.5068, None, None),
    ],
)
def test_known_properties(name, interval, constant, norm):
    tableau = tritia.TABLEAUS[name]
    assert tableau.stability_interval == pytest.approx(interval, abs=1e-4)
    if constant is not None:
        assert tableau.error_constant == constant
    if norm is not None:
        assert tableau.principal_error_norm == pytest.approx(norm, rel=3e-3)


@BY_NAME
def test_stability_polynomial_is_what_a_step_does(tableau):
    # One step on w' = z w, written out from the definition.
    z = 0.3 - 0.7j
    slopes = []
    for row in tableau.a:
        slopes.append(z * (1 + sum(float(x) * k for x, k in zip(row, slopes, strict=True))))
    step = 1 + sum(float(x) * k for x, k in zip(tableau.b, slopes, strict=True))
    reached = evaluate(tableau.stability_polynomial, np.array(z))
    np.testing.assert_allclose(reached, step, rtol=1e-14)
    p = tableau.order
    for k in range(p + 1):
        assert float(tableau.stability_polynomial[k]) == pytest.approx(1 / math.factorial(k))


@BY_NAME
def test_intervals_end_where_the_polynomial_leaves_them(tableau):
    for end, bound, start in (
        (tableau.stability_interval, 1.0, 0.0),
        (tableau.damped_interval(), 0.98, 0.1),
    ):
        inside = evaluate(tableau.stability_polynomial, -np.linspace(start, end, 10001))
        beyond = evaluate(tableau.stability_polynomial, np.array(-end * (1 + 1e-5)))
        assert np.max(np.abs(inside)) <= bound + 1e-12
        assert abs(beyond) > bound


def test_touching_the_bound_is_not_leaving_it():
    # T_4(1 + z / 16), the undamped Chebyshev polynomial, touches 1 and -1 three times on [0, 32].
    polynomial = np.polynomial.chebyshev.Chebyshev([0, 0, 0, 0, 1])
    shifted = polynomial(np.polynomial.Polynomial([1, 1 / 16]))
    assert stable_up_to(tuple(shifted.coef)) == pytest.approx(32, rel=1e-9)


def test_a_step_costs_no_gradient_that_it_does_not_use():
    costs = {tableau.name: tableau.gradients_per_step for tableau in TABLEAUS}
    assert costs["bogacki_shampine"] == 3
    assert costs["dormand_prince"] == costs["tsitouras"] == 6
    assert costs["rk4"] == 4


HEUN = {"name": "h", "a": ((), (1,)), "b": (HALF, HALF), "c": (0, 1), "order": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ((), (1, 0))}, r"h: not explicit\. Row 1 of a .* 1 coefficients .* holds 2"),
        ({"a": ((0,), (1,))}, r"not explicit\. Row 0"),
        ({"c": (0, HALF)}, r"row sum c\[1\] = sum_j a\[1\]\[j\] is missed by 1/2"),
        ({"b": (HALF, Fraction(1, 3))}, r"b misses the order-1 condition sum_i b_i = 1 by 1/6"),
        ({"b": (1, 0)}, r"b misses the order-2 condition sum_i b_i c_i = 1/2 by 1/2"),
        ({"order": 3}, r"order-3 condition .* by 1/6"),
        ({"b_embedded": (1, 0)}, r"b_embedded and embedded_order together"),
        (
            {"b_embedded": (1, 0), "embedded_order": 2},
            r"b_embedded misses the order-2 .*b_embedded_i",
        ),
        ({"b_embedded": (HALF, HALF), "embedded_order": 2}, r"estimates no error"),
        ({"b_embedded": (1,), "embedded_order": 1}, r"b_embedded has 1 rows, but b has 2"),
        ({"c": (0,)}, r"c has 1 rows, but b has 2 stages"),
        ({"b": (), "a": (), "c": ()}, r"at least one stage"),
        ({"b": (0.5, 0.5 + 1e-12)}, r"sum_i b_i = 1 by 1e-12"),
        ({"b": (0.5, math.nan)}, r"b\[1\] is nan; allowed: a finite number"),
        ({"order": 0}, r"order is 0; allowed: 1 <= order"),
    ],
)
def test_broken_tableaus_are_refused(change, message):
    tritia.ButcherTableau(**HEUN)
    with pytest.raises(ValueError, match=message):
        tritia.ButcherTableau(**{**HEUN, **change})


@pytest.mark.parametrize("change", [{"b": ("1/2", "1/2")}, {"b": (True, HALF)}, {"order": 2.0}])
def test_wrong_types_are_refused(change):
    with pytest.raises(TypeError):
        tritia.ButcherTableau(**{**HEUN, **change})


def test_a_tableau_is_frozen_and_hashable():
    rebuilt = tritia.ButcherTableau(**{**HEUN, "a": [[], [1]], "b": [0.5, 0.5]})
    assert hash(rebuilt) == hash(tritia.ButcherTableau(**{**HEUN, "b": (0.5, 0.5)}))
    with pytest.raises(AttributeError):
        rebuilt.order = 3
