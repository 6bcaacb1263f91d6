"""The environment of a run: settings of JAX, processes, signals."""
