"""Linen modules that own parameters. The mathematics lives in pure functions elsewhere."""
