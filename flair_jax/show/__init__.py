"""Attention maps and what draws them, as files and as a web page."""
