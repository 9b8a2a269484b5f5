"""The library: what lies in the stores of this node. The folder is the truth; nothing is kept beside it."""
