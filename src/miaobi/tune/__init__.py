"""Pretrained models as objectives: bases, labelled examples, task heads, adapters and freezing."""
