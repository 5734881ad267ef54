"""The layer-wise step beside the optimizers that a user would pick instead, on many networks."""

import os

# OpenBLAS's threads wait for each other next to other work, and their waiting is CPU time too. The
# variable is read when SciPy is loaded, hence here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
