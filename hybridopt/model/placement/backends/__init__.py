"""Ways to carry weights between where they rest and the device that computes; the file name is the name."""
