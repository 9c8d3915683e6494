"""One question each: thin programs over `moe`.

`python -m experiments.PROGRAM` starts itself again with large arrays on large pages, see
`experiments.pages`.
"""

from experiments import pages

pages.ensure()
