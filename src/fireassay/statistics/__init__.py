"""The statistics behind every verdict: survival, comparisons on dependent frames, many comparisons at once."""
