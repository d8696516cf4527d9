"""The experiment: what the user says, made into a sweep that runs."""

from .experiment import Experiment

__all__ = ["Experiment"]
