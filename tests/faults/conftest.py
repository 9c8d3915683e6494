"""The toy run of tests/training, to be damaged."""

from tests.training.conftest import data, programs, whole

__all__ = ["data", "programs", "whole"]
