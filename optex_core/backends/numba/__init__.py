"""CPU-parallel kernels compiled by Numba."""
