"""Sound as data: recordings, and texts as they are spoken."""
