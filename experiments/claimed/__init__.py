"""What papers claim, study by study, each beside what `experiments/results/` has of it.

recorded          reads what is recorded
scaling           experts against dense at equal FLOPs: loss, steps, seconds, data
laws              how many experts, and laws of the loss
encoder_decoder   Switch against T5
routers           routers, what keeps experts busy, capacity, precision
specialisation    what experts specialise in
abilities         tasks
upcycling         a dense model as a beginning
distillation      dense students
compression       one model made smaller
mixture_1991      the mixture of 1991, and EM
machines          times on one machine, plans
"""
