"""Sound over HTTP: fields, and answers that are sent while they are made."""
