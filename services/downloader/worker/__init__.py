"""The transfer worker: a child process that fetches files, with its protocol and its parent's side."""
