"""Judging models: held-out loss, paired statistics."""
