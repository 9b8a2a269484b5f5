"""The bytes of one file, from the hub or from peers to the disk: resumable, retried and hashed."""
