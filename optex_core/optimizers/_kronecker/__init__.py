"""Parts of optimizers with a matrix for each axis of a tensor (Shampoo, SOAP).

The cut into tiles, their Gram statistics, and the jobs that make a matrix of a statistic, elsewhere
if wanted.
"""
