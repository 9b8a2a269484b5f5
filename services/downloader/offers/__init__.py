"""What the hub offers: search results and repositories, with what is stored here and which nodes fit it."""
