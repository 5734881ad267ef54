"""TIAM on all rows: the objective, a pass over its blocks, the safeguard and the solver."""
