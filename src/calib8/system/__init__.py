"""What surrounds calib8: standard input, terminals, libraries that would tell, and how extras are installed."""
