"""From data to ranges: one streaming pass collects statistics, observers turn them into one amax per tensor."""
