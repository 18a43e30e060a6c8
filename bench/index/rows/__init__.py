"""The rows of the comparison, each in a file of its own: a function that measures and returns runs."""
