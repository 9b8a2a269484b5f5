"""`yard up`: the broker and the four services as child processes in the foreground."""
