"""The Runge-Kutta methods that have names, with where their coefficients were published."""

from __future__ import annotations

import math
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from tritia._arguments import check_choice, static_message
from tritia.gradient_flow._runge_kutta.chebyshev import ChebyshevScheme
from tritia.gradient_flow._runge_kutta.tableau import ButcherTableau

RungeKuttaScheme = ButcherTableau | ChebyshevScheme


def _fractions(text: str) -> tuple[Fraction, ...]:
    """Reads a row of rational coefficients."""
    return tuple(map(Fraction, text.split()))


EULER = ButcherTableau(
    "euler",
    a=((),),
    b=(1,),
    c=(0,),
    order=1,
    source="Euler, Institutiones calculi integralis, 1768",
)

MIDPOINT = ButcherTableau(
    "midpoint",
    a=((), _fractions("1/2")),
    b=_fractions("0 1"),
    c=_fractions("0 1/2"),
    order=2,
    b_embedded=_fractions("1 0"),
    embedded_order=1,
    source="Runge, Math. Ann. 46, 1895",
)

HEUN = ButcherTableau(
    "heun",
    a=((), _fractions("1")),
    b=_fractions("1/2 1/2"),
    c=_fractions("0 1"),
    order=2,
    b_embedded=_fractions("1 0"),
    embedded_order=1,
    source="Heun, Z. Math. Phys. 45, 1900",
)

RALSTON = ButcherTableau(
    "ralston",
    a=((), _fractions("2/3")),
    b=_fractions("1/4 3/4"),
    c=_fractions("0 2/3"),
    order=2,
    b_embedded=_fractions("1 0"),
    embedded_order=1,
    source="Ralston, Math. Comp. 16, 1962: least error bound of the methods with two stages",
)

SSP_RK3 = ButcherTableau(
    "ssp_rk3",
    a=((), _fractions("1"), _fractions("1/4 1/4")),
    b=_fractions("1/6 1/6 2/3"),
    c=_fractions("0 1 1/2"),
    order=3,
    source="Shu, Osher, J. Comput. Phys. 77, 1988: strong-stability preserving",
)

KUTTA3 = ButcherTableau(
    "kutta3",
    a=((), _fractions("1/2"), _fractions("-1 2")),
    b=_fractions("1/6 2/3 1/6"),
    c=_fractions("0 1/2 1"),
    order=3,
    source="Kutta, Z. Math. Phys. 46, 1901",
)

RK4 = ButcherTableau(
    "rk4",
    a=((), _fractions("1/2"), _fractions("0 1/2"), _fractions("0 0 1")),
    b=_fractions("1/6 1/3 1/3 1/6"),
    c=_fractions("0 1/2 1/2 1"),
    order=4,
    source="Kutta, Z. Math. Phys. 46, 1901: the classical method",
)

RK38 = ButcherTableau(
    "rk38",
    a=((), _fractions("1/3"), _fractions("-1/3 1"), _fractions("1 -1 1")),
    b=_fractions("1/8 3/8 3/8 1/8"),
    c=_fractions("0 1/3 2/3 1"),
    order=4,
    source="Kutta, Z. Math. Phys. 46, 1901: the 3/8 rule",
)

BOGACKI_SHAMPINE = ButcherTableau(
    "bogacki_shampine",
    a=((), _fractions("1/2"), _fractions("0 3/4"), _fractions("2/9 1/3 4/9")),
    b=_fractions("2/9 1/3 4/9 0"),
    c=_fractions("0 1/2 3/4 1"),
    order=3,
    b_embedded=_fractions("7/24 1/4 1/3 1/8"),
    embedded_order=2,
    source="Bogacki, Shampine, Appl. Math. Lett. 2, 1989",
)

DORMAND_PRINCE = ButcherTableau(
    "dormand_prince",
    a=(
        (),
        _fractions("1/5"),
        _fractions("3/40 9/40"),
        _fractions("44/45 -56/15 32/9"),
        _fractions("19372/6561 -25360/2187 64448/6561 -212/729"),
        _fractions("9017/3168 -355/33 46732/5247 49/176 -5103/18656"),
        _fractions("35/384 0 500/1113 125/192 -2187/6784 11/84"),
    ),
    b=_fractions("35/384 0 500/1113 125/192 -2187/6784 11/84 0"),
    c=_fractions("0 1/5 3/10 4/5 8/9 1 1"),
    order=5,
    b_embedded=_fractions("5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40"),
    embedded_order=4,
    source="Dormand, Prince, J. Comput. Appl. Math. 6, 1980: RK5(4)7M",
)


def _tsitouras() -> ButcherTableau:
    """Builds Tsitouras's pair from the digits he published, the first column from the row sums."""
    c = (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0)
    b = (
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
        0.0,
    )
    columns = (
        (),
        (),
        (0.3354806554923570,),
        (-6.359448489975075, 4.362295432869581),
        (-11.74888356406283, 7.495539342889836, -0.09249506636175525),
        (-12.92096931784711, 8.159367898576159, -0.07158497328140100, -0.02826905039406838),
    )
    a = [(), *((math.fsum((c[i], *(-x for x in columns[i]))), *columns[i]) for i in range(1, 6))]
    error = (
        -0.001780011052226,
        -0.000816434459657,
        0.007880878010262,
        -0.144711007173263,
        0.582357165452555,
        -0.458082105929187,
        1 / 66,
    )
    return ButcherTableau(
        "tsitouras",
        a=(*a, b[:6]),
        b=b,
        c=c,
        order=5,
        b_embedded=tuple(x + e for x, e in zip(b, error, strict=True)),
        embedded_order=4,
        source="Tsitouras, Comput. Math. Appl. 62, 2011: RK5(4)",
    )


TSITOURAS = _tsitouras()

TABLEAUS = MappingProxyType(
    {
        tableau.name: tableau
        for tableau in (
            EULER,
            MIDPOINT,
            HEUN,
            RALSTON,
            SSP_RK3,
            KUTTA3,
            RK4,
            RK38,
            BOGACKI_SHAMPINE,
            DORMAND_PRINCE,
            TSITOURAS,
        )
    }
)
"""Every named tableau by its name: `tritia.TABLEAUS["rk4"]`."""


def check_scheme(scheme: Any) -> RungeKuttaScheme:
    """Returns the scheme that the user built or named.

    Raises:
      TypeError: `scheme` is neither a `ButcherTableau`, a `ChebyshevScheme` nor a name.
      ValueError: the name is unknown; the message has the nearest.
    """
    if isinstance(scheme, RungeKuttaScheme):
        return scheme
    if isinstance(scheme, str):
        check_choice("scheme", scheme, TABLEAUS)
        return TABLEAUS[scheme]
    if isinstance(scheme, (jax.Array, np.ndarray)):
        raise TypeError(static_message("scheme", scheme))
    raise TypeError(
        "scheme must be a tritia.ButcherTableau, a tritia.ChebyshevScheme or the name of one of"
        f" tritia.TABLEAUS, such as 'rk4'; got {scheme!r} of type {type(scheme).__name__}."
    )
