"""Readers of labelled examples: (place, record) pairs, in the names people gave the columns."""
