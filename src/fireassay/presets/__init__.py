"""Recipes named after the paper and table that they reproduce; data, not code."""
