"""Rollouts in coefficient space for optimizers whose step is affine in the gradient."""
