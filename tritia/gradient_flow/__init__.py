"""High-order gradient steps: a learning rate is a time step of the gradient flow."""

from tritia.gradient_flow._describe import Description as Description
from tritia.gradient_flow._multistep.named_schemes import (
    DIFFERENCE_SCHEMES as DIFFERENCE_SCHEMES,
    MULTISTEP_SCHEMES as MULTISTEP_SCHEMES,
    adams_bashforth_scheme as adams_bashforth_scheme,
    bdf_scheme as bdf_scheme,
    derive_scheme as derive_scheme,
    difference_scheme as difference_scheme,
    heavy_ball_scheme as heavy_ball_scheme,
)
from tritia.gradient_flow._multistep.optimizers import (
    adams_bashforth as adams_bashforth,
    bdf as bdf,
    difference as difference,
    linear_multistep as linear_multistep,
    scale_by_linear_multistep as scale_by_linear_multistep,
)
from tritia.gradient_flow._multistep.scheme import LinearMultistep as LinearMultistep
from tritia.gradient_flow._multistep.transform import LinearMultistepState as LinearMultistepState
from tritia.gradient_flow._properties import Scheme as Scheme
from tritia.gradient_flow._runge_kutta.adaptive_step import (
    AdaptiveRungeKuttaState as AdaptiveRungeKuttaState,
    adaptive_runge_kutta as adaptive_runge_kutta,
)
from tritia.gradient_flow._runge_kutta.chebyshev import ChebyshevScheme as ChebyshevScheme
from tritia.gradient_flow._runge_kutta.fixed_step import (
    RungeKuttaState as RungeKuttaState,
    TransparentRungeKuttaState as TransparentRungeKuttaState,
    runge_kutta as runge_kutta,
)
from tritia.gradient_flow._runge_kutta.named_tableaus import TABLEAUS as TABLEAUS
from tritia.gradient_flow._runge_kutta.optimizers import (
    heun as heun,
    midpoint as midpoint,
    rk4 as rk4,
    rkc as rkc,
)
from tritia.gradient_flow._runge_kutta.step_boundary import at_step_boundary as at_step_boundary
from tritia.gradient_flow._runge_kutta.tableau import ButcherTableau as ButcherTableau
