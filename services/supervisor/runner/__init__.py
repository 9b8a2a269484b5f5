"""The runner: one small process that owns one engine process, so that no supervisor's death costs a model."""
