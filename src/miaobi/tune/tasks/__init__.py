"""One file a task: its columns, its head, its loss, its figures (the contract is in
tune/learner.py).
"""
