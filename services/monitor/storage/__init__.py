"""What is kept, for how long, and giving it up."""
