"""What this machine has, what of calib8 works on it, and what to do about the rest."""
