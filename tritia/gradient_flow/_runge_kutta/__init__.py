"""Runge-Kutta methods: tableaus and Chebyshev schemes, steps of fixed size and adaptive ones."""
