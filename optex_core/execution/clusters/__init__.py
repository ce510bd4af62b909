"""Executors for Dask, MPI and Ray."""
