"""Generate with a model: a verb for every registered kind of request.

Text and images have verbs of their own (text.py, image.py); `other.py` makes the verb of
any other kind from the fields of its request.
"""
