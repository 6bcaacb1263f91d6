"""Studies beside the runs: of the paper's explanations, and of data sets."""
