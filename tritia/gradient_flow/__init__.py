"""High-order gradient steps: a learning rate is a time step of the gradient flow."""

from tritia.gradient_flow.coefficients import (
    DIFFERENCE_SCHEMES,
    LinearMultistep,
    adams_bashforth_scheme,
    bdf_scheme,
    derive_scheme,
    difference_scheme,
    heavy_ball_scheme,
    root_condition,
)
from tritia.gradient_flow.promises import (
    damped_interval,
    error_constant,
    memory,
    noise_gain,
    order,
    stability_interval,
)
from tritia.gradient_flow.variable_step import growth_limit
