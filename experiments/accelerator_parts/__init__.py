"""The parts of `experiments.accelerator`, each a list of cells; only `training` reads data.

conformance  every dispatcher against a product in float64, group by group
layers       one MoE layer, forward and backward, beside dense
steps        whole training steps: tokens a second and model FLOPs utilization
training     runs of configs/scaling.py:gpu, for the time that is left
"""
