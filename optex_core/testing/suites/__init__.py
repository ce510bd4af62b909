"""Check suites, one file per kind of subject; they need Hypothesis."""
