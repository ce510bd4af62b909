"""What stands between user code and the engine: callables in many forms become one objective."""
