"""Reports as one HTML file each, which opens from disk and asks the network for nothing."""
