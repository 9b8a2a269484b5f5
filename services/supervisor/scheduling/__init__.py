"""The scheduler at work: who leads, what is asked for, and the plan carried out."""
