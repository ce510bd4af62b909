"""One file per kind of subject: the promises of an optimizer, a kernel, a backend, ..., each a
named check. They need Hypothesis.
"""
