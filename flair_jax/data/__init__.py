"""Text, pictures and data sets."""
