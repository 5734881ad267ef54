"""High-order gradient steps and triple-inertial alternating minimisation for Optax and Flax."""

from tritia.gradient_flow import (
    DIFFERENCE_SCHEMES,
    LinearMultistep,
    adams_bashforth_scheme,
    bdf_scheme,
    damped_interval,
    derive_scheme,
    difference_scheme,
    error_constant,
    growth_limit,
    heavy_ball_scheme,
    memory,
    noise_gain,
    order,
    root_condition,
    stability_interval,
)

__version__ = "0.1.0"
