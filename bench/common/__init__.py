"""What the comparisons share: processes and what they cost, raw data, goals, pages, set-up."""
