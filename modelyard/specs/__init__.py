"""Specs of models as documents: checked, patched, compared, written and read as TOML."""
