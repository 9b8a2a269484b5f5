"""`make bench`: what the yard costs, as ratios in one run on one machine."""
