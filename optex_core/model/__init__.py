"""The surrogate of the gradient: history of observations, kernels, kriging, likelihood, estimator
and posterior.
"""
