"""Linear multistep schemes: their coefficients and properties."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import sympy
from hypothesis import assume, given

import tritia
from tritia.gradient_flow._multistep.scheme import arranged
from tritia.gradient_flow._multistep.uneven_steps import adapt_to_step_sizes

# What an independent calculation gave: a, b, order, stability interval.
PUBLISHED = {
    "Euler": (tritia.adams_bashforth_scheme(1), "1", "1", 1, 2),
    "AB2": (tritia.adams_bashforth_scheme(2), "1", "3/2 -1/2", 2, 1),
    "AB3": (tritia.adams_bashforth_scheme(3), "1", "23/12 -16/12 5/12", 3, 6 / 11),
    "AB4": (tritia.adams_bashforth_scheme(4), "1", "55/24 -59/24 37/24 -9/24", 4, 3 / 10),
    "BDF2": (tritia.bdf_scheme(2), "4/3 -1/3", "4/3 -2/3", 2, 4 / 3),
    "BDF3": (tritia.bdf_scheme(3), "18/11 -9/11 2/11", "18/11 -18/11 6/11", 3, 20 / 21),
    "Taylor": (
        tritia.derive_scheme(2, a=(None, None, "1/2"), b=(None,)),
        "3/2 -1 1/2",
        "1",
        2,
        1,
    ),
    "widest": (tritia.difference_scheme(2, 3), "1 -1/3 1/3", "4/3", 2, 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_coefficients_order_and_interval(name):
    scheme, a, b, order, interval = PUBLISHED[name]
    assert scheme.a == tuple(map(Fraction, a.split()))
    assert scheme.b == tuple(map(Fraction, b.split()))
    assert scheme.order == order
    assert scheme.stability_interval == pytest.approx(interval, rel=1e-9)


# (order, steps): stability interval, damped interval, noise gain; from a linear programme over the
# positive trigonometric polynomials that describe damping, solved apart from this library.
WIDEST = {
    (2, 3): (2.0, 1.844717, 2.0),
    (2, 4): (3.771035, 3.753025, 1.037888),
    (2, 5): (5.485790, 5.484721, 0.703978),
    (2, 6): (7.141430, 7.125191, 0.537070),
    (3, 4): (0.293720, 0.293317, 30.687867),
    (3, 5): (1.270887, 1.261652, 5.157761),
    (3, 6): (2.049094, 2.048524, 3.018180),
}


def test_every_stored_difference_scheme_is_checked():
    assert tuple(WIDEST) == tritia.DIFFERENCE_SCHEMES


@pytest.mark.parametrize(("order", "steps"), WIDEST)
def test_difference_schemes_have_the_properties_they_were_made_for(order, steps):
    scheme = tritia.difference_scheme(order, steps)
    interval, damped, gain = WIDEST[order, steps]
    assert len(scheme.b) == 1
    assert all(isinstance(x, Fraction) for x in scheme.a + scheme.b)
    assert scheme.order == order  # exact: the Taylor conditions hold in fractions
    assert scheme.parasitic_radius < 0.9
    assert scheme.stability_interval == pytest.approx(interval, abs=1e-5)
    assert scheme.damped_interval() == pytest.approx(damped, abs=1e-5)
    assert scheme.noise_gain == pytest.approx(gain, rel=1e-5)
    if steps > 3:
        assert interval - damped < 0.02  # damped right up to the end


ALL = [
    *(tritia.adams_bashforth_scheme(order) for order in range(1, 6)),
    *(tritia.bdf_scheme(order) for order in range(1, 6)),
    *(tritia.difference_scheme(*pair) for pair in tritia.DIFFERENCE_SCHEMES),
    tritia.heavy_ball_scheme("9/10"),
]
every_scheme = pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.name)


@every_scheme
def test_intervals_against_a_brute_force_scan(scheme):
    """Powers of the companion matrix stay bounded inside the interval and grow outside."""

    def growth(x):
        a = np.array([float(v) for v in scheme.a] + [0] * (scheme.steps - len(scheme.a)))
        b = np.array([float(v) for v in scheme.b] + [0] * (scheme.steps - len(scheme.b)))
        companion = np.eye(scheme.steps, k=-1)
        companion[0] = a - x * b
        with np.errstate(over="ignore", invalid="ignore"):
            power = np.linalg.matrix_power(companion, 2**16)
        return np.max(np.abs(power)) if np.all(np.isfinite(power)) else np.inf

    interval = scheme.stability_interval
    for x in np.linspace(0.02, 0.99, 12) * interval:
        assert growth(x) < 1e3
    assert growth(1.01 * interval) > 1e6
    damped = scheme.damped_interval()
    if damped:
        for x in np.linspace(0.1, damped * 0.9999, 60):
            assert np.max(np.abs(scheme.characteristic_roots(x))) <= 0.98
        assert np.max(np.abs(scheme.characteristic_roots(damped * 1.001))) > 0.98


@every_scheme
def test_noise_gain_against_a_simulated_impulse(scheme):
    weights = [float(x) for x in scheme.displacement_weights]
    impulse = np.zeros(3000)
    impulse[0] = 1
    steps = np.zeros(3000)
    for t in range(3000):
        steps[t] = sum(float(b) * impulse[t - j] for j, b in enumerate(scheme.b) if t >= j)
        steps[t] -= sum(w * steps[t - i] for i, w in enumerate(weights, 1) if t >= i)
    assert scheme.noise_gain == pytest.approx(np.sum(steps**2), rel=1e-8)


@every_scheme
def test_order_and_error_constant_against_a_series(scheme):
    """Insert w(s) = exp(s) and expand in the step size, with another library's arithmetic."""
    h = sympy.Symbol("h")

    def exact(x):
        return sympy.Rational(x.numerator, x.denominator)

    defect = sympy.exp(h)
    for j, a in enumerate(scheme.a):
        defect -= exact(a) * sympy.exp(-j * h)
    for j, b in enumerate(scheme.b):
        defect -= h * exact(b) * sympy.exp(-j * h)
    series = sympy.series(defect, h, 0, 8).removeO()
    leading = next(k for k in range(8) if series.coeff(h, k) != 0)
    assert scheme.order == leading - 1
    constant = series.coeff(h, leading) / sum(exact(b) for b in scheme.b)
    assert sympy.Rational(str(scheme.error_constant)) == constant


MEMORY = {  # past gradients of Adams, past points of the others; BDF has both
    **{f"Adams-Bashforth {p}": p - 1 for p in range(2, 6)},
    **{f"extrapolated BDF {p}": 2 * (p - 1) for p in range(2, 6)},
    **{f"difference, order {p}, {k} steps": k - 1 for p, k in WIDEST},
    "Euler (gradient descent)": 0,
    "heavy ball 0.9": 1,
}


@every_scheme
def test_the_state_keeps_no_more_than_the_scheme_reads(scheme):
    params = {"w": np.zeros(3, np.float32)}
    state = tritia.linear_multistep(0.1, scheme).init(params)
    copies = jax.tree.leaves((state.displacements, state.directions))
    assert len(copies) == MEMORY[scheme.name] == scheme.memory
    assert all(leaf.shape == (3,) for leaf in copies)


@pytest.mark.parametrize("steps", range(3, 9))
def test_the_undamped_optimum_is_known_in_closed_form(steps):
    """q(c) = (1 + T_n(c)) / const, n = k - 2: interval 2 n and noise gain 2 / n, with roots
    that touch the unit circle inside the interval."""
    n = steps - 2
    share = Fraction(2, 2 * n + 1)
    weights = [Fraction(0)] * (steps - 1)  # of past displacements
    weights[0] += 1 - share
    # -(share / 2) (w_{t-n+1} - w_{t-n-1}) is minus half the share of two displacements.
    weights[n - 1] -= share / 2
    weights[n] -= share / 2
    past = [-w for w in weights]  # the A_i
    a = [1 - past[0], *(x - y for x, y in zip(past, [*past[1:], 0], strict=True))]
    scheme = tritia.LinearMultistep(a=a, b=(2 * share,))
    assert scheme.order == 2
    assert scheme.stability_interval == pytest.approx(2 * n, rel=1e-6)
    assert scheme.noise_gain == pytest.approx(2 / n, rel=1e-9)


def test_floats_are_as_good_as_fractions():
    scheme = tritia.difference_scheme(2, 3)
    rounded = tritia.LinearMultistep(a=(1.0, -1 / 3, 1 / 3), b=(4 / 3,))
    assert rounded.order == 2
    assert float(rounded.error_constant) == pytest.approx(5 / 12)
    assert rounded.stability_interval == pytest.approx(scheme.stability_interval)


@given(st.floats(0.0, 0.99))
def test_heavy_ball_interval_is_known(momentum):
    """In steps of h / (1 - m) the heavy ball is stable up to 2 (1 + m) / (1 - m)."""
    scheme = tritia.heavy_ball_scheme(momentum)
    expected = 2 * (1 + momentum) / (1 - momentum)
    assert scheme.stability_interval == pytest.approx(expected, rel=1e-6)
    assert scheme.order == 1


@given(
    st.lists(st.fractions("-1/6", "1/3", max_denominator=12), min_size=1, max_size=2),
    st.lists(st.fractions("-1/6", "1/6", max_denominator=12), max_size=1),
)
def test_derived_schemes_are_exact_for_polynomials(free_a, free_b):
    """Two open weights of points and one of directions: exact for 1, s, s^2 and what follows."""
    try:
        scheme = tritia.derive_scheme(2, a=(None, None, *free_a), b=(None, *free_b))
    except ValueError as refused:
        message = str(refused)
        assert any(word in message for word in ("unstable", "empty", "not zero"))
    else:
        message = None
    assume(message is None)
    for degree in range(3):
        points = sum(a * Fraction(-j) ** degree for j, a in enumerate(scheme.a))
        slopes = sum(
            degree * b * Fraction(-j) ** (degree - 1) for j, b in enumerate(scheme.b) if degree
        )
        assert points + slopes == 1


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((0, 1), (2,), "stability interval is empty"),
        ((0.5, 0.4), (1,), "inconsistent: the condition sum a_j = 1 fails by -0.1"),
        ((1,), ("3/2",), "inconsistent: the condition sum b_j .* fails by 0.5"),
        ((3, -2), (-1,), "zero-unstable: .* modulus 2 > 1"),
        ((-1, 1, 1), (4,), "zero-unstable: .* a root on the unit circle is multiple"),
    ],
)
def test_useless_coefficients_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        tritia.LinearMultistep(a=a, b=b)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tritia.LinearMultistep(a=1, b=(1,)), TypeError, "a must be a sequence"),
        (lambda: tritia.LinearMultistep(a=("x",), b=(1,)), TypeError, r"a\[0\] must be a number"),
        (
            lambda: tritia.LinearMultistep(a=(math.nan,), b=(1,)),
            ValueError,
            r"a\[0\] is nan; allowed",
        ),
        (lambda: tritia.LinearMultistep(a=(1,), b=()), ValueError, "b must hold a coefficient"),
        (lambda: tritia.LinearMultistep((1,), (1,), starter="x"), TypeError, "starter"),
        (
            lambda: tritia.LinearMultistep((1,), (1,), starter=tritia.bdf_scheme(2)),
            ValueError,
            "starter reads 2 steps",
        ),
        (lambda: tritia.adams_bashforth_scheme(6), ValueError, "order is 6; allowed: 1 <= order"),
        (lambda: tritia.bdf_scheme("2"), TypeError, "order must be a Python int"),
        (lambda: tritia.difference_scheme(2, 9), ValueError, r"allowed: \(2, 3\), \(2, 4\)"),
        (lambda: tritia.heavy_ball_scheme(1.0), ValueError, "momentum is 1.0"),
        (lambda: tritia.heavy_ball_scheme("x"), TypeError, "momentum must be a number"),
        (lambda: tritia.derive_scheme(2, a=(None,), b=(1,)), ValueError, "3 coefficients"),
        (
            lambda: tritia.bdf_scheme(2).damped_interval(radius=1.5),
            ValueError,
            "radius is 1.5",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_growth_limits():
    """Adams schemes bear any growth and are cut at 2; the 3-step difference bears about 1.5."""
    assert tritia.adams_bashforth_scheme(3).growth_limit == 2.0
    limit = tritia.difference_scheme(2, 3).growth_limit
    assert limit == pytest.approx(1.5, abs=0.01)


@every_scheme
def test_past_the_growth_limit_displacements_grow(scheme):
    """Follow w' = 0 with steps that grow by a constant ratio: bounded only below the limit."""
    limit = scheme.growth_limit

    def final(ratio):
        times = np.array([0.0, *-np.cumsum(ratio ** -np.arange(1.0, scheme.steps))])
        x, free = arranged(scheme, scheme.steps)
        a = adapt_to_step_sizes(x, times, free, scheme.order)[: scheme.steps]
        past = [1.0, *[0.0] * (len(a) - 1)]
        for _ in range(3000):
            past = [float(np.dot(a, past)), *past[:-1]]
        return abs(past[0])

    assert final(0.5 + 0.5 * limit) < 100
    if limit < 2.0:
        assert final(limit * 1.02) > 1e4


def test_describe_prints_the_properties():
    scheme = tritia.bdf_scheme(3)
    description = scheme.describe()
    assert description.order == 3
    assert description.error_constant == Fraction(3, 4)
    text = str(description)
    for part in ("extrapolated BDF 3", "3/4 = 0.75", "0.9524", "4 x params"):
        assert part in text


def test_stability_region_is_drawn():
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    ax = tritia.adams_bashforth_scheme(1).plot_stability_region(tritia.bdf_scheme(2))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "Euler (gradient descent)",
        "extrapolated BDF 2",
    ]
    left, right = ax.get_xlim()
    assert left < -2 < 0 < right
    plt.close(ax.figure)
    with pytest.raises(TypeError, match="others must be schemes"):
        tritia.bdf_scheme(2).plot_stability_region("rk4")


@pytest.mark.parametrize("name", tritia.MULTISTEP_SCHEMES)
def test_named_schemes_are_those_that_the_functions_make(name):
    family, numbers = name.rstrip("0123456789"), [int(digit) for digit in name if digit.isdigit()]
    make = {
        "euler": lambda: tritia.adams_bashforth_scheme(1),
        "ab": tritia.adams_bashforth_scheme,
        "bdf": tritia.bdf_scheme,
        "difference": tritia.difference_scheme,
    }[family]
    assert tritia.MULTISTEP_SCHEMES[name] == make(*numbers)


@every_scheme
def test_amplification_is_the_growth_of_a_long_run(scheme):
    """At a complex h lambda, by iterating the recurrence on the test equation."""
    for z in (-0.4 * scheme.stability_interval, -0.3 + 0.4j, 0.2 - 0.1j):
        points, count = [1.0 + 0j] * scheme.steps, 4000
        size = 0.0
        for _ in range(count):
            new = sum(float(a) * w for a, w in zip(scheme.a, points, strict=False))
            new += z * sum(float(b) * w for b, w in zip(scheme.b, points, strict=False))
            scale = max(abs(new), 1e-300)
            size += np.log(scale)
            points = [w / scale for w in (new, *points[:-1])]
        assert np.exp(size / count) == pytest.approx(scheme.amplification(z), rel=1e-2)
