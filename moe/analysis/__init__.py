"""What the numbers say: paired comparisons, tables, plots."""
