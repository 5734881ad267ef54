r"""High-order gradient steps and triple-inertial alternating minimisation for Optax and Flax.

**Gradient flow.** Gradient descent is Euler's method on :math:`w' = -\nabla L(w)`, with the
learning rate as its time step. `difference`, `adams_bashforth`, `bdf` and `linear_multistep` are
better schemes at one gradient per step; `rk4` and the other methods of `runge_kutta`, `rkc` and
`adaptive_runge_kutta` take several. Every `Scheme` knows its properties, such as its order and
`stability_interval`: `describe()` prints them, `plot_stability_region()` draws them.
`derive_scheme` makes further schemes.

**Inertia.** `triple_inertia` wraps any Optax optimizer in three extrapolations, of which heavy ball
and Nesterov are special cases; `triple_momentum` has the coefficients that are proved best for
strongly convex losses. `eval_params` gives the parameters to validate and save.

**Layer-wise training.** `tiam` trains a multilayer perceptron on the full batch by alternating
minimisation, without gradients through the network; `dlam`, `mdlam` and `bcd` are the published
methods it generalises. `stochastic_tiam` does so on minibatches. `tiam_diagnostics` and
`tiam_network_loss` report how an update went; `params_for_inputs` starts from inputs of any scale.

**Steps by layer, for any model.** `spectral_momentum` trains every kernel, of dense layers,
convolutions and attention alike, by a step of fixed size whose leading singular values are clipped.
Its parts stand alone: `scale_by_input_gram` preconditions gradients by what went into their layers,
which `with_layer_inputs` makes any loss return; `scale_by_spectral_clipping` clips and normalises;
`scale_by_newton_schulz` makes all singular values alike;
`polyak_average` averages the iterates.

All of these are `optax.GradientTransformation`. `tritia.flax` takes what they need beyond a
gradient from a Flax model, `tritia.sweeps` trains with many settings and seeds as one computation,
and `check_restorable` compares a checkpoint with the optimizer that is to go on from it.
"""

from tritia._checkpoints import check_restorable as check_restorable
from tritia.alternating import (
    Diagnostics as Diagnostics,
    SpectralStep as SpectralStep,
    SpectralStepState as SpectralStepState,
    StochasticTiamState as StochasticTiamState,
    TiamState as TiamState,
    bcd as bcd,
    dlam as dlam,
    mdlam as mdlam,
    params_for_inputs as params_for_inputs,
    stochastic_tiam as stochastic_tiam,
    tiam as tiam,
    tiam_diagnostics as tiam_diagnostics,
    tiam_network_loss as tiam_network_loss,
)
from tritia.gradient_flow import (
    DIFFERENCE_SCHEMES as DIFFERENCE_SCHEMES,
    MULTISTEP_SCHEMES as MULTISTEP_SCHEMES,
    TABLEAUS as TABLEAUS,
    AdaptiveRungeKuttaState as AdaptiveRungeKuttaState,
    ButcherTableau as ButcherTableau,
    ChebyshevScheme as ChebyshevScheme,
    Description as Description,
    LinearMultistep as LinearMultistep,
    LinearMultistepState as LinearMultistepState,
    RungeKuttaState as RungeKuttaState,
    Scheme as Scheme,
    TransparentRungeKuttaState as TransparentRungeKuttaState,
    adams_bashforth as adams_bashforth,
    adams_bashforth_scheme as adams_bashforth_scheme,
    adaptive_runge_kutta as adaptive_runge_kutta,
    at_step_boundary as at_step_boundary,
    bdf as bdf,
    bdf_scheme as bdf_scheme,
    derive_scheme as derive_scheme,
    difference as difference,
    difference_scheme as difference_scheme,
    heavy_ball_scheme as heavy_ball_scheme,
    heun as heun,
    linear_multistep as linear_multistep,
    midpoint as midpoint,
    rk4 as rk4,
    rkc as rkc,
    runge_kutta as runge_kutta,
    scale_by_linear_multistep as scale_by_linear_multistep,
)
from tritia.inertia import (
    Inertia as Inertia,
    PolyakAverageState as PolyakAverageState,
    TripleInertiaState as TripleInertiaState,
    estimate_smoothness as estimate_smoothness,
    eval_params as eval_params,
    growing_decay as growing_decay,
    nesterov_schedule as nesterov_schedule,
    polyak_average as polyak_average,
    triple_inertia as triple_inertia,
    triple_momentum as triple_momentum,
)
from tritia.layerwise import (
    InputGramState as InputGramState,
    LayerInputs as LayerInputs,
    MatrixAxes as MatrixAxes,
    SpectralClippingState as SpectralClippingState,
    layer_axes as layer_axes,
    partition_matrices as partition_matrices,
    scale_by_input_gram as scale_by_input_gram,
    scale_by_newton_schulz as scale_by_newton_schulz,
    scale_by_spectral_clipping as scale_by_spectral_clipping,
    spectral_momentum as spectral_momentum,
    with_layer_inputs as with_layer_inputs,
)

__version__ = "0.1.0"
