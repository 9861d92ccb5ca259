"""What was made and how good it is: as JSON, and as tables for people."""
