"""Judging models: held-out loss and bits per byte."""
