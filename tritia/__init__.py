r"""High-order gradient steps and triple-inertial alternating minimisation for Optax and Flax.

**Gradient flow.** Gradient descent is Euler's method on :math:`w' = -\nabla L(w)`, with the
learning rate as its time step. `difference`, `adams_bashforth`, `bdf` and `linear_multistep` are
better schemes at one gradient per step; `rk4` and the other methods of `runge_kutta`, `rkc` and
`adaptive_runge_kutta` take several. `describe`, `order`, `stability_interval`, `noise_gain` and
`memory` say what a scheme promises, `plot_stability_region` shows it, and `derive_scheme` makes
another.

**Inertia.** `triple_inertia` wraps any Optax optimizer in three extrapolations, of which heavy ball
and Nesterov are special cases; `triple_momentum` has the coefficients that are proved best for
strongly convex losses. `eval_params` gives the parameters to validate and save.

**Layer-wise training.** `tiam` trains a multilayer perceptron on the full batch by alternating
minimisation, without gradients through the network; `dlam`, `mdlam` and `bcd` are the published
methods it generalises. `stochastic_tiam` does so on minibatches, and `scale_by_input_gram` is its
weight step on its own, for gradients from anywhere. `diagnostics` says how an update went.

All of these are `optax.GradientTransformation`. `tritia.flax` takes what they need beyond a
gradient from a Flax model, `tritia.sweeps` trains with many settings and seeds as one computation,
and `check_restorable` compares a checkpoint with the optimizer that is to go on from it.
"""

from tritia._checkpoints import check_restorable as check_restorable
from tritia.alternating import (
    Diagnostics as Diagnostics,
    InputGramState as InputGramState,
    StochasticTiamState as StochasticTiamState,
    TiamState as TiamState,
    bcd as bcd,
    diagnostics as diagnostics,
    dlam as dlam,
    mdlam as mdlam,
    scale_by_input_gram as scale_by_input_gram,
    stochastic_tiam as stochastic_tiam,
    tiam as tiam,
)
from tritia.gradient_flow import (
    DIFFERENCE_SCHEMES as DIFFERENCE_SCHEMES,
    TABLEAUS as TABLEAUS,
    AdaptiveRungeKuttaState as AdaptiveRungeKuttaState,
    ButcherTableau as ButcherTableau,
    ChebyshevScheme as ChebyshevScheme,
    Description as Description,
    LinearMultistep as LinearMultistep,
    LinearMultistepState as LinearMultistepState,
    RungeKuttaState as RungeKuttaState,
    TransparentRungeKuttaState as TransparentRungeKuttaState,
    adams_bashforth as adams_bashforth,
    adams_bashforth_scheme as adams_bashforth_scheme,
    adaptive_runge_kutta as adaptive_runge_kutta,
    amplification as amplification,
    at_step_boundary as at_step_boundary,
    bdf as bdf,
    bdf_scheme as bdf_scheme,
    characteristic_roots as characteristic_roots,
    damped_interval as damped_interval,
    derive_scheme as derive_scheme,
    describe as describe,
    difference as difference,
    difference_scheme as difference_scheme,
    error_constant as error_constant,
    growth_limit as growth_limit,
    heavy_ball_scheme as heavy_ball_scheme,
    heun as heun,
    kutta3 as kutta3,
    linear_multistep as linear_multistep,
    memory as memory,
    midpoint as midpoint,
    noise_gain as noise_gain,
    order as order,
    plot_stability_region as plot_stability_region,
    ralston as ralston,
    rk4 as rk4,
    rk38 as rk38,
    rkc as rkc,
    root_condition as root_condition,
    runge_kutta as runge_kutta,
    scale_by_linear_multistep as scale_by_linear_multistep,
    shrink_limit as shrink_limit,
    ssp_rk3 as ssp_rk3,
    stability_interval as stability_interval,
)
from tritia.inertia import (
    Inertia as Inertia,
    TripleInertiaState as TripleInertiaState,
    estimate_smoothness as estimate_smoothness,
    eval_params as eval_params,
    nesterov_schedule as nesterov_schedule,
    triple_inertia as triple_inertia,
    triple_momentum as triple_momentum,
)
from tritia.layerwise import (
    LayerInputs as LayerInputs,
    MatrixAxes as MatrixAxes,
    SpectralClippingState as SpectralClippingState,
    scale_by_spectral_clipping as scale_by_spectral_clipping,
    with_layer_inputs as with_layer_inputs,
)

__version__ = "0.1.0"
