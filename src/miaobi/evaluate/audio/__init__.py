"""Metrics of sound: what a model made, beside recordings."""
