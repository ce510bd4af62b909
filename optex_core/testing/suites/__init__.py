"""Check suites, one file per kind of subject: an optimizer, a kernel, a backend, ... They need
Hypothesis.
"""
