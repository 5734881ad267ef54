import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tritia.inertia import extrapolate, over_relax

ITERATE = {"w": jnp.array([2.0, 1.0]), "b": jnp.array(1.5)}


def test_formulas_by_hand():
    point = extrapolate(ITERATE, {"w": jnp.array([1.0, -1.0]), "b": jnp.array(1.0)}, 0.5)
    np.testing.assert_array_equal(point["w"], [2.5, 0.5])
    np.testing.assert_array_equal(point["b"], 2.0)
    stepped = {"w": jnp.array([3.0, 0.0]), "b": jnp.array(1.5)}
    corrected = over_relax(stepped, ITERATE, 0.5)
    np.testing.assert_array_equal(corrected["w"], [3.5, -0.5])
    np.testing.assert_array_equal(corrected["b"], 1.5)


def test_correction_is_projected():
    stepped = {"w": jnp.array([3.0, 0.0]), "b": jnp.array(1.5)}
    corrected = over_relax(stepped, ITERATE, 0.5, optax.projections.projection_non_negative)
    np.testing.assert_array_equal(corrected["w"], [3.5, 0.0])


def test_a_block_solver_with_nesterov_coefficients_is_the_textbook_method():
    curvature, rate, m = jnp.array([4.0, 1.0]), 0.2, 0.7
    u = u_previous = jnp.array([1.0, -2.0])
    x = y = np.array([1.0, -2.0])
    for _ in range(10):
        c = e = extrapolate(u, u - u_previous, m)
        u_previous, u = u, over_relax(c - rate * curvature * e, u, 0.0)
        x_next = y - rate * np.array([4.0, 1.0]) * y
        x, y = x_next, x_next + m * (x_next - x)
        np.testing.assert_allclose(u, x, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.complex64])
@pytest.mark.parametrize("coefficient", [0.5, jnp.array(0.5), jnp.array(0.5, jnp.bfloat16)])
def test_result_has_the_dtype_of_the_point(dtype, coefficient):
    tree = {"a": jnp.ones(2, dtype), "none": None, "empty": {}, "scalar": jnp.ones((), dtype)}
    for function in (extrapolate, over_relax):
        result = function(tree, tree, coefficient)
        assert jax.tree.structure(result) == jax.tree.structure(tree)
        assert all(x.dtype == dtype and not x.weak_type for x in jax.tree.leaves(result))


def test_bfloat16_does_not_round_the_coefficient():
    # 0.998 rounds to 1 in bfloat16, and 512 - 0.998 * 512 = 1.024 must not be 0.
    point = jnp.array(512.0, jnp.bfloat16)
    result = extrapolate(point, -point, 0.998)
    np.testing.assert_allclose(result.astype(jnp.float32), 1.024, rtol=1e-2)


def test_float64_leaves_keep_their_precision_and_float32_leaves_their_width(x64):
    tree = {"wide": jnp.array(1.0, jnp.float64), "narrow": jnp.array(1.0, jnp.float32)}
    result = extrapolate(tree, tree, jnp.array(1e-12, jnp.float64))
    assert float(result["wide"]) == 1.0 + 1e-12
    assert result["narrow"].dtype == jnp.float32
