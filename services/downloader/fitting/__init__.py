"""What fits where: memory by estimate, against what each node has for models. Pure."""
