"""What surrounds calib8: standard input, the terminal's dangers, libraries that would tell, and how extras are installed."""
