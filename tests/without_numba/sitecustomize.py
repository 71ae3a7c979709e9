"""For a Python that has this folder on its path, numba is not installed."""

import sys

sys.modules["numba"] = None
