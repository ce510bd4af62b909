"""One file per kind of subject: the definitions of an optimizer, a kernel, a backend, ..., each a
named check. They need Hypothesis.
"""
