"""The training program: one run, many runs, and the report on them."""
