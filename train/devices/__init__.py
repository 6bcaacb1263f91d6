"""Where a run computes: JAX's environment, several processes, signals."""
