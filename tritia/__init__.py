"""High-order gradient steps and triple-inertial alternating minimisation for Optax and Flax."""

from tritia.gradient_flow import (
    DIFFERENCE_SCHEMES as DIFFERENCE_SCHEMES,
    LinearMultistep as LinearMultistep,
    adams_bashforth_scheme as adams_bashforth_scheme,
    bdf_scheme as bdf_scheme,
    damped_interval as damped_interval,
    derive_scheme as derive_scheme,
    difference_scheme as difference_scheme,
    error_constant as error_constant,
    growth_limit as growth_limit,
    heavy_ball_scheme as heavy_ball_scheme,
    memory as memory,
    noise_gain as noise_gain,
    order as order,
    root_condition as root_condition,
    stability_interval as stability_interval,
)
from tritia.inertia import (
    TripleInertiaState as TripleInertiaState,
    estimate_smoothness as estimate_smoothness,
    eval_params as eval_params,
    nesterov_schedule as nesterov_schedule,
    triple_inertia as triple_inertia,
    triple_momentum as triple_momentum,
)

__version__ = "0.1.0"
