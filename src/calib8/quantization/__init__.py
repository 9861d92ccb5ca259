"""Deciding what is done to each weighted op and doing it: by ranges, by data, under a budget, by a cache."""
