"""Several models as one: of one domain each, mixed by what a text turns out to be."""
