"""Loss, state, step, optimizer, checkpoints, metrics, and the one-page loop."""
