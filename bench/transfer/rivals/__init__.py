"""The programs beside haul, each started and used as its authors advise."""
