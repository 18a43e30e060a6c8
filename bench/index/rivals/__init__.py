"""The programs that are measured beside haul, each in a file of its own."""
