"""Runs as records: what a run was, what came of it, and tables made from that."""
