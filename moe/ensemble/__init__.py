"""Several models as one: mixed by what a text turns out to be, or chosen among and fused."""
