"""Life after training: a model is made into another one, without a step of training.

Every file is one idea: functions from a `banks.Trained` to another. Some first look at what the
model does with text (`observing`).
"""
