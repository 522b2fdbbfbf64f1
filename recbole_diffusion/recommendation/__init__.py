"""Top-k lists of a trained model; only the command and users' own code import it."""
