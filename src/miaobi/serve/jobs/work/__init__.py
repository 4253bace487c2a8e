"""What is done in processes of their own: one file a kind of job, listed in the
registry. `python -m miaobi.serve.jobs.work` is the process.
"""
