"""Reference implementations: every formula once, plainly."""

from optex_core.testing.reference.kriging import Kriging, reference_posterior
from optex_core.testing.reference.optex import ReferenceOptEx

__all__ = ["Kriging", "ReferenceOptEx", "reference_posterior"]
