"""One question each: thin programs over `moe`.

`python -m experiments.PROGRAM` starts itself again with large arrays on large pages, see
`experiments.pages`; and with --distributed under a parent that watches it, see
`experiments.supervisor`.
"""

from experiments import pages, supervisor

pages.ensure()
supervisor.ensure()
