"""One question each: thin programs over `moe`."""
