"""legion-iot: one neural network, run together by a group of small, unequal devices."""

__version__ = "0.1.0"
