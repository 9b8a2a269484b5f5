"""What the monitor knows in numbers: gathered once a second, kept for a day, told to who asks."""
