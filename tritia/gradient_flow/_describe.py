"""The properties of a scheme as a small table, and its stability region as a picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from tritia._arguments import check_static_int

if TYPE_CHECKING:
    import matplotlib.axes

    from tritia.gradient_flow._properties import Scheme


@dataclasses.dataclass(frozen=True)
class Description:
    """The properties of one scheme, as `Scheme.describe` collects them; prints as a small table.

    Attributes:
      name: the scheme's name.
      order: order of accuracy.
      error_constant: leading error coefficient; see `Scheme.error_constant`.
      stability_interval: largest stable learning rate times sharpness; see
        `Scheme.stability_interval`.
      damped_interval: the same with every mode damped by 2% a step; see `Scheme.damped_interval`.
      noise_gain: variance of a step against SGD's; see `Scheme.noise_gain`.
      memory: copies of the params in the state.
      gradients_per_step: gradients that a step costs.
      growth_limit: largest growth of the learning rate per step, infinite for Runge-Kutta methods;
        see `Scheme.growth_limit`.
    """

    name: str
    order: int
    error_constant: Fraction | float
    stability_interval: float
    damped_interval: float
    noise_gain: float
    memory: int
    gradients_per_step: int
    growth_limit: float

    def __str__(self) -> str:
        constant = f"{float(self.error_constant):.4g}"
        if isinstance(self.error_constant, Fraction) and self.error_constant.denominator < 10_000:
            constant = f"{self.error_constant} = {constant}"
        per_gradient = self.stability_interval / self.gradients_per_step
        rows = [
            ("order of accuracy", f"{self.order}"),
            ("error constant", constant),
            ("stability interval", f"{self.stability_interval:.4g}  (SGD: 2)"),
            ("  per gradient", f"{per_gradient:.4g}"),
            ("  damped by 2% a step", f"{self.damped_interval:.4g}  (SGD: 1.98)"),
            ("noise gain", f"{self.noise_gain:.4g}  (SGD: 1)"),
            ("memory", f"{self.memory} x params  (SGD: 0)"),
            ("gradients per step", f"{self.gradients_per_step}"),
        ]
        if math.isfinite(self.growth_limit):
            rows.append(("learning rate may grow", f"{self.growth_limit:.4g} x per step"))
        width = max(len(label) for label, _ in rows)
        return "\n".join([self.name, *(f"  {label:<{width}}  {value}" for label, value in rows)])

    __repr__ = __str__


def draw_stability_regions(
    schemes: Sequence[Scheme], ax: matplotlib.axes.Axes | None, resolution: int
) -> matplotlib.axes.Axes:
    """Draws the stability regions of schemes on one pair of axes; see `plot_stability_region`."""
    check_static_int("resolution", resolution, minimum=2)
    extent = 1.15 * max(scheme.stability_interval for scheme in schemes)
    half = max(0.6 * extent, 1.5)
    real = np.linspace(-extent, 0.15 * extent, resolution)
    imaginary = np.linspace(-half, half, resolution)
    z = real[None, :] + 1j * imaginary[:, None]
    amplifications = [scheme.amplification(z) for scheme in schemes]
    stable = np.any([np.any(factor <= 1, axis=1) for factor in amplifications], axis=0)
    half = max(1.3 * np.max(np.abs(imaginary[stable]), initial=0.0), 0.5)
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'plot_stability_region needs matplotlib: pip install "tritia[compare]".'
        ) from error
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for i, (scheme, factor) in enumerate(zip(schemes, amplifications, strict=True)):
        colour = colours[i % len(colours)]
        ax.contourf(real, imaginary, factor, levels=[0, 1], colors=[colour], alpha=0.15)
        ax.contour(real, imaginary, factor, levels=[1], colors=[colour], linewidths=1.5)
        ax.plot([], [], color=colour, label=scheme.name)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set(
        ylim=(-half, half),
        xlabel="learning rate x curvature, Re(hλ)",
        ylabel="Im(hλ)",
        title="Stable where the step does not amplify",
    )
    ax.legend(loc="upper left", fontsize="small")
    return ax
