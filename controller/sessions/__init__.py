"""The open streams of node agents: what each is to run, what it reports, and its logs on demand."""
