"""Scores of images and texts, and metrics of them; what search, plans and every evaluation use."""
