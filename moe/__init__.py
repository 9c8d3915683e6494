"""Mixture-of-Experts research in JAX: what do experts buy at equal FLOPs?

The map
-------
routing/     who goes where: logits (or ids) -> an assignment, a tally of what happened
dispatch/    how tokens travel to the experts and back
layers/      Linen modules that own parameters: attention, feed-forward, experts, MoE
models/      whole networks built from the layers
compat.py    what differs between versions of JAX
config.py    frozen dataclasses that validate themselves
sharding.py  the device mesh and the one table of PartitionSpecs
counting.py  FLOPs of a jaxpr, by part of the model
flops.py     ideal and executed FLOPs, parameters, energy, the equal-FLOPs matcher
data/        packaged corpora, tokenizer, packing, batches
training/    state, step, loop, optimizer, checkpoints, metrics
evaluation/  loss and bits per byte on held-out text
analysis/    paired statistics, tables, figures

The letters
-----------
Array names end in their shape, einsum strings use the same letters, and no letter
ever means two things:

    B  sequences in the batch           G  groups of tokens routed together
    T  positions in a sequence          S  tokens per group
    D  model width                      E  experts
    N  attention heads                  K  experts chosen per token
    H  width of one head                C  slots per expert (capacity)
    F  hidden width of a feed-forward   V  vocabulary
    L  layers                           M  slots of a group, E * C
    U  positions attended to            P  (token, choice) pairs of a group, S * K
    R  rows of a held-out split

A lower-case letter is the part of that axis that one device holds.
"""
