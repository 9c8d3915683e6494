"""The parts of `experiments.soak`: a kind of fault each, or a random search."""
