"""What optimizers with a matrix for each axis of a tensor share (Shampoo, SOAP): the cut into
tiles, their Gram statistics, and the jobs that make a matrix of a statistic, elsewhere if wanted.
"""
