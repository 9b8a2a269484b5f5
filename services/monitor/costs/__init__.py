"""What models cost: prices with their validity, and the arithmetic on them."""
