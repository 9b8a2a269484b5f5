"""Who should run where: pure decisions over a snapshot of the world."""
