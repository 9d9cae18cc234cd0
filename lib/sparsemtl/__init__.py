"""Sparse multitask learning: scores, masks, proximal steps and removal of channels, for any torch network."""

__version__ = "0.2.0"
