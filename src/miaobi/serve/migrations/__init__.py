"""The history of the server's own tables, for Alembic: env.py runs what lies in
versions/, in order. A change of records.py brings a new file there.
"""
