"""The job side: from the job token to a command that runs on rotating credentials.

Nothing here needs more than the standard library, `broker.errors` and `broker.secret`: a job's image gets nothing installed but
this package. It knows the wire of DESIGN section 5, never the broker's code.
"""
