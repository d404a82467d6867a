"""Weights of the PyTorch release in, and back out."""
