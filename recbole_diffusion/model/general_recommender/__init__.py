"""General recommenders: a user is a row of the interaction matrix."""
