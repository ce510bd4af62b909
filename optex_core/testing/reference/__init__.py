"""Reference implementations: every formula once, plainly."""

from optex_core.testing.reference.optex import Kriging, ReferenceOptEx, reference_posterior

__all__ = ["Kriging", "ReferenceOptEx", "reference_posterior"]
