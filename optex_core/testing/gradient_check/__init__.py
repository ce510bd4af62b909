"""Check of a gradient against differences of the value."""
