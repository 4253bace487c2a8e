"""Readers of labelled examples: (location, record) pairs, in the names people gave the columns."""
