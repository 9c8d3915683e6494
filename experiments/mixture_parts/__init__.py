"""The parts of `experiments.mixture_1991`.

vowels    epochs to the criterion of Jacobs et al. (1991), over learning rates
fitting   networks, mixtures and hierarchies in one form, and a step of EM or of Adam
held_out  test scores of all of them on tables of numbers
starts    EM, Adam and L-BFGS from the same starts
"""
