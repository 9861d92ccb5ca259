"""What was made and how good it is, as JSON, on the terminal and as an HTML page; what a file is (``inspect``)."""
