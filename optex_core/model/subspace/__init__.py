"""Vectors as coefficients over the history: the basis, its Gram matrices, and vectors in it."""
